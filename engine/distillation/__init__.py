"""How a student learns from a teacher.

In: outputs of both for one batch. Out: one weighted loss (``weighted_terms``) of the functions in
``terms``, one file a family of papers. A teacher's outputs can be recorded once and read back
(``teacher_cache``, ``cached_teacher``).
"""
