"""The fusion protocol against the real store; the oracle is float64 numpy of its own."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from coldfusion_queue.errors import LedgerConflictError, NotFoundError
from coldfusion_queue.records import Contribution, Outcome
from coldfusion_queue.repository import deciding, fusing, looking
from coldfusion_queue.repository.admission import admit
from coldfusion_queue.repository.fusing import fuse_once
from coldfusion_queue.repository.fusion_job import Alone
from coldfusion_queue.repository.inspecting import Inspector
from coldfusion_queue.repository.opening import Opener
from coldfusion_queue.repository.policy import change_policy
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.repository.settling import settle
from coldfusion_queue.settings import Settings
from tests.integration.conftest import Contribute, Tensors

ReadModel = Callable[..., Tensors]


def lineage_mean(repository: Repository, version: int, tmp_path: Path) -> dict[str, np.ndarray]:
    """theta_{t+1} of a version's lineage in float64, from the objects that it names alone."""
    published = repository.ledger.base_version(version)
    parent = published.parent
    assert parent is not None
    result = as_float64(repository, parent, tmp_path)
    for line in published.fused:
        record = repository.contributions.find(line.contribution_id)
        assert record is not None
        path = tmp_path / f"oracle-{line.contribution_id}.safetensors"
        repository.store.download(record.shared, path)
        own = as_float64(repository, line.base_version, tmp_path)
        for name, value in load_file(path).items():
            delta = value.astype(np.float64)
            if record.form == "full":
                delta = delta - own[name]
            result[name] = result[name] + line.coefficient * delta
    return result


def as_float64(repository: Repository, version: int, tmp_path: Path) -> dict[str, np.ndarray]:
    path = tmp_path / f"oracle-base-{version}.safetensors"
    repository.store.download(repository.ledger.base_version(version).model_files[0], path)
    return {name: value.astype(np.float64) for name, value in load_file(path).items()}


def assert_equal_to_rounding(
    got: Tensors, expected: dict[str, np.ndarray], num_fusions: int = 1
) -> None:
    assert got.keys() == expected.keys()
    for name, value in got.items():
        # Sums of a few numbers no larger than the largest of the tensor.
        rounding = 4 * num_fusions * np.finfo(np.float32).eps * np.abs(expected[name]).max()
        np.testing.assert_allclose(value, expected[name], rtol=0, atol=rounding, err_msg=name)


def remembered() -> tuple[list[dict[str, np.ndarray]], Callable[[Tensors], Tensors]]:
    """Deltas in float64, and a ``change`` for ``contribute`` that notes each there."""
    deltas: list[dict[str, np.ndarray]] = []

    def remember(delta: Tensors) -> Tensors:
        deltas.append({name: value.astype(np.float64) for name, value in delta.items()})
        return delta

    return deltas, remember


def test_the_fused_model_is_the_mean_that_its_lineage_says(
    repository: Repository,
    settings: Settings,
    contribute: Contribute,
    read_model: ReadModel,
    tmp_path: Path,
) -> None:
    contributions = [
        contribute("a", seed=1),
        contribute("b", seed=2, form="full"),
        contribute("c", seed=3),
    ]

    report = fuse_once(repository, settings)

    published = repository.ledger.base_version()
    assert published.version == 1
    assert [line.contribution_id for line in published.fused] == [
        item.contribution_id for item in contributions
    ]
    assert [line.coefficient for line in published.fused] == pytest.approx([1 / 3] * 3)
    assert {item.outcome for item in report.decisions} == {Outcome.FUSED}
    assert_equal_to_rounding(read_model(1), lineage_mean(repository, 1, tmp_path))


def test_contributions_on_the_current_base_give_the_papers_mean_of_models(
    repository: Repository, settings: Settings, contribute: Contribute, read_model: ReadModel
) -> None:
    before = read_model(0)
    deltas, remember = remembered()
    for seed in range(4):
        contribute(f"c{seed}", seed=seed, change=remember)

    fuse_once(repository, settings)

    models = [{name: before[name] + delta[name] for name in before} for delta in deltas]
    mean = {name: np.mean([model[name] for model in models], axis=0) for name in before}
    assert_equal_to_rounding(read_model(1), mean)


def test_stale_ones_count_less_and_relative_to_their_own_base(
    repository: Repository,
    settings: Settings,
    contribute: Contribute,
    read_model: ReadModel,
    tmp_path: Path,
) -> None:
    old = repository.ledger.base_version()
    contribute("first", seed=1)
    fuse_once(repository, settings)
    contribute("fresh", seed=2)
    contribute("stale", seed=3, base=old, form="full")

    fuse_once(repository, settings)

    lines = {line.contributor_id: line for line in repository.ledger.base_version().fused}
    # w = (1 + s)^-0.5: 1 for the fresh one, 0.7071 for the stale one.
    assert (lines["fresh"].staleness, lines["stale"].staleness) == (0, 1)
    assert lines["fresh"].coefficient == pytest.approx(1 / (1 + 2**-0.5))
    assert lines["stale"].coefficient == pytest.approx(2**-0.5 / (1 + 2**-0.5))
    assert_equal_to_rounding(read_model(2), lineage_mean(repository, 2, tmp_path))


def test_where_contributors_count_alike_the_ledger_says_who_was_away_for_how_long(
    repository: Repository,
    settings: Settings,
    contribute: Contribute,
    read_model: ReadModel,
    tmp_path: Path,
) -> None:
    change_policy(repository, {"balance": "contributors", "balance_limit": 3})
    numbers = itertools.count()

    def contribute_all(names: Sequence[str]) -> None:
        for name in names:
            number = next(numbers)
            contribute(f"{name}-{number}", contributor=name, seed=number)

    for wait, names in enumerate((["fast", "slow", "away"], ["fast"], ["fast"], ["fast", "mid"])):
        contribute_all(names)
        fuse_once(repository, settings)
        # An entry that publishes nothing counts for nobody.
        change_policy(repository, {"max_wait_seconds": float(wait)})
    change_policy(repository, {"max_wait_seconds": 0.0})
    contribute_all(["fast", "fast", "mid", "slow", "new"])

    fuse_once(repository, settings)

    published = repository.ledger.base_version()
    found: dict[str, list[float]] = {}
    for line in published.fused:
        found.setdefault(line.contributor_id, []).append(line.coefficient)
    # Into version 4, which has fast and mid; slow is in version 1, new in none: 3 at most.
    assert published.version == 5
    assert found["fast"] == pytest.approx([0.5 / 8] * 2)
    assert found["mid"] == pytest.approx([1 / 8])
    assert found["slow"] == found["new"] == pytest.approx([3 / 8])
    assert_equal_to_rounding(read_model(5), lineage_mean(repository, 5, tmp_path), 5)


def test_a_policy_of_another_method_publishes_what_that_method_gives(
    repository: Repository, settings: Settings, contribute: Contribute, read_model: ReadModel
) -> None:
    before = read_model(0)
    deltas, remember = remembered()
    for seed in range(4):
        contribute(f"c{seed}", seed=seed, change=remember)
    change_policy(repository, {"method": "median"})

    fuse_once(repository, settings)

    published = repository.ledger.base_version()
    assert (published.version, published.method) == (1, "median")
    assert [line.coefficient for line in published.fused] == pytest.approx([1 / 4] * 4)
    expected = {
        name: before[name].astype(np.float64) + np.median([delta[name] for delta in deltas], axis=0)
        for name in before
    }
    assert_equal_to_rounding(read_model(1), expected)


def test_a_methods_options_are_the_policys(
    repository: Repository, settings: Settings, contribute: Contribute, read_model: ReadModel
) -> None:
    before = read_model(0)
    deltas, remember = remembered()
    contribute("a", seed=1, change=remember)
    contribute("b", seed=2, change=remember)
    change_policy(repository, {"method": "task_arithmetic", "task_arithmetic_scale": 0.75})

    fuse_once(repository, settings)

    expected = {
        name: before[name].astype(np.float64)
        + 0.75 * np.sum([delta[name] for delta in deltas], axis=0)
        for name in before
    }
    assert_equal_to_rounding(read_model(1), expected)


def test_one_fusion_alone_has_another_method_and_the_policy_stays(
    repository: Repository, settings: Settings, contribute: Contribute, read_model: ReadModel
) -> None:
    before = read_model(0)
    deltas, remember = remembered()
    for seed in range(3):
        contribute(f"c{seed}", seed=seed, change=remember)
    change_policy(repository, {"min_contributions": 9})

    report = fuse_once(repository, settings, {"method": "median", "min_contributions": 1})

    assert report.entry is not None
    assert report.entry.note == "base version 1: 3 fused; by method=median, min_contributions=1"
    after = repository.ledger.newest().after
    assert (after.base.method, after.policy.method) == ("median", "mean")
    assert after.policy.min_contributions == 9
    assert report.entry.policy is None
    expected = {
        name: before[name].astype(np.float64) + np.median([delta[name] for delta in deltas], axis=0)
        for name in before
    }
    assert_equal_to_rounding(read_model(1), expected)


def test_every_method_says_in_the_lineage_what_it_was_told(
    repository: Repository, settings: Settings, contribute: Contribute
) -> None:
    change_policy(repository, {"method": "centered_clip", "clip_factor": 1.5})
    contribute("a")

    fuse_once(repository, settings)

    published = repository.ledger.base_version()
    assert published.method_options == {"clip_factor": 1.5, "clip_iterations": 3}
    assert (published.state, repository.ledger.base_version(0).method_options) == (None, {})


def test_nothing_happens_before_enough_are_there(
    repository: Repository, settings: Settings, contribute: Contribute
) -> None:
    change_policy(repository, {"min_contributions": 2, "max_wait_seconds": 900})
    contribute("a")

    report = fuse_once(repository, settings)

    assert (report.num_pending, report.entry) == (1, None)
    assert repository.ledger.newest().sequence == 1


def test_a_fused_one_is_decided_once_and_leaves_the_inbox(
    repository: Repository, settings: Settings, contribute: Contribute
) -> None:
    contribution = contribute("a")

    fuse_once(repository, settings)
    again = fuse_once(repository, settings)

    assert again.entry is None
    assert repository.inbox.count() == 0
    decision = repository.contributions.decision(contribution.contribution_id)
    assert decision is not None
    assert (decision.outcome, decision.version, decision.sequence) == (Outcome.FUSED, 1, 1)


def _nan(delta: Tensors) -> Tensors:
    name = sorted(delta)[0]
    delta[name] = delta[name].copy()
    delta[name].flat[0] = np.nan
    return delta


def _missing(delta: Tensors) -> Tensors:
    del delta[sorted(delta)[0]]
    return delta


def _extra(delta: Tensors) -> Tensors:
    return {**delta, "classifier.weight": np.zeros(3, np.float32)}


def _reshaped(delta: Tensors) -> Tensors:
    name = sorted(delta)[0]
    return {**delta, name: np.zeros((3, 3), np.float32)}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param(_nan, "NaN", id="nan"),
        pytest.param(_missing, "missing", id="missing-tensor"),
        pytest.param(_extra, "classifier.weight", id="extra-tensor"),
        pytest.param(_reshaped, "(3, 3)", id="wrong-shape"),
    ],
)
def test_one_that_cannot_be_fused_is_refused_and_the_others_go_on(
    change: Callable[[Tensors], Tensors],
    reason: str,
    repository: Repository,
    settings: Settings,
    contribute: Contribute,
    read_model: ReadModel,
    tmp_path: Path,
) -> None:
    bad = contribute("bad", change=change)
    good = contribute("good", seed=1)

    report = fuse_once(repository, settings)

    outcomes = {item.contribution_id: item for item in report.decisions}
    assert outcomes[good.contribution_id].outcome is Outcome.FUSED
    assert outcomes[bad.contribution_id].outcome is Outcome.REFUSED
    assert reason in outcomes[bad.contribution_id].reason
    assert_equal_to_rounding(read_model(1), lineage_mean(repository, 1, tmp_path))
    # What the broken attempt had written is gone.
    prefixes = {
        item.key.split("/")[2] for item in repository.store.list(f"{repository.name}/base/")
    }
    assert len(prefixes) == 2


def test_damaged_bytes_are_refused_with_both_digests(
    repository: Repository, settings: Settings, contribute: Contribute
) -> None:
    contribution = contribute("a")
    data = bytearray(repository.store.get(contribution.shared.key))
    data[-3] ^= 1
    repository.store.put(contribution.shared.key, bytes(data))

    report = fuse_once(repository, settings)

    assert report.entry is not None
    assert report.entry.published is None
    assert contribution.shared.digest in report.decisions[0].reason


@pytest.mark.parametrize("base_version", [0, 7])
def test_one_that_claims_a_base_that_was_never_published_is_refused(
    base_version: int, repository: Repository, settings: Settings, contribute: Contribute
) -> None:
    base = repository.ledger.base_version()
    lied = base.model_copy(update={"version": base_version})
    if base_version == 0:
        wrong = base.model_files[0].model_copy(update={"digest": "0" * 64})
        lied = lied.model_copy(update={"files": {**base.files, "model.safetensors": wrong}})

    def record(contribution: Contribution) -> Contribution:
        return contribution.model_copy(
            update={"base_version": base_version, "base_digest": lied.digest}
        )

    original = repository.contributions.commit
    repository.contributions.commit = lambda item: original(record(item))  # type: ignore[method-assign]
    contribute("liar")

    report = fuse_once(repository, settings)

    assert [item.outcome for item in report.decisions] == [Outcome.REFUSED]
    assert repository.ledger.base_version().version == 0


def test_of_two_fusers_at_once_one_wins_and_the_other_leaves_nothing(
    repository: Repository,
    settings: Settings,
    contribute: Contribute,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for seed in range(3):
        contribute(f"c{seed}", seed=seed)
    both_have_fused = threading.Barrier(2, timeout=30)
    decide = looking.decide

    def decide_then_wait(*arguments: object) -> object:
        entry = decide(*arguments)  # type: ignore[arg-type]
        both_have_fused.wait()
        return entry

    monkeypatch.setattr(looking, "decide", decide_then_wait)
    outcomes: list[object] = []

    def run() -> None:
        own = Repository(repository.store, repository.name)
        try:
            outcomes.append(fuse_once(own, settings).entry)
        except LedgerConflictError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(type(item).__name__ for item in outcomes) == [
        "LedgerConflictError",
        "LedgerEntry",
    ]
    newest = repository.ledger.newest()
    assert (newest.sequence, newest.after.base.version) == (1, 1)
    prefixes = {
        item.key.rpartition("/")[0] + "/"
        for item in repository.store.list(f"{repository.name}/base/")
    }
    assert newest.after.base.prefix in prefixes
    assert len(prefixes) == 2


def test_a_crash_between_ledger_and_settling_is_made_good_by_the_next_fusion(
    repository: Repository,
    settings: Settings,
    contribute: Contribute,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = contribute("a", seed=1)
    calls: list[int] = []

    def crash_the_second_time(*arguments: object) -> None:
        calls.append(1)
        if len(calls) == 2:  # the one right after the append
            raise KeyboardInterrupt
        settle(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(fusing, "settle", crash_the_second_time)
    with pytest.raises(KeyboardInterrupt):
        fuse_once(repository, settings)
    assert repository.contributions.decision(first.contribution_id) is None
    monkeypatch.undo()
    contribute("b", seed=2)

    fuse_once(repository, settings)

    published = repository.ledger.base_version()
    assert published.version == 2
    assert [line.contributor_id for line in published.fused] == ["b"]
    assert repository.contributions.decision(first.contribution_id) is not None


def test_a_late_duplicate_of_a_decided_one_loses_its_marker(
    repository: Repository, settings: Settings, contribute: Contribute
) -> None:
    contribution = contribute("a")
    fuse_once(repository, settings)
    zombie = contribution.model_copy(update={"attempt": "zombie"})

    assert repository.contributions.commit(zombie) is False
    assert repository.inbox.count() == 1
    report = fuse_once(repository, settings)

    assert (report.num_pending, report.entry) == (0, None)
    assert repository.inbox.count() == 0
    assert repository.ledger.base_version().version == 1


def test_a_marker_without_a_contribution_blocks_nobody(
    repository: Repository, settings: Settings, contribute: Contribute
) -> None:
    repository.store.create(repository.keys.inbox_marker("never.t00001"), b"")
    contribute("a")

    report = fuse_once(repository, settings)

    assert report.num_pending == 1
    assert repository.ledger.base_version().version == 1


def test_too_stale_ones_expire_with_a_reason(
    repository: Repository, settings: Settings, contribute: Contribute
) -> None:
    old = repository.ledger.base_version()
    contribute("first")
    fuse_once(repository, settings)
    change_policy(repository, {"max_staleness": 0})
    late = contribute("late", base=old)

    report = fuse_once(repository, settings)

    assert [item.outcome for item in report.decisions] == [Outcome.EXPIRED]
    decision = repository.contributions.decision(late.contribution_id)
    assert decision is not None
    assert "staleness is 1, expected at most 0" in decision.reason


def test_a_changed_policy_keeps_the_base_and_settles_what_was_decided_before(
    repository: Repository,
    settings: Settings,
    contribute: Contribute,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    contribution = contribute("a")
    monkeypatch.setattr(fusing, "settle", lambda *_: None)  # as if it had died after the append
    fuse_once(repository, settings)
    monkeypatch.undo()

    entry = change_policy(repository, {"server_learning_rate": 0.5})

    assert entry.sequence == 2
    assert (entry.after.base.version, entry.after.policy.server_learning_rate) == (1, 0.5)
    assert repository.contributions.decision(contribution.contribution_id) is not None
    assert repository.inbox.count() == 0


def test_one_whose_record_is_unreadable_is_refused_and_holds_up_nobody(
    repository: Repository, settings: Settings, contribute: Contribute
) -> None:
    bad, good = contribute("bad"), contribute("good", seed=1)
    key = repository.keys.contribution(bad.contribution_id)
    repository.store.put(key, b"{not json")

    report = fuse_once(repository, settings)

    outcomes = {item.contribution_id: item.outcome for item in report.decisions}
    assert outcomes == {
        bad.contribution_id: Outcome.REFUSED,
        good.contribution_id: Outcome.FUSED,
    }
    assert repository.inbox.count() == 0


def test_every_version_is_found_again_by_its_number(
    repository: Repository, settings: Settings, contribute: Contribute
) -> None:
    for seed in range(5):
        contribute(f"c{seed}", seed=seed)
        fuse_once(repository, settings)

    found = [repository.ledger.base_version(version).version for version in range(6)]

    assert found == list(range(6))
    with pytest.raises(NotFoundError, match="base version '6' does not exist"):
        repository.ledger.base_version(6)


def test_the_same_inputs_give_the_same_bits(
    repository: Repository, settings: Settings, contribute: Contribute
) -> None:
    for seed in range(3):
        contribute(f"c{seed}", seed=seed)
    newest = repository.ledger.newest()
    opener = Opener(repository, newest)
    inspector = Inspector(repository, settings, opener, newest.after.base)
    pending = admit(repository, inspector, newest, repository.inbox.look()).fusable

    digests = {
        deciding._upload_fused(
            repository, settings.model_copy(update=update), newest, opener, list(order), Alone()
        ).digest
        for update, order in (
            ({"fusion_threads": 1, "fusion_chunk_bytes": 64 * 2**10}, pending),
            ({"fusion_threads": 4, "fusion_chunk_bytes": 8 * 2**20}, reversed(pending)),
        )
    }

    assert len(digests) == 1
