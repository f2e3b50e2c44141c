"""Random checkpoints of stock families, saved by transformers' classes, and what transformers makes of them.

`python -m stock.draw` in `reference/` is the door. A family and a seed determine everything: shapes
(`shapes.py`), tokenizer and template (`tokens.py`), weights (`weights.py`), spelling and layout of the files
(`checkpoint.py`), pictures (`pictures.py`) and conversations (`conversations.py`). `golden.py` asks
transformers about each conversation.
"""
