"""``coldfusion policy``: when to fuse, what, and how."""

from __future__ import annotations

import click

from coldfusion_queue.cli.common import (
    as_data,
    console,
    json_option,
    open_repository,
    parse_settings,
    print_json,
)

__all__ = ["policy"]


@click.command()
@click.option(
    "--set",
    "pairs",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a field, e.g. min_contributions=4.",
)
@json_option
def policy(pairs: tuple[str, ...], as_json: bool) -> None:
    """Print the repository's policy, or change it from the next fusion on.

    A change is an entry of the ledger, as every decision is. gate_datasets takes who submitted
    them, or ids, with commas in between.
    """
    from coldfusion_queue.records import Policy

    changed = parse_settings(Policy, pairs)
    _, repository = open_repository()
    current = repository.ledger.newest().after.policy
    if pairs:
        from coldfusion_queue.repository.datasets import find_dataset
        from coldfusion_queue.repository.policy import change_policy

        changes = {name: getattr(changed, name) for name in changed.model_fields_set}
        if "gate_datasets" in changes:
            named = (find_dataset(repository, name) for name in changed.gate_datasets)
            changes["gate_datasets"] = tuple(dict.fromkeys(named))
        current = change_policy(repository, changes).after.policy
    if as_json:
        print_json(as_data(current))
        return
    terminal = console()
    for name, value in current:
        terminal.print(f"{name}={value}", markup=False)
