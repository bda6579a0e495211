"""Synthetic radiographs whose truth is known by construction. Not anatomy: made to test machines, not to teach."""
