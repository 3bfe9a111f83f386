"""The ledger port and its adapters; ``open_ledger`` chooses by URL scheme."""
