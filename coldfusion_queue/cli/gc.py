"""``coldfusion gc``: collect garbage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from coldfusion_queue.cli.common import console, json_option, open_repository, print_json

if TYPE_CHECKING:
    from coldfusion_queue.repository.garbage import Garbage

__all__ = ["gc"]


@click.command()
@click.option("-n", "--dry-run", is_flag=True, help="Say what would go, and leave it.")
@click.option("-v", "--verbose", is_flag=True, help="Name each item, and why it goes.")
@click.option(
    "--grace-seconds",
    type=click.FloatRange(min=0),
    help="Age at which what no record names goes; COLDFUSION_GC_GRACE_SECONDS by default.",
)
@json_option
def gc(dry_run: bool, verbose: bool, grace_seconds: float | None, as_json: bool) -> None:
    """Delete what no record names, and what the policy no longer retains.

    The fusion workers do the same now and then. Records, heads, base version 0 and whatever is
    undecided stay for ever.
    """
    from coldfusion_queue.repository.collecting import collect_garbage, plan

    settings, repository = open_repository()
    grace = settings.gc_grace_seconds if grace_seconds is None else grace_seconds
    if grace < settings.gc_grace_seconds and not dry_run:
        click.echo(
            f"warning: a grace of {grace:g} s is shorter than COLDFUSION_GC_GRACE_SECONDS "
            f"({settings.gc_grace_seconds}): nothing else may run meanwhile, no submission, no "
            "finetune and no fusion, or it may lose what it has just written",
            err=True,
        )
    items = plan(repository, grace).items if dry_run else collect_garbage(repository, grace)
    if as_json:
        print_json(_as_data(items, grace, dry_run=dry_run))
    else:
        _print(items, dry_run=dry_run, verbose=verbose or dry_run)


def _as_data(items: Sequence[Garbage], grace: float, *, dry_run: bool) -> dict[str, Any]:
    from coldfusion_queue.repository.garbage import totals

    return {
        "dry_run": dry_run,
        "grace_seconds": grace,
        "kinds": {
            kind.value: {
                "items": total.num_items,
                "objects": total.num_objects,
                "bytes": total.num_bytes,
            }
            for kind, total in totals(items).items()
        },
        "items": [
            {
                "kind": item.kind.value,
                "subject": item.subject,
                "keys": list(item.keys),
                "bytes": item.num_bytes,
                "reason": item.reason,
            }
            for item in items
        ],
    }


def _print(items: Sequence[Garbage], *, dry_run: bool, verbose: bool) -> None:
    from rich.filesize import decimal
    from rich.table import Table

    from coldfusion_queue.repository.garbage import totals

    if verbose:
        for item in items:
            click.echo(f"{item.kind.label}  {item.subject}: {item.reason}")
    if not items:
        click.echo("nothing to collect")
        return
    table = Table("would go" if dry_run else "gone", box=None, pad_edge=False)
    for name in ("items", "objects", "size"):
        table.add_column(name, justify="right")
    for kind, total in totals(items).items():
        counts = (str(total.num_items), str(total.num_objects), decimal(total.num_bytes))
        table.add_row(f"{kind.label} (marked again)" if kind.is_repair else kind.label, *counts)
    console().print(table)
