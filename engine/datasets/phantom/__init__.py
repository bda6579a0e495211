"""Radiographs that are drawn: hands and knees of invented children, and faults.

``maturity`` is the rule of bone age, ``bones`` and ``knee`` the shapes, ``hand`` the exposure,
``hand_visits`` and ``knee_visits`` who comes, ``archive`` the writer, ``faults`` the unusable files.
"""
