"""What several commands share: opening the repository, printing, parsing ``--set``."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

import click

from coldfusion_queue.errors import UsageError

if TYPE_CHECKING:
    from datetime import datetime

    from redis import Redis
    from rich.console import Console
    from rich.progress import Progress

    from coldfusion_queue.queue.sending import EvaluationSender, TurnSender
    from coldfusion_queue.records import Record
    from coldfusion_queue.repository.repository import Repository
    from coldfusion_queue.settings import Settings

__all__ = [
    "INTERACTIVE_ATTEMPTS",
    "as_data",
    "console",
    "flatten",
    "json_option",
    "open_evaluation_sender",
    "open_repository",
    "open_sender",
    "parse_settings",
    "print_json",
    "time_text",
    "trace_command",
    "transfer_bar",
]

#: People wait: give up on a store that does not answer after about a second.
INTERACTIVE_ATTEMPTS = 3

RecordT = TypeVar("RecordT", bound="Record")

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


def console(*, stderr: bool = False) -> Console:
    """A terminal to print to; plain text when it is none."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, soft_wrap=not sys.stdout.isatty())


def print_json(data: object) -> None:
    """Print one JSON document on standard output."""
    click.echo(json.dumps(data, indent=2, ensure_ascii=False, default=str))


def as_data(record: Record) -> dict[str, Any]:
    """A record as plain JSON data."""
    return record.model_dump(mode="json")


def time_text(moment: datetime) -> str:
    """A time for people, in their own zone."""
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S}"


def open_repository() -> tuple[Settings, Repository]:
    """Read the settings and open the repository they name."""
    from coldfusion_queue.repository.repository import Repository
    from coldfusion_queue.settings import load_settings

    settings = load_settings()
    return settings, Repository.open(settings, attempts=INTERACTIVE_ATTEMPTS)


def trace_command(settings: Settings) -> None:
    """Trace what this command does from here on to its end, if the settings say so."""
    from coldfusion_queue import tracing

    if settings.traces:
        # Only messages of tasks that are known here are traced.
        import_module("coldfusion_queue.queue.tasks")
        command = click.get_current_context()
        tracing.start_tracing(settings, "coldfusion")
        command.call_on_close(tracing.stop_tracing)
        command.with_resource(tracing.span(f"coldfusion {command.command.name}"))


def open_sender(settings: Settings) -> TurnSender:
    """A sender of turns whose connection to the broker was proved to work.

    Raises:
        BrokerUnavailableError: Redis does not answer.
        AccessDeniedError: it refuses the password.
    """
    from coldfusion_queue.queue.app import make_app
    from coldfusion_queue.queue.sending import TurnSender

    return TurnSender(make_app(settings), _proved(settings), settings, settings.repository)


def open_evaluation_sender(settings: Settings) -> EvaluationSender:
    """A sender of evaluations; see ``open_sender``."""
    from coldfusion_queue.queue.app import make_app
    from coldfusion_queue.queue.sending import EvaluationSender

    return EvaluationSender(make_app(settings), _proved(settings), settings, settings.repository)


def _proved(settings: Settings) -> Redis:
    from coldfusion_queue.queue.connection import broker_errors, connect_redis

    client = connect_redis(settings)
    with broker_errors(settings):
        client.ping()
    return client


def parse_settings(kind: type[RecordT], pairs: Iterable[str]) -> RecordT:
    """Build a record from its defaults and ``--set key=value`` arguments.

    Raises:
        UsageError: a pair has no ``=``, an unknown key, or a value of another type or range.
    """
    from pydantic import ValidationError

    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise UsageError("--set", pair, "KEY=VALUE")
        if key not in kind.model_fields:
            close = difflib.get_close_matches(key, kind.model_fields, n=1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise UsageError("--set", key, f"one of {', '.join(kind.model_fields)}{hint}")
        values[key] = _parsed(kind, key, value)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = str(first["loc"][0])
        message = first["msg"][0].lower() + first["msg"][1:]
        raise UsageError("--set", f"{key}={values.get(key)}", message) from None


def _parsed(kind: type[RecordT], key: str, value: str) -> object:
    if isinstance(kind.model_fields[key].get_default(call_default_factory=True), tuple):
        names = () if value in {"none", "null"} else value.split(",")
        return tuple(name.strip() for name in names if name.strip())
    return None if value in {"none", "null"} else value


@contextmanager
def transfer_bar(description: str, total: int | None, *, hidden: bool) -> Iterator[_Bar]:
    """A progress bar for bytes, on standard error."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Progress(*columns, console=console(stderr=True), disable=hidden) as progress:
        yield _Bar(progress, description, total)


class _Bar:
    """Counts the bytes of one or several files."""

    def __init__(self, progress: Progress, description: str, total: int | None) -> None:
        self._progress = progress
        self._task = progress.add_task(description, total=total)

    def advance(self, num_bytes: int) -> None:
        """More bytes have gone over."""
        self._progress.update(self._task, advance=num_bytes)


def flatten(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested data as ``a.b`` names and values, for people."""
    for key, value in data.items():
        if isinstance(value, dict) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
