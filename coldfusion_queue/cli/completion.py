"""``coldfusion completion``: shell completion for both programs."""

from __future__ import annotations

import click

__all__ = ["completion"]


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a completion script for SHELL.

    \b
    bash:  coldfusion completion bash >> ~/.bashrc
    zsh:   coldfusion completion zsh  >> ~/.zshrc
    fish:  coldfusion completion fish > ~/.config/fish/completions/coldfusion.fish
    """
    from click.shell_completion import get_completion_class

    from coldfusion_queue.cli.submit import submit

    cli = click.get_current_context().find_root().command

    script = get_completion_class(shell)
    if script is None:
        raise click.UsageError(f"no completion for {shell}")
    for command, name in ((cli, "coldfusion"), (submit, "coldfusion-submit")):
        variable = f"_{name.replace('-', '_').upper()}_COMPLETE"
        click.echo(script(command, {}, name, variable).source())
