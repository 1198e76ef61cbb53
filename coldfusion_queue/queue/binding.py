"""What a task is about, for its log records and spans."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from celery.signals import task_postrun, task_prerun

from coldfusion_queue.log_ids import bind
from coldfusion_queue.names import contribution_id
from coldfusion_queue.tracing import begin_anew

__all__ = ["bind_tasks", "task_ids"]

#: Arguments of the tasks, and what they are called in logs and traces.
_NAMES = {
    "repository": "repository",
    "submission_id": "submission",
    "turn": "turn",
    "evaluation_id": "evaluation",
    "attempt": "attempt",
}


def bind_tasks() -> None:
    """Bind the ids of each task that a child of this worker runs, for as long as it runs.

    Call it before tracing starts, or the first span of a task would have no ids.
    """
    task_prerun.connect(_begin, weak=False)
    task_postrun.connect(_end, weak=False)


def _begin(
    task_id: str, task: Any, args: Sequence[object], kwargs: Mapping[str, object], **_: object
) -> None:
    begin_anew()  # a message that could not be sent leaves its span open
    bind({"task": task_id, **task_ids(task.run, args, kwargs)})


def _end(**_: object) -> None:
    bind({})


def task_ids(run: Any, args: Sequence[object], kwargs: Mapping[str, object]) -> dict[str, object]:
    """Ids among the arguments of a task; none if they do not fit it, which it will say itself."""
    try:
        given = inspect.signature(run).bind(*args, **kwargs).arguments
    except TypeError:
        return {}
    ids = {_NAMES[name]: value for name, value in given.items() if name in _NAMES}
    submission, turn = ids.get("submission"), ids.get("turn")
    if isinstance(submission, str) and isinstance(turn, int):
        ids["contribution"] = contribution_id(submission, turn)
    return ids
