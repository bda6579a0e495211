"""Radiographs that are drawn: hands and knees of invented children, and faults.

``maturity`` is the rule of bone age, ``bones`` and ``knee`` the shapes, ``hand`` the exposure,
``visits`` who comes, ``archive`` the writer, ``faults`` the unusable files.
"""
