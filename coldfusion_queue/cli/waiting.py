"""Waiting for a submission, with a progress bar fed by the training itself."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from coldfusion_queue.cli.common import as_data, console, print_json
from coldfusion_queue.errors import SubmissionFailedError
from coldfusion_queue.names import contribution_id

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from coldfusion_queue.queue.progress import ProgressReport
    from coldfusion_queue.records import Decision, Submission
    from coldfusion_queue.repository.repository import Repository
    from coldfusion_queue.settings import Settings

__all__ = ["wait_for"]

_POLL_SECONDS = 0.5


def wait_for(
    settings: Settings,
    repository: Repository,
    submission: Submission,
    *,
    until: str,
    as_json: bool,
) -> None:
    """Wait until a submission's contributions are committed, or its last one is decided.

    Ctrl-C ends the waiting, not the submission.

    Raises:
        SubmissionFailedError: a turn failed, or the last contribution was refused.
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[detail]}"),
        TimeElapsedColumn(),
    )
    try:
        with Progress(*columns, console=console(stderr=True), disable=as_json) as progress:
            bar = progress.add_task("queued", total=1.0, detail="")
            _wait_committed(settings, repository, submission, progress, bar)
            decision = (
                _wait_decided(repository, submission, progress, bar) if until == "fused" else None
            )
    except KeyboardInterrupt:
        click.echo(
            f"still running; 'coldfusion status' shows it, 'coldfusion cancel "
            f"{submission.submission_id}' ends it",
            err=True,
        )
        raise
    _finish(repository, submission, decision, as_json=as_json)


def _wait_committed(
    settings: Settings,
    repository: Repository,
    submission: Submission,
    progress: Progress,
    bar: TaskID,
) -> None:
    import redis

    from coldfusion_queue.keys import RedisKeys
    from coldfusion_queue.queue.connection import connect_redis
    from coldfusion_queue.queue.progress import read_progress

    client = connect_redis(settings)
    while True:
        status = repository.submissions.status(submission)
        if status.failure is not None:
            turn, reason = status.failure.turn, status.failure.reason
            raise SubmissionFailedError(submission.submission_id, turn, reason)
        if status.next_turn is None:
            progress.update(bar, completed=1.0, description=str(status.state))
            return
        with suppress(redis.RedisError):
            report = read_progress(client, RedisKeys(repository.name), submission.submission_id)
            if report is not None and report.turn == status.next_turn:
                _draw(progress, bar, report, submission.turns or 1)
        time.sleep(_POLL_SECONDS)


def _draw(progress: Progress, bar: TaskID, report: ProgressReport, turns: int) -> None:
    share = report.step / report.num_steps if report.num_steps else 0.0
    if report.phase == "uploading":
        share = 1.0
    numbers = []
    if report.loss is not None and report.examples_per_second is not None:
        numbers = [
            f"step {report.step}/{report.num_steps}",
            f"loss {report.loss:.3f}",
            f"{report.examples_per_second:.0f} examples/s",
            f"{(report.memory_bytes or 0) / 2**30:.1f} GiB",
        ]
    progress.update(
        bar,
        completed=(report.turn - 1 + share) / turns,
        description=f"turn {report.turn}/{turns} {report.phase} base {report.base_version}",
        detail="  ".join(numbers),
    )


def _wait_decided(
    repository: Repository, submission: Submission, progress: Progress, bar: TaskID
) -> Decision | None:
    status = repository.submissions.status(submission)
    if status.committed_turns == 0:
        return None
    name = contribution_id(submission.submission_id, status.committed_turns)
    progress.update(bar, description="waiting for the next fusion")
    while (decision := repository.contributions.decision(name)) is None:
        time.sleep(_POLL_SECONDS)
    progress.update(bar, description=str(decision.outcome))
    return decision


def _finish(
    repository: Repository, submission: Submission, decision: Decision | None, *, as_json: bool
) -> None:
    status = repository.submissions.status(submission)
    if decision is not None and decision.version is None:
        raise SubmissionFailedError(
            submission.submission_id,
            status.committed_turns,
            f"{decision.outcome}: {decision.reason}",
        )
    if as_json:
        print_json(
            {
                "submission": submission.submission_id,
                "state": status.state.value,
                "committed_turns": status.committed_turns,
                "decision": as_data(decision) if decision else None,
            }
        )
        return
    outcome = f", {decision.reason}" if decision else ""
    turns = f"{status.committed_turns} contribution(s)"
    click.echo(f"{submission.submission_id} {status.state}: {turns}{outcome}")
