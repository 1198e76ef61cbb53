"""``coldfusion contribute``: recycle a model that was finetuned elsewhere."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from coldfusion_queue.cli.common import json_option, open_repository, print_json, transfer_bar
from coldfusion_queue.names import actor, check_name, contribution_id, new_submission_id, slug

if TYPE_CHECKING:
    from collections.abc import Callable

    from coldfusion_queue.records import BaseVersion, Contribution
    from coldfusion_queue.repository.repository import Repository
    from coldfusion_queue.settings import Settings

__all__ = ["contribute"]


@click.command()
@click.argument("model_dir", type=click.Path(path_type=Path))
@click.option(
    "--base-version",
    type=click.IntRange(min=0),
    required=True,
    help="Base version that it was finetuned from; 0 is the pretrained model.",
)
@click.option("--name", help="Contributor's name; derived from MODEL_DIR by default.")
@json_option
def contribute(model_dir: Path, base_version: int, name: str | None, as_json: bool) -> None:
    """Contribute the model in MODEL_DIR; its task head is not used.

    Architecture, vocabulary and tensors are checked before anything is uploaded.
    """
    contributor = check_name("contributor", name) if name else slug(model_dir.absolute().name)
    settings, repository = open_repository()
    base = repository.ledger.base_version(base_version)
    contribution, missing = _contribute(
        settings, repository, base, model_dir, contributor, quiet=as_json
    )
    if as_json:
        print_json({"contribution": contribution.contribution_id, "left_as_in_base": missing})
        return
    if missing:
        click.echo(f"not in the model, left as in the base: {', '.join(missing)}")
    click.echo(f"contributed {contribution.contribution_id}, from base version {base_version}")


def _contribute(
    settings: Settings,
    repository: Repository,
    base: BaseVersion,
    model_dir: Path,
    contributor: str,
    *,
    quiet: bool,
) -> tuple[Contribution, list[str]]:
    from coldfusion_queue.cache import LocalCache
    from coldfusion_queue.finetune.pretrained import check_identity, save_recycled

    if not check_identity(model_dir, repository.record().identity):
        click.echo(
            "note: MODEL_DIR holds no tokenizer, so vocabularies were not compared", err=True
        )
    cache = LocalCache(settings.cache_dir, settings.cache_bytes)
    with (
        repository.base_versions.cached(base, cache) as base_dir,
        tempfile.TemporaryDirectory(prefix="coldfusion-") as work_dir,
    ):
        path = Path(work_dir) / "shared.safetensors"
        missing = save_recycled(model_dir, base_dir, path)
        with transfer_bar("contribution", path.stat().st_size, hidden=quiet) as bar:
            return _commit(repository, base, contributor, path, bar.advance), missing


def _commit(
    repository: Repository,
    base: BaseVersion,
    contributor: str,
    path: Path,
    progress: Callable[[int], None],
) -> Contribution:
    from coldfusion_queue.records import Contribution
    from coldfusion_queue.repository.committing import SHARED_FILE

    submission_id = new_submission_id(contributor)
    name = contribution_id(submission_id, 1)
    attempt, files = repository.contributions.upload(name, {SHARED_FILE: path}, progress)
    contribution = Contribution(
        contribution_id=name,
        submission_id=submission_id,
        contributor_id=contributor,
        dataset_id=None,
        turn=1,
        attempt=attempt,
        base_version=base.version,
        base_digest=base.digest,
        form="delta",
        shared=files[SHARED_FILE],
        head=None,
        num_examples=0,
        metrics={},
        created_at=datetime.now(UTC),
        created_by=actor(),
    )
    repository.submissions.create(
        contributor, kind="recycled", dataset_id=None, submission_id=submission_id
    )
    repository.contributions.commit(contribution)
    return contribution
