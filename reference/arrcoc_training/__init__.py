"""Training of the reference checkpoint on ARR-Ledger: see train.py and configs/train/."""
