"""``coldfusion init``: make a repository from a pretrained model."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from coldfusion_queue.cli.common import (
    INTERACTIVE_ATTEMPTS,
    json_option,
    parse_settings,
    print_json,
    transfer_bar,
)
from coldfusion_queue.errors import AlreadyExistsError, NotFoundError, UsageError

if TYPE_CHECKING:
    from coldfusion_queue.records import BaseVersion, Policy
    from coldfusion_queue.repository.repository import Repository

__all__ = ["create_repository", "init"]


def _checked_size(context: click.Context, parameter: click.Parameter, value: str) -> str:
    """Sizes as transformers reads them: decimal units, so that 5GB is 5 * 10**9 bytes."""
    del context, parameter
    if not re.fullmatch(r"[1-9][0-9]{0,8}(KB|MB|GB|TB)", value):
        raise UsageError("--max-shard-size", value, "a whole number and KB, MB, GB or TB")
    return value


@click.command()
@click.option("--base", required=True, metavar="PATH_OR_HUB_ID", help="The pretrained model.")
@click.option("--create-bucket", is_flag=True, help="Create the bucket if it does not exist.")
@click.option(
    "--if-not-exists", "may_exist", is_flag=True, help="Leave a repository that exists as it is."
)
@click.option(
    "--set", "pairs", multiple=True, metavar="KEY=VALUE", help="Policy, e.g. min_contributions=4."
)
@click.option(
    "--max-shard-size",
    default="5GB",
    show_default=True,
    callback=_checked_size,
    metavar="SIZE",
    help="Size of a weight file at most; fusion workers share the files of a large model.",
)
@json_option
def init(
    base: str,
    create_bucket: bool,
    may_exist: bool,
    pairs: tuple[str, ...],
    max_shard_size: str,
    as_json: bool,
) -> None:
    """Create the repository and publish the pretrained model as base version 0."""
    from coldfusion_queue.records import Policy
    from coldfusion_queue.repository.repository import Repository
    from coldfusion_queue.settings import load_settings
    from coldfusion_queue.store import Store, check_conditional_writes

    policy = parse_settings(Policy, pairs)
    settings = load_settings()
    store = Store.open(settings, INTERACTIVE_ATTEMPTS)
    repository = Repository(store, settings.repository)
    if not store.bucket_exists():
        if not create_bucket:
            remedy = "create it, or add --create-bucket, or set COLDFUSION_S3_BUCKET"
            raise NotFoundError("bucket", store.bucket, remedy)
        store.create_bucket()
    check_conditional_writes(store, f"{repository.name}/")
    try:
        if store.stat(repository.keys.repository_record) is not None:
            remedy = "choose another COLDFUSION_REPOSITORY, or add --if-not-exists"
            raise AlreadyExistsError("repository", repository.name, remedy)
        version = create_repository(
            repository, base, policy, quiet=as_json, max_shard_size=max_shard_size
        )
        text = f"repository {repository.name} is ready: base version 0 is {base}"
    except AlreadyExistsError:
        if not may_exist:
            raise
        version = repository.ledger.entry(0).after.base
        text = f"repository {repository.name} exists and was left as it is"
    if as_json:
        print_json(
            {"repository": repository.name, "digest": version.digest, "files": len(version.files)}
        )
    else:
        click.echo(text)


def create_repository(
    repository: Repository,
    source: str,
    policy: Policy,
    *,
    quiet: bool,
    max_shard_size: str = "5GB",
) -> BaseVersion:
    """Export a pretrained model and initialise a repository with it.

    Raises:
        UsageError: the policy names datasets, of which there are none yet.
        NotFoundError: no such model.
        IncompatibleModelError: a model that cannot be used.
        AlreadyExistsError: the repository exists.
    """
    from coldfusion_queue.finetune.pretrained import export_pretrained

    if policy.gate_datasets:
        expected = "none yet: upload them, then 'coldfusion policy --set gate_datasets=NAMES'"
        raise UsageError("gate_datasets", ", ".join(policy.gate_datasets), expected)
    with tempfile.TemporaryDirectory(prefix="coldfusion-") as name:
        directory = Path(name)
        identity = export_pretrained(source, directory, max_shard_size)
        total = sum(path.stat().st_size for path in directory.iterdir())
        with transfer_bar("pretrained model", total, hidden=quiet) as bar:
            version = repository.base_versions.upload_first(directory, bar.advance)
    repository.initialise(identity, version, policy)
    return version
