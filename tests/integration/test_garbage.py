"""What is collected as garbage, what is not, and what a repository is worth afterwards."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from coldfusion_queue.names import contribution_id
from coldfusion_queue.records import Collection, Outcome, Policy
from coldfusion_queue.repository import fusing
from coldfusion_queue.repository.collecting import collect_garbage, plan
from coldfusion_queue.repository.fusing import fuse_once
from coldfusion_queue.repository.garbage import Kind
from coldfusion_queue.repository.policy import change_policy
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.settings import Settings
from tests.integration import leftovers
from tests.integration.conftest import Contribute
from tests.integration.leftovers import ATTEMPT, checkpoint, keys_of, publish, put, submit

Make = Callable[[Repository], set[str]]

HOUR = 3600


@pytest.fixture
def policy() -> Policy:
    return Policy(min_contributions=1, retain_base_versions=2, retain_contributions=1)


def _marker(repository: Repository, key: str) -> set[str]:
    repository.store.create(f"{repository.name}/{key}", b"")
    return {key}


def _unrecorded_checkpoint(repository: Repository) -> set[str]:
    submit(repository, "open")
    return put(repository, f"checkpoints/open.t00001/{ATTEMPT}/checkpoint.safetensors")


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        pytest.param(
            lambda r: put(r, f"contributions/v1.t00001/{ATTEMPT}/shared.safetensors"),
            Kind.ATTEMPT,
            id="attempt-that-lost",
        ),
        pytest.param(
            lambda r: put(r, f"contributions/x.t00001/{ATTEMPT}/head.safetensors"),
            Kind.ATTEMPT,
            id="attempt-that-nobody-committed",
        ),
        pytest.param(partial(leftovers.ended, ending="failed"), Kind.CHECKPOINT, id="failed"),
        pytest.param(partial(leftovers.ended, ending="cancelled"), Kind.CHECKPOINT, id="cancelled"),
        pytest.param(partial(leftovers.ended, ending="unknown"), Kind.CHECKPOINT, id="unknown"),
        pytest.param(_unrecorded_checkpoint, Kind.CHECKPOINT, id="unrecorded-checkpoint"),
        pytest.param(partial(_marker, key="inbox/x.t00001"), Kind.MARKER, id="inbox-marker"),
        pytest.param(partial(_marker, key="open/x"), Kind.MARKER, id="open-marker"),
        pytest.param(
            lambda r: put(r, f"base/000001-{ATTEMPT}/model.safetensors"),
            Kind.BASE_ATTEMPT,
            id="attempt-at-a-published-version",
        ),
        pytest.param(
            lambda r: put(r, f"base/000002-{ATTEMPT}/lineage.json"),
            Kind.CANDIDATE,
            id="attempt-at-the-next-version",
        ),
        pytest.param(
            lambda r: put(r, f"fusions/000002-{ATTEMPT}/0-1"),
            Kind.FUSION,
            id="result-for-a-fusion-that-is-over",
        ),
        pytest.param(
            lambda r: put(r, "datasets/x/train.parquet"), Kind.DATASET, id="unrecorded-dataset"
        ),
        pytest.param(
            partial(leftovers.dataset, dataset_id="x"), Kind.DATASET, id="unnamed-dataset"
        ),
    ],
)
def test_what_no_record_names_goes_when_it_is_old_and_nothing_else_does(
    make: Make,
    kind: Kind,
    repository: Repository,
    settings: Settings,
    contribute: Contribute,
) -> None:
    publish(repository, settings, contribute, 1)
    contribute("pending", seed=7)
    leftovers.dataset(repository, "named")
    checkpoint(repository, submit(repository, "running", "named"), repository.ledger.base_version())
    doomed = make(repository)
    before = keys_of(repository)

    assert collect_garbage(repository, HOUR) == ()
    assert keys_of(repository) == before
    collected = collect_garbage(repository, 0)

    assert {item.kind for item in collected} == {kind}
    assert keys_of(repository) == before - doomed
    fuse_once(repository, settings)
    assert repository.ledger.base_version().fused[0].contributor_id == "pending"


def test_the_checkpoint_of_a_committed_turn_goes_at_once(
    repository: Repository, contribute: Contribute
) -> None:
    contribute("a")
    doomed = checkpoint(repository, contribution_id("a", 1), repository.ledger.base_version())
    before = keys_of(repository)

    collect_garbage(repository, HOUR)

    assert keys_of(repository) == before - doomed


def test_a_dataset_stays_while_a_submission_names_it_whatever_became_of_that(
    repository: Repository,
) -> None:
    keys = leftovers.dataset(repository, "first")
    submit(repository, "failed", "first")
    repository.submissions.fail("failed", 1, ValueError("no"))
    submit(repository, "other", "second")

    collect_garbage(repository, 0)

    assert keys <= keys_of(repository)


def test_weights_go_versions_after_their_decision_and_leave_head_and_records(
    repository: Repository, settings: Settings, contribute: Contribute
) -> None:
    publish(repository, settings, contribute, 4)
    change_policy(repository, {"retain_base_versions": None})
    pending = contribute("pending", base=repository.ledger.base_version(1))
    old = repository.contributions.find("v1.t00001")
    assert old is not None
    head = old.shared.key.replace("shared", "head").removeprefix(f"{repository.name}/")
    put(repository, head)

    collected = collect_garbage(repository, 0)

    # Decided at 1, 2, 3, 4; the newest is 4, and the policy retains those of one more version.
    assert [item.subject for item in collected] == ["v1.t00001", "v2.t00001"]
    left = keys_of(repository)
    assert {head, "contributions/v1.t00001/contribution.json"} <= left
    assert "contributions/v1.t00001/decision.json" in left
    assert repository.store.stat(old.shared.key) is None
    assert repository.store.stat(pending.shared.key) is not None
    key = repository.keys.contribution_collection("v1.t00001")
    record = Collection.from_bytes(repository.store.get(key), key)
    assert record.keys == (old.shared.key,)
    assert "decided at base version 1, the newest is 4" in record.reason


def test_no_weights_go_that_the_ledger_has_not_decided(
    repository: Repository, settings: Settings, contribute: Contribute
) -> None:
    publish(repository, settings, contribute, 4)
    pending = contribute("pending", base=repository.ledger.base_version(1))
    decision = repository.contributions.decision("v1.t00001")
    assert decision is not None
    forged = decision.model_copy(update={"contribution_id": pending.contribution_id})
    repository.store.create(repository.keys.decision(pending.contribution_id), forged.to_bytes())

    collect_garbage(repository, 0)

    assert repository.store.stat(pending.shared.key) is not None


@pytest.mark.parametrize(
    ("grace", "changes"),
    [
        pytest.param(HOUR, {}, id="young"),
        pytest.param(
            0, {"retain_base_versions": None, "retain_contributions": None}, id="policy-keeps-all"
        ),
        pytest.param(
            0, {"retain_base_versions": 5, "retain_contributions": 4}, id="policy-keeps-these"
        ),
    ],
)
def test_what_the_policy_retains_stays(
    grace: int,
    changes: dict[str, object],
    repository: Repository,
    settings: Settings,
    contribute: Contribute,
) -> None:
    publish(repository, settings, contribute, 5)
    if changes:
        change_policy(repository, changes)

    assert collect_garbage(repository, grace) == ()


def _versions_with_files(repository: Repository) -> set[int]:
    return {
        int(key.split("/")[1].partition("-")[0])
        for key in keys_of(repository)
        if key.startswith("base/") and key.endswith("/model.safetensors")
    }


def test_old_base_versions_go_but_for_the_first_and_what_is_needed(
    repository: Repository, settings: Settings, contribute: Contribute, tmp_path: Path
) -> None:
    from transformers import AutoModel

    publish(repository, settings, contribute, 6)
    base = repository.ledger.base_version
    contribute("pending", base=base(2), seed=7)
    checkpoint(repository, submit(repository, "interrupted"), base(3))

    collect_garbage(repository, 0)

    assert _versions_with_files(repository) == {0, 2, 3, 5, 6}
    for version in (0, 2, 3, 5, 6):
        directory = tmp_path / f"base-{version}"
        directory.mkdir()
        repository.base_versions.download(base(version), directory)
        AutoModel.from_pretrained(directory)
    left = {item.key for item in repository.store.list(base(4).prefix)}
    assert left == {base(4).prefix + name for name in ("lineage.json", "collected.json")}


def test_fusing_goes_on_with_a_stale_contribution_in_full_form(
    repository: Repository, settings: Settings, contribute: Contribute
) -> None:
    publish(repository, settings, contribute, 5)
    stale = contribute("stale", base=repository.ledger.base_version(1), form="full", seed=9)
    collect_garbage(repository, 0)

    report = fuse_once(repository, settings)

    assert [item.outcome for item in report.decisions] == [Outcome.FUSED]
    assert stale.base_version in _versions_with_files(repository)
    collect_garbage(repository, 0)
    assert _versions_with_files(repository) == {0, 5, 6}


def test_one_from_a_base_version_that_was_collected_is_refused_and_holds_up_nobody(
    repository: Repository, settings: Settings, contribute: Contribute
) -> None:
    publish(repository, settings, contribute, 4)
    zombie = contribute("zombie", base=repository.ledger.base_version(1), form="full", seed=9)
    weights = repository.store.get(zombie.shared.key)
    record = repository.keys.contribution(zombie.contribution_id)
    repository.store.delete([record, repository.keys.inbox_marker(zombie.contribution_id)])
    collect_garbage(repository, 0)
    assert 1 not in _versions_with_files(repository)
    repository.store.put(zombie.shared.key, weights)
    repository.contributions.commit(zombie)
    contribute("good", seed=10)

    report = fuse_once(repository, settings)

    outcomes = {item.contribution_id: item for item in report.decisions}
    assert outcomes["good.t00001"].outcome is Outcome.FUSED
    assert outcomes["zombie.t00001"].outcome is Outcome.REFUSED
    assert "base/000001-" in outcomes["zombie.t00001"].reason
    assert "collected as garbage" in outcomes["zombie.t00001"].reason


def test_a_contribution_without_a_marker_is_found_again(
    repository: Repository, settings: Settings, contribute: Contribute
) -> None:
    contribution = contribute("zombie")
    repository.inbox.remove([contribution.contribution_id])
    assert fuse_once(repository, settings).entry is None

    collected = collect_garbage(repository, HOUR)

    assert [item.kind for item in collected] == [Kind.UNMARKED_CONTRIBUTION]
    report = fuse_once(repository, settings)
    assert [item.contribution_id for item in report.decisions] == [contribution.contribution_id]


def test_a_decided_contribution_is_not_marked_again_even_if_it_is_not_settled(
    repository: Repository,
    settings: Settings,
    contribute: Contribute,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    contribution = contribute("a")
    monkeypatch.setattr(fusing, "settle", lambda *_: None)  # as if it had died after the append
    fuse_once(repository, settings)
    monkeypatch.undo()
    repository.inbox.remove([contribution.contribution_id])

    assert plan(repository, 0).items == ()
    assert collect_garbage(repository, 0) == ()

    assert repository.contributions.decision(contribution.contribution_id) is not None
    assert repository.inbox.count() == 0


@pytest.mark.parametrize(
    ("ending", "is_marked"), [("open", True), ("failed", False), ("complete", False)]
)
def test_a_submission_without_a_marker_is_found_again_if_it_has_turns_left(
    ending: str, is_marked: bool, repository: Repository, contribute: Contribute
) -> None:
    submit(repository, "a")
    if ending == "failed":
        repository.submissions.fail("a", 1, ValueError("no"))
    if ending == "complete":
        contribute("a")
    repository.submissions.close("a")

    collect_garbage(repository, HOUR)

    assert (repository.submissions.count_open() == 1) is is_marked
