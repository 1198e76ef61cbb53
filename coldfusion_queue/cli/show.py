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

#: Fields of the policy that bound what is fused; ``repository.judging`` explains them.
_LIMITS = ("max_relative_norm", "max_norm_z", "min_cosine", "max_copy_cosine")


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
        return {**as_data(contribution), **_judgement(repository, what)}
    remedy = "'coldfusion status' and 'coldfusion history' list what there is"
    raise NotFoundError("version, contribution or submission", what, remedy)


def _judgement(repository: Repository, contribution_id: str) -> dict[str, Any]:
    """What was found about a contribution, what holds for it, and what became of it."""
    inspection = repository.contributions.inspection(contribution_id)
    override = repository.contributions.override(contribution_id)
    decision = repository.contributions.decision(contribution_id)
    policy = repository.ledger.newest().after.policy
    found = None
    if inspection is not None:
        found = as_data(inspection) | {"relative_norm": inspection.relative_norm}
        found.pop("sketch")  # thousands of numbers that tell people nothing
    return {
        "inspection": found or "not yet",
        "limits": {name: getattr(policy, name) for name in _LIMITS},
        "override": as_data(override) if override else None,
        "decision": as_data(decision) if decision else "pending",
    }
