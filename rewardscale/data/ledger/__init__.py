"""The ledger: the append-only store of all verdicts on a corpus."""
