"""``coldfusion demo``: the whole loop, from nothing to a better base model."""

from __future__ import annotations

import json
import os
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coldfusion_queue.cli.common import console
from coldfusion_queue.cli.init import create_repository
from coldfusion_queue.errors import AlreadyExistsError

if TYPE_CHECKING:
    from rich.console import Console

    from coldfusion_queue.demo.loop import LoopResult
    from coldfusion_queue.demo.probing import ProbeTable
    from coldfusion_queue.local.stack import LocalStack
    from coldfusion_queue.records import LedgerEntry
    from coldfusion_queue.repository.repository import Repository
    from coldfusion_queue.settings import Settings

__all__ = ["demo"]


@click.command()
@click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("coldfusion-demo"),
    show_default=True,
    help="Everything the demo writes; an earlier demo's is replaced.",
)
@click.option(
    "--versions",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Base versions to make.",
)
@click.option(
    "--limit-seconds",
    type=click.FloatRange(min=10),
    default=600,
    show_default=True,
    help="Give up after.",
)
@click.option("--keep", is_flag=True, help="Leave the local stack running.")
def demo(directory: Path, versions: int, limit_seconds: float, keep: bool) -> None:
    """Run the loop on the bundled model and datasets, and measure the result.

    Five standing contributors and two finetune workers, one of them slow, on real servers on
    this machine; ends with a table, a plot and one line of JSON.
    """
    started = time.monotonic()
    terminal = console(stderr=True)
    stack = _fresh_stack(directory)
    with ExitStack() as cleanup:
        if not keep:
            cleanup.callback(stack.down)
        repository, result = _loop(stack, terminal, versions, limit_seconds)
        table = _probe(repository, result.base_version, terminal)
    plot = stack.home / "probe.png"
    _draw(table, plot)
    _print(table, terminal)
    terminal.print(f"plot: {plot}", markup=False)
    click.echo(json.dumps(_summary(result, table, time.monotonic() - started)))


def _fresh_stack(directory: Path) -> LocalStack:
    """A stack below the directory, without what an earlier demo left there."""
    from coldfusion_queue.local.stack import LocalStack

    # The demo is a world of its own: it must not reach a repository that somebody works with.
    for name in [name for name in os.environ if name.startswith("COLDFUSION_")]:
        del os.environ[name]
    stack = LocalStack(directory)
    if directory.exists() and any(directory.iterdir()) and not stack.directory.exists():
        remedy = "give a new directory with --directory"
        raise AlreadyExistsError("directory", str(directory), remedy)
    stack.down(remove_data=True)
    os.environ["COLDFUSION_HOME"] = str(stack.home)
    return stack


def _loop(
    stack: LocalStack, terminal: Console, versions: int, limit_seconds: float
) -> tuple[Repository, LoopResult]:
    from coldfusion_queue.demo import recipe
    from coldfusion_queue.demo.loop import run_loop, submit_examples
    from coldfusion_queue.queue.app import make_app
    from coldfusion_queue.queue.connection import connect_redis
    from coldfusion_queue.queue.sending import TurnSender
    from coldfusion_queue.repository.repository import Repository
    from coldfusion_queue.store import Store

    terminal.print("starting broker, object store, workers, beat and exporter")
    settings = stack.up(
        finetune_workers=len(recipe.WORKER_ENVIRONMENTS),
        worker_environments=recipe.WORKER_ENVIRONMENTS,
        environment=recipe.ENVIRONMENT,
        evaluation_workers=0,  # the demo probes at its end, by itself
    )
    repository = Repository(Store.open(settings), settings.repository)
    create_repository(repository, str(recipe.pretrained_dir()), recipe.POLICY, quiet=True)
    terminal.print(f"base version 0 is the pretrained MiniLM; {len(recipe.DATASETS)} contributors")
    sender = TurnSender(make_app(settings), connect_redis(settings), settings, repository.name)
    submissions = submit_examples(repository, sender)
    with _View(settings, repository, terminal) as view:
        result = run_loop(
            repository,
            submissions,
            num_versions=versions,
            limit_seconds=limit_seconds,
            on_entry=view.entry,
            on_tick=view.tick,
        )
    return repository, result


class _View:
    """Live progress: ledger entries as lines, and below them, on a terminal, who does what."""

    def __init__(self, settings: Settings, repository: Repository, terminal: Console) -> None:
        from rich.live import Live

        from coldfusion_queue.cli.status_data import StatusReader

        self._reader = StatusReader(settings, repository, show_all=False)
        self._terminal = terminal
        self._live = Live(console=terminal, transient=True, refresh_per_second=4)
        self._started = time.monotonic()

    def __enter__(self) -> _View:
        if self._terminal.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def entry(self, entry: LedgerEntry) -> None:
        seconds = time.monotonic() - self._started
        lines = [f"{seconds:5.0f} s  {entry.note}"]
        for item in entry.published.fused if entry.published else ():
            lines.append(
                f"         {item.contributor_id}: coefficient {item.coefficient:.2f}, "
                f"staleness {item.staleness}"
            )
        self._terminal.print("\n".join(lines), markup=False)

    def tick(self) -> None:
        from coldfusion_queue.cli.status_screen import brief

        if self._terminal.is_terminal:
            self._live.update(brief(self._reader.read(), self._terminal.width))


def _probe(repository: Repository, last_version: int, terminal: Console) -> ProbeTable:
    from coldfusion_queue.demo.probing import probe_versions

    def announce(version: int) -> None:
        terminal.print(f"probing base version {version}", style="dim")

    return probe_versions(repository, last_version, announce)


def _draw(table: ProbeTable, path: Path) -> None:
    from coldfusion_queue.demo.plot import draw

    draw(table, path)


def _print(table: ProbeTable, terminal: Console) -> None:
    from rich.table import Table

    drawn = Table(title="Linear probe on the frozen body, accuracy in %")
    drawn.add_column("dataset")
    for version in table.versions:
        drawn.add_column("pretrained" if version == 0 else f"base {version}", justify="right")
    for name in table.datasets:
        drawn.add_row(name, *(f"{table.accuracies[name, v]:.1f}" for v in table.versions))
    drawn.add_section()
    drawn.add_row(
        "mean", *(f"{table.mean(version):.1f}" for version in table.versions), style="bold"
    )
    terminal.print(drawn)


def _summary(result: LoopResult, table: ProbeTable, seconds: float) -> dict[str, Any]:
    return {
        "base_version": table.versions[-1],
        "fused": result.fused,
        "stale_fused": result.stale_fused,
        "probe_pretrained": round(table.mean(0), 2),
        "probe_fused": round(table.mean(table.versions[-1]), 2),
        "seconds": round(seconds, 1),
    }
