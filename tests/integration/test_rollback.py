"""Rollbacks against the real store, by an operator and by the gate."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from transformers import AutoModel

from coldfusion_queue.audit import audit
from coldfusion_queue.cli.main import cli
from coldfusion_queue.crash_points import CrashPoint, install
from coldfusion_queue.errors import LedgerConflictError, NotFoundError, UsageError
from coldfusion_queue.records import Outcome, Policy
from coldfusion_queue.repository.collecting import collect_garbage
from coldfusion_queue.repository.fusing import fuse_once
from coldfusion_queue.repository.gating import gate_specs
from coldfusion_queue.repository.policy import change_policy
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.repository.rolling_back import roll_back
from coldfusion_queue.settings import Settings
from tests.integration.audited import NO_GRACE
from tests.integration.conftest import Contribute, Tensors
from tests.integration.probing import harmed_by, probe_wanted
from tests.integration.submitting import upload_rows

ReadModel = Callable[..., Tensors]


@pytest.fixture
def policy() -> Policy:
    return Policy(min_contributions=1, max_copy_cosine=None, min_cosine=None)


@pytest.fixture
def three_versions(repository: Repository, settings: Settings, contribute: Contribute) -> None:
    """Base versions 1, 2 and 3, each with one contribution."""
    for number, name in enumerate(("a", "b", "c")):
        contribute(name, seed=number)
        fuse_once(repository, settings)


def assert_sound(repository: Repository, settings: Settings) -> None:
    collect_garbage(repository, 0)
    assert audit(settings, repository.name, NO_GRACE).findings == ()


@pytest.mark.usefixtures("three_versions")
def test_an_old_version_is_published_under_a_new_number(
    repository: Repository, settings: Settings, read_model: ReadModel, tmp_path: Path
) -> None:
    before = [entry.to_bytes() for entry in repository.ledger.entries()]

    entry = roll_back(repository, 1, "the newest is worse")

    restored = repository.ledger.base_version()
    assert (restored.version, restored.parent, restored.restores) == (4, 3, 1)
    assert restored.digest == repository.ledger.base_version(1).digest
    assert restored.prefix != repository.ledger.base_version(1).prefix
    assert "version 1, the newest is worse" in entry.note
    assert [each.to_bytes() for each in repository.ledger.entries()][:-1] == before
    assert (
        read_model(4)["embeddings.LayerNorm.bias"] == read_model(1)["embeddings.LayerNorm.bias"]
    ).all()
    directory = tmp_path / "pulled"
    directory.mkdir()
    repository.base_versions.download(restored, directory)
    AutoModel.from_pretrained(directory)
    assert_sound(repository, settings)


@pytest.mark.usefixtures("three_versions")
def test_what_was_finetuned_from_a_version_that_was_rolled_back_still_counts(
    repository: Repository, settings: Settings, contribute: Contribute, read_model: ReadModel
) -> None:
    import numpy as np

    deltas: list[Tensors] = []

    def remember(delta: Tensors) -> Tensors:
        deltas.append(delta)
        return delta

    contribute("late", seed=9, change=remember)  # from version 3
    roll_back(repository, 1, "worse")
    fuse_once(repository, settings)

    published = repository.ledger.base_version()
    (line,) = published.fused
    assert (published.version, published.parent) == (5, 4)
    assert (line.base_version, line.staleness) == (3, 1)
    expected = read_model(1)["pooler.dense.weight"] + deltas[0]["pooler.dense.weight"]
    np.testing.assert_allclose(read_model(5)["pooler.dense.weight"], expected, atol=1e-6)
    assert_sound(repository, settings)


@pytest.mark.usefixtures("three_versions")
def test_a_rollback_can_be_rolled_back(repository: Repository, settings: Settings) -> None:
    roll_back(repository, 1, "worse")
    roll_back(repository, 3, "it was not")

    restored = repository.ledger.base_version()
    assert (restored.version, restored.restores) == (5, 3)
    assert_sound(repository, settings)


@pytest.mark.usefixtures("three_versions")
@pytest.mark.parametrize("version", [3, 4, 99])
def test_what_cannot_be_restored_is_refused_and_nothing_is_written(
    repository: Repository, version: int
) -> None:
    before = {item.key for item in repository.store.list(f"{repository.name}/")}
    expected = UsageError if version == 3 else NotFoundError

    with pytest.raises(expected):
        roll_back(repository, version, "")

    assert {item.key for item in repository.store.list(f"{repository.name}/")} == before


@pytest.mark.usefixtures("three_versions")
def test_a_version_whose_files_were_collected_is_refused_with_a_remedy(
    repository: Repository,
) -> None:
    old = repository.ledger.base_version(1)
    repository.store.delete([old.model_files[0].key])

    with pytest.raises(NotFoundError):
        roll_back(repository, 1, "")

    newest = repository.ledger.newest()
    assert newest.after.base.version == 3
    assert not list(repository.store.list(f"{repository.keys.bases}000004-"))


@pytest.mark.parametrize(
    "method", [pytest.param({"method": "nesterov", "momentum": 0.9}, id="nesterov")]
)
def test_momentum_begins_anew(
    repository: Repository, settings: Settings, contribute: Contribute, method: dict[str, object]
) -> None:
    change_policy(repository, method)
    for number, name in enumerate(("a", "b")):
        contribute(name, seed=number)
        fuse_once(repository, settings)
    assert repository.ledger.base_version(1).state is not None

    roll_back(repository, 1, "worse")

    assert repository.ledger.base_version().state is None
    assert_sound(repository, settings)


@pytest.mark.usefixtures("three_versions")
@pytest.mark.parametrize(
    "point",
    [CrashPoint.ROLLBACK_UPLOADED, CrashPoint.ROLLBACK_APPENDED],
)
def test_killed_at_any_point_it_is_done_or_not_done(
    repository: Repository, settings: Settings, point: CrashPoint
) -> None:
    class Killed(BaseException):
        pass

    def hook(reached: CrashPoint) -> None:
        if reached is point:
            raise Killed

    install(hook)
    try:
        with pytest.raises(Killed):
            roll_back(repository, 1, "worse")
    finally:
        install(None)

    is_done = point is CrashPoint.ROLLBACK_APPENDED
    assert repository.ledger.base_version().version == (4 if is_done else 3)
    assert_sound(repository, settings)


@pytest.mark.usefixtures("three_versions")
def test_a_fusion_that_was_faster_is_rolled_back_too(
    repository: Repository, settings: Settings, contribute: Contribute
) -> None:
    contribute("d", seed=7)
    is_first = True

    def hook(reached: CrashPoint) -> None:
        nonlocal is_first
        if reached is CrashPoint.ROLLBACK_UPLOADED and is_first:
            is_first = False
            fuse_once(Repository(repository.store, repository.name), settings)

    install(hook)
    try:
        roll_back(repository, 1, "worse")
    finally:
        install(None)

    restored = repository.ledger.base_version()
    assert (restored.version, restored.parent, restored.restores) == (5, 4, 1)
    assert_sound(repository, settings)


def test_a_fusion_under_way_loses_against_a_rollback(
    repository: Repository, settings: Settings, contribute: Contribute
) -> None:
    contribute("a", seed=1)
    fuse_once(repository, settings)
    contribute("b", seed=2)

    def hook(reached: CrashPoint) -> None:
        if reached is CrashPoint.PUBLISH_LINEAGE:
            install(None)
            roll_back(Repository(repository.store, repository.name), 0, "worse")

    install(hook)
    try:
        with pytest.raises(LedgerConflictError):
            fuse_once(repository, settings)
    finally:
        install(None)
    fuse_once(repository, settings)

    published = repository.ledger.base_version()
    assert published.version == 3
    assert [line.contribution_id for line in published.fused] == ["b.t00001"]
    assert_sound(repository, settings)


@pytest.mark.usefixtures("three_versions")
def test_the_gate_rolls_back_what_is_later_found_to_be_worse(
    repository: Repository, settings: Settings, contribute: Contribute, tmp_path: Path
) -> None:
    change_policy(repository, {"gate_datasets": (upload_rows(repository, tmp_path),)})
    for version in range(4):  # somebody has the old ones measured too
        base = repository.ledger.base_version(version)
        repository.evaluations.want(base, gate_specs(repository.ledger.newest().after.policy))
    # The third contribution does harm; the second was the best.
    scores = {0: 0.5, 1: 0.55, 2: 0.6, 3: 0.4}
    probe_wanted(repository, lambda base: scores[base.version])
    contribute("d", seed=7)

    entry = fuse_once(repository, settings).entry

    assert entry is not None
    assert entry.published is not None
    assert (entry.published.version, entry.published.restores) == (4, 2)
    assert "0.4000" in entry.note
    assert "0.6000" in entry.note
    assert entry.decisions == ()
    fuse_once(repository, settings)  # and goes on from there, without rolling back again
    probe_wanted(repository, harmed_by((), gain=0.2))
    assert fuse_once(repository, settings).decisions[0].outcome is Outcome.FUSED
    assert_sound(repository, settings)


@pytest.mark.usefixtures("three_versions")
@pytest.mark.parametrize("change", [{"gate_max_drift": None}, {"gate_max_drift": 0.3}])
def test_within_the_drift_nothing_is_rolled_back(
    repository: Repository,
    settings: Settings,
    contribute: Contribute,
    tmp_path: Path,
    change: dict[str, object],
) -> None:
    dataset_id = upload_rows(repository, tmp_path)
    change_policy(repository, {"gate_datasets": (dataset_id,), **change})
    for version in range(4):
        base = repository.ledger.base_version(version)
        repository.evaluations.want(base, gate_specs(repository.ledger.newest().after.policy))
    probe_wanted(repository, lambda base: 0.6 - 0.1 * (base.version == 3))
    contribute("d", seed=7)

    report = fuse_once(repository, settings)

    assert report.candidate is not None


@pytest.mark.usefixtures("three_versions", "settings")
def test_the_command_says_what_it_did(repository: Repository) -> None:
    done = CliRunner().invoke(cli, ["rollback", "1", "--reason", "worse", "--json"])

    assert done.exit_code == 0
    assert json.loads(done.output)["published"]["restores"] == 1
    assert repository.ledger.base_version().version == 4
