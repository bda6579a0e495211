"""Hostile inputs, situations and requests: one generator a kind, over all that the kind can meet.

A module is named after its kind. Bounds are asserted in the child that does the work (rlimit, deadline).
"""
