"""What lies on disk: table schemas, atomic files, the ledger of a run, its lease, and the check of both."""
