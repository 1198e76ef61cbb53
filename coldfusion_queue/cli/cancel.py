"""``coldfusion cancel``: end a submission."""

from __future__ import annotations

import click

from coldfusion_queue.cli.common import open_repository
from coldfusion_queue.errors import NotFoundError
from coldfusion_queue.names import is_id

__all__ = ["cancel"]


@click.command()
@click.argument("submission")
def cancel(submission: str) -> None:
    """Ask for no further turns of SUBMISSION.

    A running turn stops within seconds; what was contributed stays.
    """
    if not is_id(submission):
        raise NotFoundError("submission", submission, "'coldfusion status' lists them")
    _, repository = open_repository()
    record = repository.submissions.get(submission)
    status = repository.submissions.status(record)
    if status.next_turn is None:
        click.echo(f"{submission} is {status.state} already, nothing to cancel")
        return
    repository.submissions.cancel(submission)
    repository.submissions.close(submission)
    click.echo(f"{submission} cancelled after {status.committed_turns} committed turns")
