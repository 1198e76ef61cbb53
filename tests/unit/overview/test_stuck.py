"""What ``coldfusion status`` calls stuck: with the numbers of the alert rules, and not before."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from coldfusion_queue.errors import BrokerUnavailableError
from coldfusion_queue.overview import (
    BrokerOverview,
    History,
    LostWorker,
    Overview,
    PoolOverview,
    QueueOverview,
    StoreOverview,
    stuck,
)
from coldfusion_queue.overview import thresholds as at
from coldfusion_queue.overview.candidate import CandidateOverview
from coldfusion_queue.overview.stuck import Finding, find_stuck
from coldfusion_queue.overview.turns import TurnOverview
from coldfusion_queue.queue.progress import ProgressReport
from coldfusion_queue.records import LedgerEntry, Policy, Rule
from coldfusion_queue.turn import Phase
from tests.unit.report.history import History as Ledger

RULES = Path(__file__).parents[3] / "helm" / "coldfusion" / "files" / "rules.yaml"
ALERTS: dict[str, dict[str, Any]] = {
    rule["alert"]: rule
    for group in yaml.safe_load(RULES.read_text("utf-8"))["groups"]
    for rule in group["rules"]
    if "alert" in rule
}
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


# --- the numbers are those of the rules -----------------------------------------------------------


def seconds(text: str) -> int:
    return int(text[:-1]) * SECONDS[text[-1]]


def lasts(alert: str) -> int:
    """For how long it has been so when the alert fires: the window that is looked at, and then."""
    windows = {seconds(found) for found in re.findall(r"\[(\d+[smhd])\]", ALERTS[alert]["expr"])}
    assert len(windows) == 1, alert
    return windows.pop() + seconds(ALERTS[alert]["for"])


def numbers(pattern: str, alert: str) -> tuple[float, ...]:
    found = re.search(pattern, ALERTS[alert]["expr"], re.DOTALL)
    assert found is not None, alert
    return tuple(map(float, found.groups()))


def test_what_lasts_is_stuck_after_the_time_after_which_its_alert_fires() -> None:
    assert lasts("ColdFusionNoFusion") == at.NO_FUSION_SECONDS
    assert lasts("ColdFusionCandidateStuck") == at.CANDIDATE_SECONDS
    assert lasts("ColdFusionQueueGrowing") == at.UNSERVED_SECONDS


def test_what_is_compared_with_a_number_is_compared_with_that_of_its_alert() -> None:
    old = numbers(r"> (\d+) \* .*max_wait_seconds.* \+ (\d+)", "ColdFusionPendingTooOld")
    assert old == (at.PENDING_FACTOR, at.PENDING_SECONDS)
    share, least = numbers(r"> ([\d.]+) \* sum.*>= (\d+)", "ColdFusionRefusalsRising")
    assert (share, least) == (at.REFUSED_SHARE, at.REFUSED_AT_LEAST)
    windows = set(re.findall(r"\[(\w+)\]", ALERTS["ColdFusionRefusalsRising"]["expr"]))
    assert [seconds(found) for found in windows] == [at.REFUSED_SECONDS]
    assert numbers(r"lost_workers\[5m\]\)\) > (\d+)", "ColdFusionWorkerLost") == (0,)


# --- what is found --------------------------------------------------------------------------------


POLICY = Policy(min_contributions=3, max_wait_seconds=600)


def entries(age_seconds: float = 0.0) -> tuple[LedgerEntry, ...]:
    """A ledger whose newest entry is so old, by its own clock."""
    ledger = Ledger(policy=POLICY)
    ledger.fuse([ledger.contribution("anna")])
    return aged(ledger, age_seconds)


def aged(ledger: Ledger, age_seconds: float) -> tuple[LedgerEntry, ...]:
    then = datetime.now(UTC) - timedelta(seconds=age_seconds)
    return tuple(item.model_copy(update={"created_at": then}) for item in ledger.entries)


def store(num_pending: int = 0, oldest: float = 0.0, still: float = 0.0) -> StoreOverview:
    newest = entries(still)[-1]
    return StoreOverview(newest, still, num_pending, oldest, 0, 0, False)


def broker(
    *,
    waiting: int = 0,
    oldest: float = 0.0,
    workers: int = 1,
    lost: int = 0,
    fusers: int = 1,
    beats: int = 0,
) -> BrokerOverview:
    names, silent = ("a",) * workers, (LostWorker("gone", 90.0),) * lost
    return BrokerOverview(
        queues=(
            QueueOverview("finetune.clinic", "clinic", waiting, oldest),
            QueueOverview("fusion", "", beats, 0.0),
        ),
        pools=(
            PoolOverview("finetune.clinic", "clinic", "", 0, waiting, names, silent),
            PoolOverview("fusion", "", "", 0, None, ("f",) * fusers, ()),
        ),
        leases=(),
        stored=None,
    )


def overview(of_store: StoreOverview | None = None, **of_broker: Any) -> Overview:
    nothing = History(None, (), ())
    return Overview("main", of_store or store(), nothing, broker(**of_broker))


def candidate(waits: float, *failures: str) -> CandidateOverview:
    since = datetime.now(UTC) - timedelta(seconds=waits)
    return CandidateOverview(3, since, 4, ("probe",), ("d",), failures, None)


def told(found: list[Finding]) -> list[str | None]:
    return [item.alert for item in found]


def test_nothing_is_stuck_in_a_repository_at_rest_or_at_work() -> None:
    assert find_stuck(overview(), None, {}) == []
    assert find_stuck(overview(store(2, 500), waiting=9, oldest=9e4), candidate(3000), {}) == []


HOUR = 3600.0


@pytest.mark.parametrize(
    ("num_pending", "oldest", "still", "alert"),
    [
        pytest.param(3, 1.3 * HOUR, 1.3 * HOUR, "ColdFusionNoFusion", id="enough"),
        pytest.param(3, 1.2 * HOUR, 1.3 * HOUR, None, id="enough-not-for-long"),
        pytest.param(3, 1.3 * HOUR, 1.2 * HOUR, None, id="enough-but-entries-come"),
        pytest.param(1, 1.5 * HOUR, 1.5 * HOUR, "ColdFusionNoFusion", id="waited"),
        pytest.param(1, 1.3 * HOUR, 1.5 * HOUR, None, id="waited-not-for-long"),
        pytest.param(3, 1.4 * HOUR, 60.0, "ColdFusionPendingTooOld", id="left-behind"),
        pytest.param(3, 1.3 * HOUR, 60.0, None, id="left-behind-not-for-long"),
        pytest.param(0, 9.0 * HOUR, 9.0 * HOUR, None, id="nothing-pending"),
    ],
)
def test_what_is_pending_and_not_fused(
    num_pending: int, oldest: float, still: float, alert: str | None
) -> None:
    found = find_stuck(overview(store(num_pending, oldest, still)), None, {})

    assert told(found) == ([alert] if alert else [])
    # While a fused model waits for the gate nothing is fused: that is what is told then.
    waiting = find_stuck(overview(store(num_pending, oldest, still)), candidate(9e4), {})
    assert told(waiting) == ["ColdFusionCandidateStuck"]


def test_a_fusion_without_a_worker_is_told_of_at_once_and_before_there_is_an_alert() -> None:
    found = find_stuck(overview(store(3, 5), fusers=0), None, {})

    assert told(found) == [None]
    assert "no fusion worker" in found[0].text
    assert find_stuck(overview(store(2, 5), fusers=0), None, {}) == []
    # Beat's messages wait then, which says it as well.
    (only,) = find_stuck(overview(store(3, 5), fusers=0, beats=7), None, {})
    assert only.text == "7 wait in fusion for 0 s, and no worker is there"


def test_a_candidate_waits_for_an_hour_or_has_a_probe_that_failed() -> None:
    assert find_stuck(overview(), candidate(at.CANDIDATE_SECONDS - 5), {}) == []
    (late,) = find_stuck(overview(), candidate(at.CANDIDATE_SECONDS + 5), {})
    (failed,) = find_stuck(overview(), candidate(5, "out of memory"), {})

    assert (late.alert, late.command) == ("ColdFusionCandidateStuck", "coldfusion evaluate --gate")
    assert (failed.alert, failed.command) == (None, "coldfusion evaluate --gate --again")


def test_what_nobody_takes_is_told_of_at_once_and_is_an_alert_after_an_hour() -> None:
    def unserved(oldest: float, workers: int = 0) -> list[Finding]:
        return find_stuck(overview(waiting=2, oldest=oldest, workers=workers), None, {})

    (early,), (late,) = unserved(5), unserved(at.UNSERVED_SECONDS + 5)
    assert (early.alert, late.alert) == (None, "ColdFusionQueueGrowing")
    assert early.command == "COLDFUSION_SITE=clinic python -m workers.finetune_worker"
    assert unserved(9e4, workers=1) == []


def test_a_lost_worker_is_named() -> None:
    (found,) = find_stuck(overview(lost=1), None, {})

    assert found.alert == "ColdFusionWorkerLost"
    assert "gone of finetune.clinic fell silent 90 s ago" in found.text


@pytest.mark.parametrize(
    ("num_fused", "num_refused", "age", "is_told"),
    [
        pytest.param(11, 4, 60.0, True, id="rising"),
        pytest.param(12, 4, 60.0, False, id="a-quarter"),
        pytest.param(2, 3, 60.0, False, id="three"),
        pytest.param(2, 9, 7 * HOUR, False, id="long-ago"),
    ],
)
def test_refusals_of_the_last_hours(
    num_fused: int, num_refused: int, age: float, is_told: bool
) -> None:
    ledger = Ledger(policy=POLICY)
    fused = [ledger.contribution(f"c{number}") for number in range(num_fused)]
    ledger.fuse(fused, {f"x{number}.t00001": (Rule.COSINE, "") for number in range(num_refused)})
    now = replace(overview(), history=History(None, (), aged(ledger, age)))

    assert told(find_stuck(now, None, {})) == ["ColdFusionRefusalsRising"] * is_told


def turn(silent: float, phase: Phase = Phase.TRAINING, worker: str | None = "w") -> TurnOverview:
    report = ProgressReport(
        submission_id="s",
        turn=1,
        base_version=0,
        phase=phase,
        step=1,
        num_steps=2,
        loss=1.0,
        examples_per_second=1.0,
        worker="w",
    )
    return TurnOverview(1, "running" if worker else "queued", worker, report, silent)


@pytest.mark.parametrize(
    ("of", "is_told"),
    [
        pytest.param(turn(at.SILENT_TURN_SECONDS + 5), True, id="silent"),
        pytest.param(turn(at.SILENT_TURN_SECONDS - 5), False, id="not-for-long"),
        pytest.param(turn(9e4, Phase.UPLOADING), False, id="another-phase"),
        pytest.param(turn(9e4, worker=None), False, id="nobody-has-it"),
        pytest.param(turn(9e4, worker="another"), False, id="another-attempt"),
    ],
)
def test_a_turn_that_trains_and_reports_nothing(of: TurnOverview, is_told: bool) -> None:
    found = find_stuck(overview(), None, {"s": of})

    assert [item.command for item in found] == ["coldfusion show s"] * is_told


def test_alerts_come_first_and_a_broker_that_is_away_before_all() -> None:
    away = replace(
        overview(store(3, 9e4, 9e4)), broker=None, broker_error=BrokerUnavailableError("url", "no")
    )
    silent = {"s": turn(at.SILENT_TURN_SECONDS + 5)}

    assert told(find_stuck(away, None, silent)) == [
        "ColdFusionUnreachable",
        "ColdFusionNoFusion",
        None,
    ]


def test_every_alert_that_is_named_exists() -> None:
    source = Path(stuck.__file__).read_text("utf-8")

    named = set(re.findall(r'"(ColdFusion\w+)"', source))
    assert len(named) >= 6
    assert named <= ALERTS.keys()
