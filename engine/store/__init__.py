"""What lies on disk: table schemas, atomic files, the ledger of a folder, its lease and audit log, labels.

In: tables, counts and facts of a run. Out: folders in which every planned input ends exactly once, whatever
is killed when (``ledger``), and the proof of it (``verification``).
"""
