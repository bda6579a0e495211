"""Tests of one room; see `engine/`."""
