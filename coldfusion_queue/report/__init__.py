"""What people are shown of a repository: a page about its history, and a card beside its models.

``gather`` reads the records into plain ``data``, with ``scores`` for evaluations; ``summaries``
counts. ``markup`` escapes, ``charts`` and ``lineage`` draw, ``tables`` and ``page`` put it together
as one file. ``card`` is apart from that: the README of a pulled model.
"""

from __future__ import annotations
