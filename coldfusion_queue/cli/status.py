"""``coldfusion status``: what the repository is doing."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from coldfusion_queue.cli.common import (
    console,
    json_option,
    open_repository,
    print_json,
    time_text,
)

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from coldfusion_queue.records import LedgerEntry
    from coldfusion_queue.repository.repository import Repository
    from coldfusion_queue.settings import Settings

__all__ = ["gather", "render", "status"]

_REFRESH_SECONDS = 2.0


@click.command()
@click.option("--watch", is_flag=True, help="Refresh every two seconds until Ctrl-C.")
@click.option("--all", "show_all", is_flag=True, help="Also submissions that have ended.")
@json_option
def status(watch: bool, show_all: bool, as_json: bool) -> None:
    """Show base version, pending contributions, queues and submissions."""
    settings, repository = open_repository()
    if as_json:
        print_json(gather(settings, repository, show_all=show_all))
        return
    if not watch:
        console().print(render(gather(settings, repository, show_all=show_all)))
        return
    from rich.live import Live

    # "try" and no handler: Ctrl-C is how one leaves.
    with suppress(KeyboardInterrupt), Live(console=console(), refresh_per_second=4) as live:
        while True:
            live.update(render(gather(settings, repository, show_all=show_all)))
            time.sleep(_REFRESH_SECONDS)


def gather(settings: Settings, repository: Repository, *, show_all: bool) -> dict[str, Any]:
    """The repository's state as plain data: ledger, inbox, queues and submissions."""
    newest = repository.ledger.newest()
    if show_all:
        states = [repository.submissions.status(item) for item in repository.submissions.all()]
    else:
        states = list(repository.submissions.open())
    queues, reports = _from_redis(settings, [item.submission.submission_id for item in states])
    return {
        "repository": repository.name,
        "base_version": newest.after.base.version,
        "published_at": newest.created_at,
        "candidate": _candidate(repository, newest),
        "pending_contributions": repository.inbox.count(),
        "min_contributions": newest.after.policy.min_contributions,
        "queues": queues,
        "submissions": [
            {
                "submission": item.submission.submission_id,
                "state": item.state.value,
                "committed_turns": item.committed_turns,
                "turns": item.submission.turns,
                "site": item.submission.site,
                "progress": reports.get(item.submission.submission_id),
                "reason": item.failure.reason if item.failure else None,
            }
            for item in states
        ],
    }


def _candidate(repository: Repository, newest: LedgerEntry) -> dict[str, Any] | None:
    """What waits for the gate, and how many of its probes are missing."""
    from coldfusion_queue.repository.gating import gate_specs

    found = repository.candidates.find(newest.sequence + 1)
    if found is None or found.entry.published is None:
        return None
    models = (*found.models, newest.after.base)
    wanted = [
        repository.evaluations.find(spec.evaluation_id(model.digest))
        for spec in gate_specs(newest.after.policy)
        for model in models
    ]
    return {
        "version": found.entry.published.version,
        "since": found.entry.created_at,
        "probes": len(wanted),
        "missing": wanted.count(None),
        "failed": [item.failure for item in wanted if item is not None and item.failure],
        "without": found.suspect,
    }


def _from_redis(
    settings: Settings, submission_ids: list[str]
) -> tuple[dict[str, int] | None, dict[str, Any]]:
    """Queue lengths and progress; nothing of it when Redis is away, which is shown as such."""
    from coldfusion_queue.errors import ColdFusionError
    from coldfusion_queue.keys import RedisKeys
    from coldfusion_queue.queue.app import EVALUATION_QUEUE, FUSION_QUEUE
    from coldfusion_queue.queue.connection import broker_errors, connect_redis
    from coldfusion_queue.queue.progress import read_progress
    from coldfusion_queue.queue.sites import finetune_queues

    client, keys = connect_redis(settings), RedisKeys(settings.repository)
    try:
        with broker_errors(settings):
            names = (*finetune_queues(client, keys), EVALUATION_QUEUE, FUSION_QUEUE)
            queues = {name: int(client.llen(name)) for name in names}
            found = {name: read_progress(client, keys, name) for name in submission_ids}
    except ColdFusionError as error:
        click.echo(f"note: {error}", err=True)
        return None, {}
    return queues, {name: item.model_dump(mode="json") for name, item in found.items() if item}


def render(data: dict[str, Any]) -> RenderableType:
    """What ``gather`` found, for people."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    queues = data["queues"]
    waiting = ", ".join(f"{name} {length}" for name, length in queues.items()) if queues else "?"
    head = Text(
        f"repository {data['repository']}   base version {data['base_version']}   "
        f"pending {data['pending_contributions']} of {data['min_contributions']}   "
        f"queued {waiting}"
    )
    lines = [head, *_waits_for_the_gate(data["candidate"])]
    if not data["submissions"]:
        return Group(*lines, Text("no open submissions", style="dim"))
    columns = ["submission", "state", "turns", "now"]
    has_sites = any(item["site"] for item in data["submissions"])
    if has_sites:
        columns.insert(1, "site")
    table = Table(*columns, box=None, pad_edge=False)
    for item in data["submissions"]:
        turns = f"{item['committed_turns']}/{item['turns'] or 'forever'}"
        site = [item["site"] or "-"] if has_sites else []
        table.add_row(item["submission"], *site, item["state"], turns, _now(item))
    return Group(*lines, table)


def _waits_for_the_gate(candidate: dict[str, Any] | None) -> list[Text]:
    from rich.text import Text

    if candidate is None:
        return []
    tried = f", without {candidate['without']}" if candidate["without"] else ""
    lines = [
        Text(
            f"base version {candidate['version']} waits for the gate since "
            f"{time_text(candidate['since'])}{tried}: {candidate['missing']} of "
            f"{candidate['probes']} probes are missing"
        )
    ]
    if candidate["missing"]:
        lines.append(Text("an evaluation worker makes them", style="dim"))
    return lines + [Text(f"a probe failed: {text}", style="red") for text in candidate["failed"]]


def _now(item: dict[str, Any]) -> str:
    progress = item["progress"]
    if item["state"] != "open":
        return item["reason"] or ""
    if progress is None or progress["turn"] <= item["committed_turns"]:
        return "queued"
    text = f"{progress['phase']} from base {progress['base_version']} on {progress['worker']}"
    if progress["num_steps"]:
        text += f", step {progress['step']}/{progress['num_steps']}, loss {progress['loss']:.3f}"
    return text
