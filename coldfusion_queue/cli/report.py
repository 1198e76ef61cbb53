"""``coldfusion report``: a page about the repository's history."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from coldfusion_queue.cli.common import console, json_option, open_repository, print_json
from coldfusion_queue.disk import disk_errors
from coldfusion_queue.errors import UsageError
from coldfusion_queue.names import new_attempt

__all__ = ["report"]

#: Other names are refused: the page replaces the last one, and should replace nothing else.
_SUFFIXES = {".html", ".htm"}


@click.command()
@click.argument("arguments", nargs=-1, metavar="[VERSION] OUT.html")
@json_option
def report(arguments: tuple[str, ...], as_json: bool) -> None:
    """Write a page about the repository up to base VERSION (the newest by default).

    It shows lineage, quality over versions, contributions, refusals, withheld models, throughput
    and cost, all of it from the bucket's records. OUT.html is one file that loads nothing, and is
    overwritten. With --json the same data is printed, and OUT.html may be left out.
    """
    version, path = _parse(arguments, as_json)
    from coldfusion_queue.report.gather import gather
    from coldfusion_queue.report.page import page
    from coldfusion_queue.report.summaries import as_data

    _, repository = open_repository()
    with _progress(hidden=as_json) as advance:
        found = gather(repository, version, progress=advance)
    if path is not None:
        _write(path, page(found))
    if as_json:
        print_json(as_data(found))
    else:
        click.echo(f"{path} shows the repository up to base version {found.version}")


def _parse(arguments: tuple[str, ...], as_json: bool) -> tuple[int | None, Path | None]:
    rest, version = list(arguments), None
    if rest and rest[0].isdecimal():
        version = int(rest.pop(0))
    if len(rest) > 1 or (not rest and not as_json):
        raise UsageError("arguments", " ".join(arguments), "[VERSION] OUT.html")
    if not rest:
        return version, None
    path = Path(rest[0]).expanduser().absolute()
    if path.suffix.lower() not in _SUFFIXES or path.is_dir():
        raise UsageError("OUT.html", rest[0], "the name of a file that ends in .html")
    return version, path


def _write(path: Path, text: str) -> None:
    """Write the page beside its place and rename it: there is never half a page."""
    partial = path.with_name(f".{path.name}.partial-{new_attempt()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with disk_errors(path.parent, "OUT.html"):
            partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _progress(*, hidden: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each kind of record, on standard error."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    terminal = console(stderr=True)
    hidden = hidden or not terminal.is_terminal
    with Progress(*columns, console=terminal, disable=hidden, transient=True) as bars:
        tasks = {}

        def advance(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done)

        yield advance
