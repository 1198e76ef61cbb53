"""``coldfusion config``: the effective settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from coldfusion_queue.cli.common import console, json_option, print_json

if TYPE_CHECKING:
    from coldfusion_queue.settings import Settings

__all__ = ["config"]


@click.command()
@json_option
@click.option("--describe", is_flag=True, help="Add what each setting means.")
def config(as_json: bool, describe: bool) -> None:
    """Print the effective settings, secrets masked."""
    from coldfusion_queue.settings import Settings, load_settings

    settings = load_settings()
    values = _values(settings)
    if as_json:
        print_json(values)
        return
    terminal = console()
    for name, value in values.items():
        mark = (
            ""
            if name.removeprefix("COLDFUSION_").lower() in settings.model_fields_set
            else " (default)"
        )
        terminal.print(
            f"{name}={value}[dim]{mark}[/dim]"
            if value is not None
            else f"[dim]{name} not set[/dim]"
        )
        if describe:
            field = Settings.model_fields[name.removeprefix("COLDFUSION_").lower()]
            text = " ".join((field.description or "").split())
            terminal.print(f"    {text}", style="dim", markup=False)


def _values(settings: Settings) -> dict[str, object]:
    from pydantic import SecretStr

    from coldfusion_queue.broker_url import masked_url

    values: dict[str, object] = {}
    for name, value in settings:
        if name == "broker_url":
            value = masked_url(settings.broker_url)
        elif isinstance(value, SecretStr):
            value = "****"
        values[f"COLDFUSION_{name.upper()}"] = str(value) if value is not None else None
    return values
