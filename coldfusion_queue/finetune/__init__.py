"""Finetuning of one contribution: a shared body and the dataset's own head.

``run`` is the whole of it; ``model`` is the split into body and head, ``batches`` the data as the
model sees it, ``training`` the loop, ``files`` what goes to and comes from disk. Nothing here
knows Redis, Celery or the store.
"""

from __future__ import annotations
