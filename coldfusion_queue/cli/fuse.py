"""``coldfusion fuse``: one fusion now, perhaps under another policy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from coldfusion_queue.cli.common import (
    as_data,
    json_option,
    open_repository,
    parse_settings,
    print_json,
)

if TYPE_CHECKING:
    from coldfusion_queue.records import LedgerEntry

__all__ = ["fuse"]


@click.command()
@click.option(
    "--set",
    "pairs",
    multiple=True,
    metavar="KEY=VALUE",
    help="A field of the policy, for this fusion alone, e.g. method=median.",
)
@json_option
def fuse(pairs: tuple[str, ...], as_json: bool) -> None:
    """Fuse what is pending now, on this machine, even if it is fewer than min_contributions.

    The policy stays as it is; the ledger's entry says what was different.
    """
    from coldfusion_queue.records import Policy
    from coldfusion_queue.repository.fusing import fuse_once

    changed = parse_settings(Policy, pairs)
    changes = {name: getattr(changed, name) for name in changed.model_fields_set}
    settings, repository = open_repository()
    entry = fuse_once(repository, settings, {"min_contributions": 1, **changes}).entry
    if as_json:
        print_json(as_data(entry) if entry else None)
    elif entry is None:
        click.echo("nothing is pending")
    else:
        _print(entry)


def _print(entry: LedgerEntry) -> None:
    click.echo(f"entry {entry.sequence}: {entry.note}")
    for decision in entry.decisions:
        click.echo(f"  {decision.contribution_id}  {decision.outcome}  {decision.reason}")
