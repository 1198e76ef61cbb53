"""``coldfusion experiment``: the paper's protocol on one's own datasets."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from coldfusion_queue.cli.common import INTERACTIVE_ATTEMPTS, console, json_option, print_json
from coldfusion_queue.errors import MissingExtraError, NotFoundError

if TYPE_CHECKING:
    from coldfusion_queue.experiment.results import Results
    from coldfusion_queue.experiment.spec import Experiment
    from coldfusion_queue.settings import Settings
    from coldfusion_queue.store import Store

__all__ = ["experiment"]


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where tables, curves and numbers go.  [default: coldfusion-NAME]",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Folder that ${DATA} stands for in the file.",
)
@click.option(
    "--local", is_flag=True, help="Start servers and workers of its own below --out, and stop them."
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Finetune workers of --local, and as many evaluation workers.",
)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Of torch in each worker of --local.",
)
@click.option("--tables", is_flag=True, help="Run nothing; write what was found so far.")
@json_option
def experiment(
    file: Path,
    out: Path | None,
    data: Path | None,
    local: bool,
    workers: int,
    threads: int,
    tables: bool,
    as_json: bool,
) -> None:
    """Run the experiment that FILE declares, or go on with it.

    Everything it does is in the bucket: run it again after it was broken off, and it goes on. The
    work is done by the workers of the bucket; with --local it brings its own.
    """
    try:
        from coldfusion_queue.experiment.spec import read_experiment
    except ModuleNotFoundError as error:
        if error.name != "yaml":
            raise
        raise MissingExtraError("an experiment", "PyYAML", "experiment") from error

    declared = read_experiment(file, data)
    directory = out or Path(f"coldfusion-{declared.name}")
    directory.mkdir(parents=True, exist_ok=True)
    with _settings(directory, workers, threads, local=local, idle=tables) as settings:
        store = _store(settings)
        if not tables:
            _run(declared, settings)
        results = _write(declared, store, directory)
    if as_json:
        print_json(results.to_json())
    else:
        _print(results)
    console(stderr=True).print(f"tables, curves and numbers are in {directory}", markup=False)


@contextmanager
def _settings(
    directory: Path, workers: int, threads: int, *, local: bool, idle: bool
) -> Iterator[Settings]:
    """How to reach store and broker; those of ``--local`` are there for the time of the context.

    Args:
        directory: of the results.
        workers: of each kind, of ``--local``.
        threads: the same.
        local: whether to start servers and workers.
        idle: whether workers would have nothing to do.
    """
    from coldfusion_queue.local.stack import LocalStack
    from coldfusion_queue.settings import load_settings

    if not local:
        yield load_settings()
        return
    stack = LocalStack(directory)
    os.environ["COLDFUSION_HOME"] = str(stack.home)
    environment = {
        "COLDFUSION_TORCH_THREADS": str(threads),
        # What the second process of a worker would prepare, it would take from what trains.
        "COLDFUSION_PREPARE_AHEAD_SECONDS": "0",
        "COLDFUSION_RECONCILE_INTERVAL_SECONDS": "10",
        "COLDFUSION_METRICS_HOST": "127.0.0.1",
        "COLDFUSION_SOFT_SHUTDOWN_SECONDS": "1",
    }
    console(stderr=True).print("starting broker, object store and workers")
    # Told to end, it ends in order, so that nothing of it is left running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield stack.up(
            finetune_workers=workers,
            environment=environment,
            evaluation_workers=workers,
            servers_only=idle,
        )
    finally:
        stack.down()


def _store(settings: Settings) -> Store:
    from coldfusion_queue.store import Store

    store = Store.open(settings, INTERACTIVE_ATTEMPTS)
    if not store.bucket_exists():
        remedy = "create it, or set COLDFUSION_S3_BUCKET, or add --local"
        raise NotFoundError("bucket", store.bucket, remedy)
    return Store.open(settings)


def _run(declared: Experiment, settings: Settings) -> None:
    from coldfusion_queue.experiment.driver import check_workers, run_experiment
    from coldfusion_queue.queue.app import make_app
    from coldfusion_queue.queue.connection import broker_errors, connect_redis

    app, client = make_app(settings), connect_redis(settings)
    with broker_errors(settings):
        client.ping()
    check_workers(app, settings)
    run_experiment(declared, settings, app, client, _teller())


def _teller() -> Callable[[str], None]:
    terminal, started = console(stderr=True), time.monotonic()

    def tell(event: str) -> None:
        terminal.print(f"{time.monotonic() - started:6.0f} s  {event}", markup=False)

    return tell


def _write(declared: Experiment, store: Store, directory: Path) -> Results:
    from coldfusion_queue.experiment.curves import draw
    from coldfusion_queue.experiment.gathering import gather
    from coldfusion_queue.experiment.tables import to_markdown

    results = gather(declared, store)
    text = json.dumps(results.to_json(), indent=1, ensure_ascii=False)
    (directory / "results.json").write_text(text + "\n", encoding="utf-8")
    (directory / "results.md").write_text(to_markdown(results), encoding="utf-8")
    try:
        draw(results, directory / "curves.png")
    except MissingExtraError as error:  # the numbers are there all the same
        click.echo(f"note: {error}", err=True)
    return results


def _print(results: Results) -> None:
    from rich.table import Table

    from coldfusion_queue.experiment.tables import all_tables

    terminal = console()
    for title, header, rows in all_tables(results):
        drawn = Table(title=title, title_justify="left")
        for number, name in enumerate(header):
            drawn.add_column(name, justify="right" if number else "left")
        for row in rows:
            drawn.add_row(*(cell.replace("**", "") for cell in row))
        terminal.print(drawn)
