"""What an error is and where it happened, without its text: for logs that must hold no data.

The text of an error that is not ours may quote the value that it stumbled over, and a traceback
shows that text.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from pathlib import Path

__all__ = ["outline"]

_ROOT = Path(__file__).parents[1]
_OURS = (_ROOT / "coldfusion_queue", _ROOT / "workers")
_NUM_PLACES = 5


def outline(error: BaseException) -> str:
    """Classes of an error and of what caused it, and the places in this program.

    ``ValueError at coldfusion_queue/turn.py:90, coldfusion_queue/queue/turns.py:133``; the
    innermost place first, five at most. Places in libraries are left out.
    """
    return ", after ".join(_outline(item) for item in _chain(error))


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        yield found
        seen.add(id(found))
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)


def _outline(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    places = [
        f"{Path(frame.filename).relative_to(_ROOT)}:{frame.lineno}"
        for frame in reversed(frames)
        if any(Path(frame.filename).is_relative_to(room) for room in _OURS)
    ]
    return f"{type(error).__name__} at {', '.join(places[:_NUM_PLACES]) or 'an unknown place'}"
