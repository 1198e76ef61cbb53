"""The gate against the real store: probes are recorded with scores that each test chooses."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from coldfusion_queue.audit import audit
from coldfusion_queue.crash_points import CrashPoint, install
from coldfusion_queue.errors import LedgerConflictError
from coldfusion_queue.records import LedgerEntry, Outcome, Policy, Rule
from coldfusion_queue.repository.collecting import collect_garbage
from coldfusion_queue.repository.fusing import fuse_once
from coldfusion_queue.repository.gating import gate_specs
from coldfusion_queue.repository.overriding import override
from coldfusion_queue.repository.policy import change_policy
from coldfusion_queue.repository.repository import Repository
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

#: Names of what a batch of the tests consists of; the fixture's contribution ids begin with them.
BATCH = ("a", "b", "c", "d", "e", "f")


@pytest.fixture
def policy() -> Policy:
    return Policy(min_contributions=1, max_copy_cosine=None, min_cosine=None)


@pytest.fixture
def gated(repository: Repository, tmp_path: Path) -> Repository:
    """A repository with one gate dataset."""
    dataset_id = upload_rows(repository, tmp_path)
    change_policy(repository, {"gate_datasets": (dataset_id,)})
    return repository


@pytest.fixture
def batch(gated: Repository, contribute: Contribute) -> Callable[..., None]:
    """``batch(*names)``: commit contributions of these names."""

    def commit(*names: str) -> None:
        for number, name in enumerate(names or BATCH):
            contribute(name, seed=number)

    return commit


def short(contribution_id: str) -> str:
    return contribution_id.partition(".t")[0]


def decided(repository: Repository) -> dict[str, Outcome]:
    """What became of every contribution; each of them once."""
    found: dict[str, Outcome] = {}
    for entry in repository.ledger.entries():
        for item in entry.decisions:
            assert short(item.contribution_id) not in found, "decided twice"
            found[short(item.contribution_id)] = item.outcome
    return found


def refused(repository: Repository) -> set[str]:
    return {name for name, outcome in decided(repository).items() if outcome is Outcome.REFUSED}


def assert_sound(repository: Repository, settings: Settings) -> None:
    collect_garbage(repository, 0)
    assert audit(settings, repository.name, NO_GRACE).findings == ()


def test_a_fused_model_is_published_when_its_probes_are_in(
    gated: Repository, settings: Settings, batch: Callable[..., None]
) -> None:
    batch()

    first = fuse_once(gated, settings)
    again = fuse_once(gated, settings)

    assert (first.entry, again.entry) == (None, None)
    assert first.candidate == again.candidate is not None
    assert gated.ledger.base_version().version == 0  # finetunes go on from there
    assert {request.base.version for request in first.wanted} == {0, 1}

    probe_wanted(gated, harmed_by(()))
    entry = fuse_once(gated, settings).entry

    assert entry is not None
    assert entry.gate is not None
    assert entry.published == first.candidate.entry.published
    assert gated.ledger.base_version().version == 1
    assert entry.gate.mean == pytest.approx(0.51)
    assert entry.gate.reference_mean == pytest.approx(0.5)
    assert set(decided(gated).values()) == {Outcome.FUSED}
    assert_sound(gated, settings)


def test_what_is_in_a_probe_is_not_asked_for_again(
    gated: Repository, settings: Settings, batch: Callable[..., None]
) -> None:
    batch("a")
    fuse_until_decided(gated, settings, harmed_by(()))
    batch("b")

    wanted = fuse_once(gated, settings).wanted

    # That of version 1 was made when it was a candidate.
    assert [request.base.version for request in wanted] == [2]


def test_within_the_tolerance_a_worse_model_is_published(
    gated: Repository, settings: Settings, batch: Callable[..., None]
) -> None:
    batch()
    fuse_until_decided(gated, settings, lambda base: 0.5 - 0.009 * base.version)

    assert gated.ledger.base_version().version == 1
    assert refused(gated) == set()


def test_a_worse_model_is_withheld_and_its_contributions_stay_pending(
    gated: Repository, settings: Settings, batch: Callable[..., None]
) -> None:
    batch()
    fuse_once(gated, settings)
    probe_wanted(gated, harmed_by({"e"}))

    entry = fuse_once(gated, settings).entry

    assert entry is not None
    assert entry.published is None
    assert entry.withheld is not None
    assert entry.gate is not None
    assert entry.gate.mean < entry.gate.floor
    assert entry.decisions == ()
    assert entry.after.base.version == 0
    assert list(gated.store.list(entry.withheld.prefix)) == []
    assert gated.candidates.find(entry.sequence) is None
    assert len(gated.inbox.look().pending) == len(BATCH)
    assert_sound(gated, settings)


@pytest.mark.parametrize("culprit", BATCH)
def test_whoever_is_at_fault_is_refused_and_the_others_are_fused(
    gated: Repository, settings: Settings, batch: Callable[..., None], culprit: str
) -> None:
    batch()

    fuse_until_decided(gated, settings, harmed_by({culprit}))

    assert refused(gated) == {culprit}
    newest = gated.ledger.newest()
    assert newest.after.trial is None
    assert newest.after.base.version == 1
    assert {short(line.contribution_id) for line in newest.after.base.fused} == {*BATCH} - {culprit}
    decision = next(item for item in newest.decisions if item.outcome is Outcome.REFUSED)
    assert decision.rule is Rule.GATE
    assert decision.numbers["gate_with"] == pytest.approx(0.5 + (0.05 - 0.2) / 6)
    assert decision.numbers["gate_without"] == pytest.approx(0.51)
    assert decision.numbers["gate_reference"] == pytest.approx(0.5)
    assert_sound(gated, settings)


def test_the_one_that_agrees_least_with_the_others_is_suspected_first(
    gated: Repository, settings: Settings, contribute: Contribute
) -> None:
    for number, name in enumerate(BATCH):
        sign = -1 if name == "d" else 1
        contribute(
            name,
            seed=1,
            change=lambda delta, sign=sign, number=number: {
                key: sign * value * (1 + number / 1000) for key, value in delta.items()
            },
        )

    reports = fuse_until_decided(gated, settings, harmed_by({"d"}))

    entries = [report.entry for report in reports if report.entry]
    assert [entry.withheld is not None for entry in entries] == [True, False]
    assert refused(gated) == {"d"}


def test_two_at_fault_are_both_found(
    gated: Repository, settings: Settings, batch: Callable[..., None]
) -> None:
    batch()

    fuse_until_decided(gated, settings, harmed_by({"b", "e"}))

    assert refused(gated) == {"b", "e"}
    assert len(gated.ledger.base_version().fused) == 4
    assert_sound(gated, settings)


def test_a_batch_of_one_that_is_worse_is_refused_at_once(
    gated: Repository, settings: Settings, batch: Callable[..., None]
) -> None:
    batch("a")

    reports = fuse_until_decided(gated, settings, harmed_by({"a"}))

    assert sum(report.entry is not None for report in reports) == 1
    assert refused(gated) == {"a"}


def test_where_nothing_helps_the_batch_is_refused_and_the_next_one_is_fused(
    gated: Repository, settings: Settings, batch: Callable[..., None]
) -> None:
    batch()
    change_policy(gated, {"gate_max_trials": 3})
    before = gated.ledger.newest().sequence

    fuse_until_decided(gated, settings, harmed_by(BATCH))

    assert refused(gated) == {*BATCH}
    assert gated.ledger.newest().sequence - before == 1 + 3  # withheld, and tried three times
    batch("g", "h")
    fuse_until_decided(gated, settings, harmed_by(BATCH))
    assert gated.ledger.base_version().version == 1
    assert_sound(gated, settings)


def test_what_arrives_while_a_batch_is_tried_waits_for_its_end(
    gated: Repository, settings: Settings, batch: Callable[..., None]
) -> None:
    batch()
    fuse_once(gated, settings)
    probe_wanted(gated, harmed_by({"c"}))
    fuse_once(gated, settings)
    batch("late")

    fuse_until_decided(gated, settings, harmed_by({"c"}))

    assert refused(gated) == {"c"}
    assert [short(line.contribution_id) for line in gated.ledger.base_version().fused] == ["late"]
    assert gated.ledger.base_version().version == 2


def test_small_losses_do_not_add_up_beyond_the_drift(
    gated: Repository, settings: Settings, batch: Callable[..., None]
) -> None:
    for name in ("a", "b", "c", "d"):
        batch(name)
        fuse_until_decided(gated, settings, lambda base: 0.5 - 0.008 * base.version)

    # Two losses of 0.008 are within 0.02 of version 0, the third is not.
    assert gated.ledger.base_version().version == 2
    assert refused(gated) == {"c", "d"}
    assert_sound(gated, settings)


def test_what_an_operator_lets_in_passes_the_gate_alone(
    gated: Repository, settings: Settings, batch: Callable[..., None]
) -> None:
    batch("a")
    fuse_until_decided(gated, settings, harmed_by({"a"}))
    again = override(gated, "a.t00001", "it is good for other things")

    fuse_until_decided(gated, settings, lambda base: 0.5 - 0.1 * base.version)

    assert [line.contribution_id for line in gated.ledger.base_version().fused] == [
        again.contribution_id
    ]
    assert_sound(gated, settings)


def test_a_gate_that_cannot_be_asked_publishes_and_refuses_nothing(
    gated: Repository,
    settings: Settings,
    batch: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    batch()
    fuse_once(gated, settings)
    probe_wanted(gated, lambda _: None)

    report = fuse_once(gated, settings)

    assert report.entry is None
    assert report.candidate is not None
    assert decided(gated) == {}
    assert "gate_stuck" in {getattr(record, "event", "") for record in caplog.records}


def test_features_that_are_not_finite_are_the_models_fault(
    gated: Repository, settings: Settings, batch: Callable[..., None]
) -> None:
    batch("a")
    for request in fuse_once(gated, settings).wanted:
        found = evaluation(request, 0.5)
        if request.base.version == 1:
            update = {"score": None, "metric": None, "interval": None}
            found = found.model_copy(update={**update, "error": "UnusableModelError"})
        gated.evaluations.record(found)

    fuse_once(gated, settings)

    assert refused(gated) == {"a"}


@pytest.mark.parametrize("change", [{"min_contributions": 2}, {"gate_datasets": ()}])
def test_a_policy_that_changes_voids_the_candidate(
    gated: Repository,
    settings: Settings,
    batch: Callable[..., None],
    change: dict[str, object],
) -> None:
    batch()
    candidate = fuse_once(gated, settings).candidate
    assert candidate is not None
    change_policy(gated, change)

    fuse_until_decided(gated, settings, harmed_by(()))

    published = gated.ledger.base_version()
    assert candidate.entry.published is not None
    assert published.version == 1
    assert published.prefix != candidate.entry.published.prefix
    assert_sound(gated, settings)


def test_a_batch_that_is_tried_is_pending_again_when_the_policy_changes(
    gated: Repository, settings: Settings, batch: Callable[..., None]
) -> None:
    batch()
    fuse_once(gated, settings)
    probe_wanted(gated, harmed_by({"c"}))
    fuse_once(gated, settings)
    assert gated.ledger.newest().after.trial is not None

    change_policy(gated, {"gate_datasets": ()})
    fuse_once(gated, settings)

    assert len(gated.ledger.base_version().fused) == len(BATCH)


@pytest.fixture
def leaving_out(gated: Repository) -> Repository:
    change_policy(gated, {"gate_leave_out": True})
    return gated


def test_what_only_holds_progress_up_is_refused_if_the_first_suspect_is_left_out(
    leaving_out: Repository, settings: Settings, batch: Callable[..., None]
) -> None:
    batch()
    report = fuse_once(leaving_out, settings)
    assert report.candidate is not None
    first = short(report.candidate.suspects[0])
    assert len(report.wanted) == 3  # of the published version, and with and without the suspect
    assert_sound(leaving_out, settings)  # neither is garbage

    # With it the model is better than before, but not by as much as without it.
    fuse_until_decided(leaving_out, settings, harmed_by({first}, harm=0.05, gain=0.05))

    assert refused(leaving_out) == {first}
    assert len(leaving_out.ledger.base_version().fused) == len(BATCH) - 1
    decision = next(
        item for item in leaving_out.ledger.newest().decisions if item.rule is Rule.GATE
    )
    assert decision.numbers["gate_with"] == pytest.approx(0.5 + (5 * 0.05 - 0.05) / 6)
    assert decision.numbers["gate_without"] == pytest.approx(0.55)
    assert decision.numbers["gate_reference"] == pytest.approx(0.5)
    assert_sound(leaving_out, settings)


def test_who_makes_no_difference_is_fused_although_it_is_the_first_suspect(
    leaving_out: Repository, settings: Settings, batch: Callable[..., None]
) -> None:
    batch()
    fuse_until_decided(leaving_out, settings, harmed_by(()))

    assert refused(leaving_out) == set()
    assert len(leaving_out.ledger.base_version().fused) == len(BATCH)
    models = {item.key.split("/")[2] for item in leaving_out.store.list(leaving_out.keys.bases)}
    assert len(models) == 2  # what was fused without it is deleted
    assert_sound(leaving_out, settings)


def test_if_the_first_suspect_is_not_at_fault_the_trial_knows_it_already(
    leaving_out: Repository, settings: Settings, batch: Callable[..., None]
) -> None:
    batch()
    candidate = fuse_once(leaving_out, settings).candidate
    assert candidate is not None
    first, second, third, *_ = (short(name) for name in candidate.suspects)

    reports = fuse_until_decided(leaving_out, settings, harmed_by({third}))

    assert refused(leaving_out) == {third}
    entries = [report.entry for report in reports if report.entry]
    notes = [entry.note for entry in entries]
    assert not any(f"without {first}." in note for note in notes)
    assert any(f"without {second}." in note for note in notes)
    assert_sound(leaving_out, settings)


def test_one_fusion_can_do_without_the_gate(
    gated: Repository, settings: Settings, batch: Callable[..., None]
) -> None:
    batch()

    entry = fuse_once(gated, settings, {"gate_datasets": ()}).entry

    assert entry is not None
    assert entry.published is not None
    assert gated.ledger.newest().after.policy.gate_datasets != ()


def test_a_candidate_that_waits_is_no_garbage(
    gated: Repository, settings: Settings, batch: Callable[..., None]
) -> None:
    batch()
    candidate = fuse_once(gated, settings).candidate
    assert candidate is not None

    assert_sound(gated, settings)
    probe_wanted(gated, harmed_by(()))
    entry = fuse_once(gated, settings).entry

    assert entry is not None
    assert entry.published == candidate.entry.published
    for file in entry.published.files.values():
        assert gated.store.stat(file.key) is not None


def test_damage_found_while_a_batch_is_tried_ends_that_contribution_alone(
    gated: Repository, settings: Settings, batch: Callable[..., None]
) -> None:
    batch()
    fuse_once(gated, settings)
    probe_wanted(gated, harmed_by({"c"}))
    fuse_once(gated, settings)
    lost = gated.contributions.find("a.t00001")
    assert lost is not None
    gated.store.delete([lost.shared.key])

    fuse_until_decided(gated, settings, harmed_by({"c"}))

    assert refused(gated) == {"a", "c"}
    rules = {
        item.contribution_id: item.rule
        for entry in gated.ledger.entries()
        for item in entry.decisions
        if item.rule
    }
    assert rules == {"a.t00001": Rule.FILE, "c.t00001": Rule.GATE}


POINTS = [
    CrashPoint.FUSE_SETTLED,
    CrashPoint.FUSE_SELECTED,
    CrashPoint.PUBLISH_MODEL,
    CrashPoint.PUBLISH_LINEAGE,
    CrashPoint.GATE_CANDIDATE,
    CrashPoint.EVALUATION_WANTED,
    CrashPoint.EVALUATION_RECORDED,
    CrashPoint.DECIDE_APPENDED,
    CrashPoint.SETTLE_DECISION,
    CrashPoint.GATE_JUDGED,
    CrashPoint.GATE_CLEANED,
]


class Killed(BaseException):
    """As if the process had died: nothing of ours catches it."""


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_any_point_the_gate_decides_each_contribution_once(
    gated: Repository, settings: Settings, batch: Callable[..., None], point: CrashPoint
) -> None:
    batch("a", "b", "c")
    times: dict[CrashPoint, int] = {}

    def hook(reached: CrashPoint) -> None:
        times[reached] = times.get(reached, 0) + 1
        if reached is point and times[reached] in {1, 3}:
            raise Killed

    install(hook)
    try:
        for _ in range(5):
            try:
                fuse_until_decided(gated, settings, harmed_by({"b"}))
                break
            except Killed:
                continue
    finally:
        install(None)

    assert times[point] >= 1
    assert refused(gated) == {"b"}
    assert {short(line.contribution_id) for line in gated.ledger.base_version().fused} == {"a", "c"}
    assert_sound(gated, settings)


def test_two_that_judge_one_candidate_append_one_entry(
    gated: Repository, settings: Settings, batch: Callable[..., None]
) -> None:
    batch("a", "b", "c")
    fuse_once(gated, settings)
    probe_wanted(gated, harmed_by({"b"}))
    found: list[LedgerEntry | None] = []
    barrier = threading.Barrier(4)

    def judge() -> None:
        own = Repository(gated.store, gated.name)
        barrier.wait()
        try:
            found.append(fuse_once(own, settings).entry)
        except LedgerConflictError:
            found.append(None)

    threads = [threading.Thread(target=judge) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    withheld = [entry for entry in found if entry is not None and entry.withheld is not None]
    assert len({entry.to_bytes() for entry in withheld}) == 1
    fuse_until_decided(gated, settings, harmed_by({"b"}))
    assert refused(gated) == {"b"}
    assert_sound(gated, settings)


def test_the_probes_are_on_the_validation_split_and_bounded() -> None:
    policy = Policy(gate_datasets=("0" * 32, "1" * 32), gate_max_examples=77)

    specs = gate_specs(policy)

    assert [spec.dataset_id for spec in specs] == ["0" * 32, "1" * 32]
    assert {(spec.kind, spec.split, spec.max_scored_examples) for spec in specs} == {
        ("frozen", "validation", 77)
    }
    assert {spec.hyperparameters.max_examples for spec in specs} == {77}
