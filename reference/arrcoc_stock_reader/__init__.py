"""A small stock `qwen3_vl` checkpoint that reads ARR-Ledger, trained with all of its visual tokens: see
`train_stock.py`, which is the door, and docs/stock-reader.md."""
