"""``coldfusion history``: the ledger, readable."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from coldfusion_queue.cli.common import (
    as_data,
    json_option,
    open_repository,
    print_json,
    time_text,
)

if TYPE_CHECKING:
    from coldfusion_queue.records import Decision

__all__ = ["history"]


@click.command()
@click.option(
    "-n", "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="Entries."
)
@json_option
def history(limit: int, as_json: bool) -> None:
    """Print the newest entries of the ledger, the newest last."""
    _, repository = open_repository()
    newest = repository.ledger.newest().sequence
    entries = list(repository.ledger.entries(max(0, newest - limit + 1)))
    if as_json:
        print_json([as_data(entry) for entry in entries])
        return
    for entry in entries:
        click.echo(f"{entry.sequence:>6}  {time_text(entry.created_at)}  {entry.note}")
        for decision in entry.decisions:
            click.echo(
                f"        {decision.contribution_id}  {decision.outcome}  {_detail(decision)}"
            )


def _detail(decision: Decision) -> str:
    if decision.outcome != "fused":
        return decision.reason
    numbers = decision.numbers
    return f"coefficient {numbers['coefficient']:.3f}, staleness {numbers['staleness']:.0f}"
