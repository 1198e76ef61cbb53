"""``coldfusion fuse``: one fusion now, perhaps under another policy."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import click

from coldfusion_queue.cli.common import (
    as_data,
    json_option,
    open_evaluation_sender,
    open_repository,
    parse_settings,
    print_json,
    trace_command,
)
from coldfusion_queue.errors import RetryableError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coldfusion_queue.records import EvaluationRequest, LedgerEntry
    from coldfusion_queue.settings import Settings

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

    The policy stays as it is; the ledger's entry says what was different. With a gate the fused
    model waits for its probes; --set gate_datasets=none does without.
    """
    from coldfusion_queue.records import Policy
    from coldfusion_queue.repository.fusing import fuse_once

    changed = parse_settings(Policy, pairs)
    changes = {name: getattr(changed, name) for name in changed.model_fields_set}
    if changes.get("gate_datasets"):
        got = f"gate_datasets={','.join(changed.gate_datasets)}"
        raise UsageError("--set", got, "none, which does without the gate; 'policy' sets one")
    settings, repository = open_repository()
    trace_command(settings)
    report = fuse_once(repository, settings, {"min_contributions": 1, **changes})
    entry = report.entry
    if report.wanted:
        _send(settings, report.wanted)
    if as_json:
        print_json(as_data(entry) if entry else None)
    elif entry is None and report.candidate is not None:
        number = report.candidate.entry.after.base.version
        why = "for the gate, which cannot measure it: see 'coldfusion status'"
        if report.wanted:
            why = f"for {len(report.wanted)} probes"
        click.echo(f"base version {number} is fused and waits {why}")
    elif entry is None:
        click.echo("nothing is pending")
    else:
        _print(entry)


def _send(settings: Settings, requests: Sequence[EvaluationRequest]) -> None:
    with suppress(RetryableError):  # reconcile sends them later
        sender = open_evaluation_sender(settings)
        for request in requests:
            sender.send(request.evaluation_id)


def _print(entry: LedgerEntry) -> None:
    click.echo(f"entry {entry.sequence}: {entry.note}")
    for decision in entry.decisions:
        click.echo(f"  {decision.contribution_id}  {decision.outcome}  {decision.reason}")
