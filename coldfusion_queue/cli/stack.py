"""``coldfusion up`` and ``down``: the local stack."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from coldfusion_queue.cli.common import console, json_option, print_json

if TYPE_CHECKING:
    from coldfusion_queue.local.stack import LocalStack
    from coldfusion_queue.settings import Settings

__all__ = ["down", "up"]


@click.command()
@click.option(
    "--finetune-workers", type=click.IntRange(min=0), default=1, show_default=True, help="How many."
)
@click.option(
    "--evaluation-workers",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    help="How many; without any a gate lets nothing pass.",
)
@json_option
def up(finetune_workers: int, evaluation_workers: int, as_json: bool) -> None:
    """Start broker, object store, workers, beat and exporter on this machine.

    Other commands find them by themselves. Data and credentials are kept in COLDFUSION_HOME and
    found again by the next 'up'.
    """
    stack = _stack()
    settings = stack.up(finetune_workers=finetune_workers, evaluation_workers=evaluation_workers)
    if as_json:
        print_json(_describe(stack, settings))
        return
    _print(stack, settings)


@click.command()
@click.option("--remove-data", is_flag=True, help="Also delete repositories, queues and logs.")
def down(remove_data: bool) -> None:
    """Stop the local stack; running finetunes go back to the queue."""
    _stack().down(remove_data=remove_data)
    click.echo("the local stack is down" + (", its data is deleted" if remove_data else ""))


def _stack() -> LocalStack:
    from coldfusion_queue.local.stack import LocalStack
    from coldfusion_queue.settings import load_settings

    return LocalStack(load_settings().home)


def _describe(stack: LocalStack, settings: Settings) -> dict[str, object]:
    return {
        "s3_endpoint": settings.s3_endpoint,
        "bucket": settings.s3_bucket,
        "environment_file": str(stack.env_file),
        "processes": [
            {
                "name": item.name,
                "pid": item.pid,
                "running": item.running,
                "log": str(item.log),
                "metrics_port": item.metrics_port,
            }
            for item in stack.processes()
        ],
    }


def _print(stack: LocalStack, settings: Settings) -> None:
    terminal = console()
    for item in stack.processes():
        port = f"metrics on port {item.metrics_port}" if item.metrics_port else ""
        terminal.print(f"  {item.name:<12} pid {item.pid:<8} {port}", markup=False)
    terminal.print(f"logs are in {stack.directory / 'logs'}", markup=False)
    terminal.print(
        f"\nThe local stack is up: store {settings.s3_endpoint}, bucket {settings.s3_bucket}.\n"
        "Next: coldfusion init --base PATH_OR_HUB_ID, then coldfusion-submit DATA --wait",
        markup=False,
    )
