"""Synthetic radiographs whose truth is known by construction: made to test machines, not to teach."""
