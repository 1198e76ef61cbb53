"""``coldfusion status``: what the repository is doing."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from coldfusion_queue.cli.common import console, json_option, open_repository, print_json
from coldfusion_queue.errors import RetryableError

if TYPE_CHECKING:
    from rich.console import Console

    from coldfusion_queue.cli.status_data import StatusReader

__all__ = ["status"]

_REFRESH_SECONDS = 2.0
#: Of what is no terminal: lines are for programs that look for words, and are not broken.
_ENDLESS = 1000


@click.command()
@click.option("--watch", is_flag=True, help="Refresh every two seconds until Ctrl-C.")
@click.option("--all", "show_all", is_flag=True, help="Also submissions that have ended.")
@json_option
def status(watch: bool, show_all: bool, as_json: bool) -> None:
    """Show what the repository is doing, and what is stuck with the command to run next.

    From the last ledger entries alone, so that it answers at once however long the history is:
    'coldfusion history' and 'coldfusion report' show more of it.
    """
    settings, repository = open_repository()
    from coldfusion_queue.cli.status_data import StatusReader
    from coldfusion_queue.cli.status_screen import screen

    reader = StatusReader(settings, repository, show_all=show_all)
    if as_json:
        print_json(reader.read())
        return
    terminal = console()
    if not terminal.is_terminal:
        terminal.width = _ENDLESS
    if watch:
        _watch(reader, terminal)
    else:
        terminal.print(screen(reader.read(), terminal.width))


def _watch(reader: StatusReader, terminal: Console) -> None:
    """Draw the screen anew until Ctrl-C, which leaves the last picture behind."""
    from rich.live import Live

    from coldfusion_queue.cli.status_screen import screen

    data = reader.read()  # what is wrong from the beginning is an error
    own_screen = Live(console=terminal, screen=terminal.is_terminal, auto_refresh=False)
    # "try" and no handler: Ctrl-C is how one leaves.
    with suppress(KeyboardInterrupt), own_screen as live:
        while True:
            live.update(screen(data, terminal.width, terminal.height), refresh=True)
            time.sleep(_REFRESH_SECONDS)
            data = _read_again(reader, data)
    if terminal.is_terminal:
        terminal.print(screen(data, terminal.width))


def _read_again(reader: StatusReader, last: dict[str, Any]) -> dict[str, Any]:
    """The state now; while the store is away the last one, with a word about that."""
    try:
        return reader.read()
    except RetryableError as error:
        text = f"what is below is old: {error}"
        finding = {"alert": "ColdFusionUnreachable", "text": text, "command": "coldfusion doctor"}
        return {**last, "stuck": [finding]}
