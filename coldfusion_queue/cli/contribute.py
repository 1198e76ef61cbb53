"""``coldfusion contribute``: recycle a model that was finetuned elsewhere."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from coldfusion_queue.cli.common import (
    json_option,
    open_repository,
    print_json,
    trace_command,
    transfer_bar,
)
from coldfusion_queue.errors import UsageError
from coldfusion_queue.names import (
    actor,
    check_name,
    contribution_id,
    is_contribution_id,
    new_submission_id,
    slug,
)
from coldfusion_queue.tracing import traceparent

if TYPE_CHECKING:
    from collections.abc import Callable

    from coldfusion_queue.records import BaseVersion, Contribution
    from coldfusion_queue.repository.repository import Repository
    from coldfusion_queue.settings import Settings

__all__ = ["contribute"]


@click.command()
@click.argument("what", metavar="MODEL_DIR|CONTRIBUTION")
@click.option(
    "--base-version",
    type=click.IntRange(min=0),
    help="Base version that MODEL_DIR was finetuned from; 0 is the pretrained model.",
)
@click.option("--name", help="Contributor's name; derived from MODEL_DIR by default.")
@click.option(
    "--override",
    "reason",
    metavar="REASON",
    help="Fuse it although it exceeds a limit of the policy; the lineage records REASON.",
)
@json_option
def contribute(
    what: str, base_version: int | None, name: str | None, reason: str | None, as_json: bool
) -> None:
    """Contribute the model in MODEL_DIR, or with --override a refused CONTRIBUTION once more.

    Architecture, vocabulary and tensors of a model are checked before anything is uploaded; its
    task head is not used.
    """
    if reason is not None and not reason.strip():
        raise UsageError("--override", reason, "a reason")
    if not Path(what).exists() and is_contribution_id(what):
        _contribute_again(what, base_version, name, reason, as_json=as_json)
        return
    if base_version is None:
        raise UsageError("--base-version", "nothing", "the version that the model comes from")
    model_dir = Path(what)
    contributor = check_name("contributor", name) if name else slug(model_dir.absolute().name)
    settings, repository = open_repository()
    trace_command(settings)
    base = repository.ledger.base_version(base_version)
    contribution, missing = _contribute(
        settings, repository, base, model_dir, contributor, reason, quiet=as_json
    )
    if as_json:
        print_json({"contribution": contribution.contribution_id, "left_as_in_base": missing})
        return
    if missing:
        click.echo(f"not in the model, left as in the base: {', '.join(missing)}")
    click.echo(f"contributed {contribution.contribution_id}, from base version {base_version}")


def _contribute_again(
    contribution_id: str,
    base_version: int | None,
    name: str | None,
    reason: str | None,
    *,
    as_json: bool,
) -> None:
    from coldfusion_queue.repository.overriding import override

    if reason is None or base_version is not None or name is not None:
        expected = "--override REASON alone, with the id of a contribution"
        raise UsageError("contribution", contribution_id, expected)
    _, repository = open_repository()
    contribution = override(repository, contribution_id, reason)
    if as_json:
        print_json({"contribution": contribution.contribution_id, "override": reason})
        return
    click.echo(f"contributed {contribution.contribution_id}, whatever the policy's limits say")


def _contribute(
    settings: Settings,
    repository: Repository,
    base: BaseVersion,
    model_dir: Path,
    contributor: str,
    reason: str | None,
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
            committed = _commit(repository, base, contributor, path, reason, bar.advance)
            return committed, missing


def _commit(
    repository: Repository,
    base: BaseVersion,
    contributor: str,
    path: Path,
    reason: str | None,
    progress: Callable[[int], None],
) -> Contribution:
    from coldfusion_queue.records import Contribution
    from coldfusion_queue.repository.committing import SHARED_FILE
    from coldfusion_queue.repository.overriding import record_override

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
        traceparent=traceparent(),
    )
    if reason is not None:
        record_override(repository, name, reason)
    repository.submissions.create(
        contributor, kind="recycled", dataset_id=None, submission_id=submission_id
    )
    repository.contributions.commit(contribution)
    return contribution
