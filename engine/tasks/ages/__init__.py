"""Skeletal age: the kind of answer that hand-age and knee-age share."""
