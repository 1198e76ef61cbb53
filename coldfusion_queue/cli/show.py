"""``coldfusion show``: one base version, contribution or submission."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from coldfusion_queue.cli.common import (
    as_data,
    console,
    flatten,
    json_option,
    open_repository,
    print_json,
)
from coldfusion_queue.errors import NotFoundError
from coldfusion_queue.names import is_id

if TYPE_CHECKING:
    from coldfusion_queue.repository.repository import Repository

__all__ = ["show"]


@click.command()
@click.argument("what", metavar="VERSION|CONTRIBUTION|SUBMISSION")
@json_option
def show(what: str, as_json: bool) -> None:
    """Show a base version by number, or a contribution or submission by id."""
    _, repository = open_repository()
    data = _find(repository, what)
    if as_json:
        print_json(data)
        return
    terminal = console()
    for name, value in flatten(data):
        if isinstance(value, list) and value and isinstance(value[0], dict):
            terminal.print(f"[bold]{name}[/bold]")
            for item in value:
                terminal.print("  " + "  ".join(f"{key}={text}" for key, text in item.items()))
        else:
            terminal.print(f"[bold]{name}[/bold]  {value}")


def _find(repository: Repository, what: str) -> dict[str, Any]:
    if what.isdecimal():
        return as_data(repository.ledger.base_version(int(what)))
    submission = repository.submissions.find(what) if is_id(what) else None
    if submission is not None:
        status = repository.submissions.status(submission)
        return {
            **as_data(submission),
            "state": status.state.value,
            "committed_turns": status.committed_turns,
            "failure": as_data(status.failure) if status.failure else None,
        }
    contribution = repository.contributions.find(what) if is_id(what) else None
    if contribution is not None:
        decision = repository.contributions.decision(what)
        return {
            **as_data(contribution),
            "decision": as_data(decision) if decision else "pending",
        }
    remedy = "'coldfusion status' and 'coldfusion history' list what there is"
    raise NotFoundError("version, contribution or submission", what, remedy)
