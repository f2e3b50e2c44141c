"""ARR-Ledger: pages full of small things, and questions that one place on the page answers, or that none does.

Strings are random, so that no language prior can guess them: what is answered right has been read. `page.py` draws a page and
knows where everything on it is, `questions.py` asks about it, `labels.py` says what each patch shows (for training only).

Letters in shape comments: P patches, N items of a page.
"""

from .imagine import imagine
from .labels import PatchLabels, patch_labels
from .page import COLOURS, LETTERS, SHAPES, SIZE, Item, Kind, Page, PageSpec, draw_page
from .questions import ONE_PLACE, Question, Topic, ask, vocabulary_sentences

__all__ = [
    "COLOURS", "Item", "Kind", "LETTERS", "ONE_PLACE", "Page", "PageSpec", "PatchLabels", "Question",
    "SHAPES", "SIZE", "Topic", "ask", "draw_page", "imagine", "patch_labels", "vocabulary_sentences",
]  # fmt: skip
