"""The gate where operators have their say, and where something is wrong with its probes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from coldfusion_queue.audit import audit
from coldfusion_queue.crash_points import CrashPoint, install
from coldfusion_queue.errors import LedgerConflictError, StoreUnavailableError
from coldfusion_queue.records import BaseVersion, Outcome, Policy, Rule
from coldfusion_queue.repository.collecting import collect_garbage, plan
from coldfusion_queue.repository.fusing import fuse_once
from coldfusion_queue.repository.garbage import Kind
from coldfusion_queue.repository.gating import Gate, gate_specs
from coldfusion_queue.repository.overriding import override, record_override
from coldfusion_queue.repository.policy import change_policy
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.repository.rolling_back import roll_back
from coldfusion_queue.settings import Settings
from tests.integration.audited import NO_GRACE
from tests.integration.conftest import Contribute
from tests.integration.probing import (
    evaluation,
    fuse_until_decided,
    harmed_by,
    probe_wanted,
)
from tests.integration.submitting import upload_rows


@pytest.fixture
def policy() -> Policy:
    return Policy(min_contributions=1, max_copy_cosine=None, min_cosine=None)


@pytest.fixture
def gated(repository: Repository, tmp_path: Path) -> Repository:
    """A repository with one gate dataset."""
    change_policy(repository, {"gate_datasets": (upload_rows(repository, tmp_path),)})
    return repository


def by_version(*scores: float) -> Callable[[BaseVersion], float]:
    return lambda base: scores[base.version]


def publish(
    repository: Repository,
    settings: Settings,
    contribute: Contribute,
    names: str,
    judge: Callable[[BaseVersion], float | None],
) -> None:
    """One version after the other, each of one contribution."""
    for name in names:
        contribute(name, seed=ord(name))
        fuse_until_decided(repository, settings, judge)


def outcomes(repository: Repository) -> dict[str, tuple[Outcome, Rule | None]]:
    return {
        item.contribution_id.partition(".t")[0]: (item.outcome, item.rule)
        for entry in repository.ledger.entries()
        for item in entry.decisions
    }


def assert_sound(repository: Repository, settings: Settings) -> None:
    collect_garbage(repository, 0)
    assert audit(settings, repository.name, NO_GRACE).findings == ()


def test_a_rollback_of_an_operator_is_not_undone(
    gated: Repository, settings: Settings, contribute: Contribute
) -> None:
    rising = by_version(0.50, 0.53, 0.56, 0.59, 0.50, 0.505)
    publish(gated, settings, contribute, "abc", rising)
    roll_back(gated, 0, "it says awful things, which no probe sees")

    publish(gated, settings, contribute, "d", rising)

    published = gated.ledger.base_version()
    assert (published.version, published.restores) == (5, None)
    assert outcomes(gated)["d"] == (Outcome.FUSED, None)
    assert_sound(gated, settings)


def test_what_was_published_by_override_stays(
    gated: Repository, settings: Settings, contribute: Contribute
) -> None:
    publish(gated, settings, contribute, "a", harmed_by({"a"}))
    override(gated, "a.t00001", "it is good for other things")
    scores = by_version(0.5, 0.3, 0.31)

    publish(gated, settings, contribute, "b", scores)

    assert gated.ledger.base_version().version == 2
    assert gated.ledger.base_version().restores is None
    assert outcomes(gated)["b"] == (Outcome.FUSED, None)
    assert_sound(gated, settings)


def test_what_was_published_without_the_gate_stays(
    gated: Repository, settings: Settings, contribute: Contribute
) -> None:
    fuse_until_decided(gated, settings, by_version(0.5))  # has the pretrained model measured
    contribute("a", seed=1)
    fuse_once(gated, settings, {"gate_datasets": ()})

    publish(gated, settings, contribute, "b", by_version(0.5, 0.3, 0.31))

    assert gated.ledger.base_version().version == 2
    assert gated.ledger.base_version().restores is None


def test_an_override_does_no_harm_to_others_in_the_inbox(
    gated: Repository, settings: Settings, contribute: Contribute
) -> None:
    publish(gated, settings, contribute, "a", harmed_by({"a"}))
    again = override(gated, "a.t00001", "it is good for other things")
    for number, name in enumerate("bcdef"):
        contribute(name, seed=50 + number)

    fuse_until_decided(gated, settings, by_version(0.5, 0.3, 0.32))

    first, second = (gated.ledger.base_version(version) for version in (1, 2))
    assert [line.contribution_id for line in first.fused] == [again.contribution_id]
    assert len(second.fused) == 5
    assert {name for name, (_, rule) in outcomes(gated).items() if rule} == {"a"}
    assert_sound(gated, settings)


def test_an_override_of_what_is_being_tried_ends_the_trial(
    gated: Repository, settings: Settings, contribute: Contribute
) -> None:
    for number, name in enumerate("abc"):
        contribute(name, seed=number)
    fuse_once(gated, settings)
    probe_wanted(gated, harmed_by({"b"}))
    fuse_once(gated, settings)
    assert gated.ledger.newest().after.trial is not None
    record_override(gated, "b.t00001", "it is good for other things")

    fuse_until_decided(gated, settings, by_version(0.5, 0.3, 0.31))

    assert [line.contribution_id for line in gated.ledger.base_version(1).fused] == ["b.t00001"]
    assert {name: outcome for name, (outcome, _) in outcomes(gated).items()} == dict.fromkeys(
        "abc", Outcome.FUSED
    )
    assert_sound(gated, settings)


def test_a_stuck_gate_is_passed_over_and_then_asked_again(
    gated: Repository, settings: Settings, contribute: Contribute
) -> None:
    contribute("a", seed=1)
    candidate = fuse_once(gated, settings).candidate
    assert candidate is not None
    probe_wanted(gated, lambda _: None)
    assert fuse_once(gated, settings).entry is None

    entry = fuse_once(gated, settings, {"gate_datasets": ()}).entry

    assert entry is not None
    assert entry.published is not None
    assert entry.after.policy.gate_datasets != ()
    assert list(gated.store.list(candidate.models[0].prefix)) == []
    assert_sound(gated, settings)


def test_a_failure_that_is_forgotten_is_measured_again(
    gated: Repository, settings: Settings, contribute: Contribute
) -> None:
    contribute("a", seed=1)
    fuse_once(gated, settings)
    requests = probe_wanted(gated, lambda _: None)
    assert fuse_once(gated, settings).wanted == ()

    for request in requests:
        gated.evaluations.forget_failures(request.base, [request.spec])
    fuse_until_decided(gated, settings, harmed_by(()))

    assert gated.ledger.base_version().version == 1


def test_versions_whose_files_are_gone_are_no_standard(
    repository: Repository, settings: Settings, contribute: Contribute, tmp_path: Path
) -> None:
    for number, name in enumerate("ab"):
        contribute(name, seed=number)
        fuse_once(repository, settings)
    change_policy(repository, {"gate_datasets": (upload_rows(repository, tmp_path),)})
    specs = gate_specs(repository.ledger.newest().after.policy)
    for version in range(3):
        repository.evaluations.want(repository.ledger.base_version(version), specs)
    scores = by_version(0.6, 0.6, 0.4, 0.42)
    probe_wanted(repository, scores)
    for version in range(2):
        base = repository.ledger.base_version(version)
        repository.store.delete([file.key for file in base.model_files])

    contribute("c", base=repository.ledger.base_version(2), seed=5)
    fuse_until_decided(repository, settings, scores)

    assert repository.ledger.base_version().version == 3
    assert outcomes(repository)["c"] == (Outcome.FUSED, None)


def test_an_automatic_rollback_that_comes_too_late_is_given_up(
    repository: Repository,
    settings: Settings,
    contribute: Contribute,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for number, name in enumerate("ab"):
        contribute(name, seed=number)
        fuse_once(repository, settings)
    change_policy(repository, {"gate_datasets": (upload_rows(repository, tmp_path),)})
    specs = gate_specs(repository.ledger.newest().after.policy)
    for version in range(3):
        repository.evaluations.want(repository.ledger.base_version(version), specs)
    probe_wanted(repository, by_version(0.5, 0.6, 0.4))
    contribute("c", seed=5)

    look = Gate.regression

    def look_slowly(gate: Gate) -> object:
        found = look(gate)
        monkeypatch.undo()
        roll_back(Repository(repository.store, repository.name), 1, "an operator was faster")
        return found

    monkeypatch.setattr(Gate, "regression", look_slowly)
    with pytest.raises(LedgerConflictError):
        fuse_once(repository, settings)

    published = repository.ledger.base_version()
    assert (published.version, published.restores) == (3, 1)
    assert_sound(repository, settings)


def test_what_is_found_damaged_at_the_first_fusion_is_no_suspect(
    gated: Repository, settings: Settings, contribute: Contribute
) -> None:
    for number, name in enumerate("abc"):
        contribute(name, seed=number)
    damaged = gated.contributions.find("a.t00001")
    assert damaged is not None

    def hook(reached: CrashPoint) -> None:
        if reached is CrashPoint.FUSE_SELECTED:
            install(None)
            data = gated.store.get(damaged.shared.key)
            gated.store.put(damaged.shared.key, data[:-1] + bytes([data[-1] ^ 1]))

    install(hook)
    try:
        candidate = fuse_once(gated, settings).candidate
    finally:
        install(None)

    assert candidate is not None
    assert set(candidate.suspects) == {"b.t00001", "c.t00001"}
    fuse_until_decided(gated, settings, harmed_by({"b"}))
    assert outcomes(gated) == {
        "a": (Outcome.REFUSED, Rule.FILE),
        "b": (Outcome.REFUSED, Rule.GATE),
        "c": (Outcome.FUSED, None),
    }


def test_an_orphan_does_not_fence_out_what_waits(
    gated: Repository, settings: Settings, contribute: Contribute
) -> None:
    contribute("a", seed=1)
    prefix = gated.keys.base_prefix(1, "0123456789abcdef")
    gated.store.put(f"{prefix}model.safetensors", b"of a fusion that died")
    candidate = fuse_once(gated, settings).candidate

    assert Kind.CANDIDATE not in {item.kind for item in plan(gated, 0).items}
    collect_garbage(gated, 0)

    assert candidate == gated.candidates.find(gated.ledger.newest().sequence + 1)
    fuse_until_decided(gated, settings, harmed_by(()))
    collect_garbage(gated, 0)
    assert list(gated.store.list(prefix)) == []


def test_probes_may_come_in_while_the_gate_is_asked(
    gated: Repository, settings: Settings, contribute: Contribute
) -> None:
    contribute("a", seed=1)
    candidate = fuse_once(gated, settings).candidate
    assert candidate is not None
    gate = Gate(gated, gated.ledger.newest())
    assert gate.regression() is None

    probe_wanted(gated, harmed_by(()))
    report = gate.judge(candidate.models[0])

    assert report is not None
    assert (report.best_version, report.best_mean) == (0, 0.5)


def test_a_model_without_numbers_never_passes(
    gated: Repository, settings: Settings, contribute: Contribute
) -> None:
    contribute("a", seed=1)
    for request in fuse_once(gated, settings).wanted:
        found = evaluation(request, 0.005)  # as a correlation may be
        if request.base.version == 1:
            update = {"score": None, "metric": None, "interval": None}
            found = found.model_copy(update={**update, "error": "UnusableModelError"})
        gated.evaluations.record(found)

    fuse_once(gated, settings)

    assert outcomes(gated) == {"a": (Outcome.REFUSED, Rule.GATE)}


def test_an_entry_that_only_refuses_keeps_what_the_gate_found(
    gated: Repository, settings: Settings, contribute: Contribute
) -> None:
    publish(gated, settings, contribute, "a", harmed_by(()))
    before = gated.ledger.newest().after.gate
    assert before is not None
    bad = contribute("b", seed=2)
    gated.store.delete([bad.shared.key])

    fuse_once(gated, settings)

    assert outcomes(gated)["b"][0] is Outcome.REFUSED
    assert gated.ledger.newest().after.gate == before
    assert_sound(gated, settings)


def test_if_the_second_fusion_fails_nothing_of_the_first_remains(
    gated: Repository, settings: Settings, contribute: Contribute
) -> None:
    change_policy(gated, {"gate_leave_out": True})
    for number, name in enumerate("abc"):
        contribute(name, seed=number)
    times = 0

    def hook(reached: CrashPoint) -> None:
        nonlocal times
        times += reached is CrashPoint.PUBLISH_MODEL
        if times == 2:
            raise StoreUnavailableError("the store", "write", "a model", "it is away")

    install(hook)
    try:
        with pytest.raises(StoreUnavailableError):
            fuse_once(gated, settings)
    finally:
        install(None)

    assert {item.key.split("/")[2][:6] for item in gated.store.list(gated.keys.bases)} == {"000000"}


def test_a_version_that_an_open_submission_names_is_kept(
    repository: Repository, settings: Settings, contribute: Contribute
) -> None:
    change_policy(repository, {"retain_base_versions": 1})
    for number, name in enumerate("abc"):
        contribute(name, seed=number)
        fuse_once(repository, settings)
    repository.submissions.create("late", dataset_id="0" * 32, base_version=1)

    collect_garbage(repository, 0)

    kept = [
        version
        for version in range(4)
        if repository.store.stat(repository.ledger.base_version(version).model_files[0].key)
    ]
    assert kept == [0, 1, 3]
