"""``coldfusion history``: the ledger, readable."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from coldfusion_queue.cli.common import (
    as_data,
    console,
    json_option,
    open_repository,
    print_json,
    time_text,
)

if TYPE_CHECKING:
    from coldfusion_queue.records import LedgerEntry

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
    from rich.table import Table

    table = Table("entry", "time", "base", "what", "contributions", box=None, pad_edge=False)
    for entry in entries:
        table.add_row(
            str(entry.sequence),
            time_text(entry.created_at),
            str(entry.after.base.version),
            entry.note,
            _contributions(entry),
        )
    console().print(table)


def _contributions(entry: LedgerEntry) -> str:
    lines = []
    for decision in entry.decisions:
        numbers = decision.numbers
        detail = decision.reason
        if "coefficient" in numbers:
            detail = (
                f"coefficient {numbers['coefficient']:.3f}, staleness {numbers['staleness']:.0f}"
            )
        lines.append(f"{decision.contribution_id} {decision.outcome}: {detail}")
    return "\n".join(lines)
