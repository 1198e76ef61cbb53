"""``coldfusion rollback``: go back to an old base version."""

from __future__ import annotations

import click

from coldfusion_queue.cli.common import as_data, json_option, open_repository, print_json

__all__ = ["rollback"]


@click.command()
@click.argument("version", type=click.IntRange(min=0))
@click.option("--reason", default="by an operator", show_default=True, help="For the ledger.")
@json_option
def rollback(version: int, reason: str, as_json: bool) -> None:
    """Publish the parameters of base VERSION again, under a new number.

    Nothing is deleted: 'coldfusion history' shows all of it, and rolling forward is a rollback to a
    later version. Contributions that are pending stay so.
    """
    from coldfusion_queue.repository.rolling_back import roll_back

    _, repository = open_repository()
    entry = roll_back(repository, version, reason)
    if as_json:
        print_json(as_data(entry))
    else:
        click.echo(f"entry {entry.sequence}: {entry.note}")
