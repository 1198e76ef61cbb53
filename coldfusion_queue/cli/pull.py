"""``coldfusion pull``: download a base version."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import click

from coldfusion_queue.cli.common import json_option, open_repository, print_json, transfer_bar
from coldfusion_queue.disk import disk_errors
from coldfusion_queue.errors import AccessDeniedError, AlreadyExistsError, UsageError

__all__ = ["pull"]


@click.command()
@click.argument("arguments", nargs=-1, required=True, metavar="[VERSION] DIRECTORY")
@json_option
def pull(arguments: tuple[str, ...], as_json: bool) -> None:
    """Download base VERSION (the newest by default) into DIRECTORY.

    transformers loads the result: AutoModel.from_pretrained(DIRECTORY). README.md beside the model
    is its card, lineage.json the record of what it was made of.
    """
    version, directory = _parse(arguments)
    from coldfusion_queue.report.card import write_card

    _, repository = open_repository()
    base = repository.ledger.base_version(version)
    directory.parent.mkdir(parents=True, exist_ok=True)
    # Downloaded beside the target and renamed when complete: there is never half a model.
    partial = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}.partial-"))
    try:
        total = sum(file.num_bytes for file in base.files.values())
        with (
            disk_errors(directory.parent, "DIRECTORY"),
            transfer_bar(f"base version {base.version}", total, hidden=as_json) as bar,
        ):
            repository.base_versions.download(base, partial, bar.advance)
            try:
                write_card(repository, base, partial)
            except AccessDeniedError as error:  # the credentials of a site may read models alone
                click.echo(f"note: the model has no card, README.md: {error}", err=True)
        partial.chmod(0o755)
        partial.rename(directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    if as_json:
        print_json({"version": base.version, "digest": base.digest, "directory": str(directory)})
    else:
        click.echo(f"base version {base.version} is in {directory}")


def _parse(arguments: tuple[str, ...]) -> tuple[int | None, Path]:
    if len(arguments) > 2:
        raise UsageError("arguments", " ".join(arguments), "[VERSION] DIRECTORY")
    directory = Path(arguments[-1]).expanduser().absolute()
    version = None
    if len(arguments) == 2:
        if not arguments[0].isdecimal():
            raise UsageError("VERSION", arguments[0], "a number such as 3, or nothing")
        version = int(arguments[0])
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise AlreadyExistsError("directory", str(directory), "give a new or an empty one")
    return version, directory
