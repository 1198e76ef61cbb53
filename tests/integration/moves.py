"""What the model test draws: moves of processes, and what befalls them on the way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from coldfusion_queue.crash_points import CrashPoint
from tests.integration.actors import Fate, State

__all__ = ["MOVES", "PLANNED", "POLICIES", "Move"]

#: Name of a method of the machine, and what it is called with.
Move = tuple[str, dict[str, Any]]


def fates(points: Sequence[CrashPoint]) -> st.SearchStrategy[Fate | None]:
    """In half of all cases nothing goes wrong."""
    endings = (State.PAUSED, State.CRASHED)
    bad = [Fate(ending, point) for point in points for ending in endings]
    return st.sampled_from([*[None for _ in bad], *bad])


def points(*beginnings: str) -> list[CrashPoint]:
    """The points whose names begin so, those of the first beginning first."""
    return [point for name in beginnings for point in CrashPoint if point.startswith(name)]


def asleep(points: Sequence[CrashPoint]) -> st.SearchStrategy[Fate]:
    """It pauses at one of these."""
    return st.builds(Fate, st.just(State.PAUSED), st.sampled_from(points))


def times(
    number: int, name: str, **arguments: st.SearchStrategy[Any]
) -> list[st.SearchStrategy[Move]]:
    """Moves of one kind: the name of a method and what it is called with."""
    fixed = st.fixed_dictionaries(arguments)
    return [st.tuples(st.just(name), fixed) for _ in range(number)]


INDEX = st.integers(0, 5)
YES_OR_NO = st.booleans()
SUBMIT = fates(points("submit", "send"))
TURN = fates(points("commit", "turn", "send", "submission", "checkpoint"))
FUSION = fates(points("decide", "settle", "publish", "fuse"))
POLICY = fates(points("policy", "settle"))
ROLLBACK = fates(points("rollback", "settle"))
COLLECTION = fates(points("gc", "settle"))
SENDING = fates(points("send", "reconcile"))
#: A worker that will commit late, and a fuser that will append late.
LATE_TURN = asleep(points("commit.up", "commit.mark", "turn.trained", "turn.down"))
LATE_FUSION = asleep(points("publish", "fuse.selected", "fuse.settled"))
PLANNED = Fate(State.PAUSED, CrashPoint.GC_PLANNED)
DEAD_FUSION = st.builds(Fate, st.just(State.CRASHED), st.sampled_from(points("decide", "settle")))
TRAININGS = st.sampled_from(["trains", "trains", "trains", "trains", "stops", "fails"])
#: What others do while a worker sleeps.
MEANWHILE = [
    "replace fuse policy",
    "collect",
    "replace fuse policy collect",
    "fuse collect",
    "replace",
    "replace fuse",
]
#: Who appends to the ledger while a fuser sleeps, or after it died.
RIVALS = ["fuse", "change_policy", "collect", "roll_back"]
POLICIES = st.fixed_dictionaries(
    {
        "min_contributions": st.sampled_from([1, 1, 1, 2, 3]),
        "max_contributions": st.integers(1, 3),
        "max_staleness": st.none() | st.integers(0, 2),
        "retain_base_versions": st.integers(1, 2),
        "retain_contributions": st.none() | st.integers(0, 1),
        "max_copy_cosine": st.none(),  # what nobody trained is the same for all
    },
)

#: These are no rules of their own, because of those a part is left out of each example, and
#: without deliveries little happens. A number is how often a kind is among them.
MOVES = st.one_of(
    *times(2, "submit", dataset=st.integers(0, 1), turns=st.integers(1, 2), fate=SUBMIT),
    *times(3, "deliver", index=INDEX, fate=TURN, training=TRAININGS),
    *times(1, "deliver", index=INDEX, fate=LATE_TURN, training=st.just("trains")),
    *times(1, "deliver_once_more", index=INDEX, fate=TURN),
    *times(1, "replace_a_paused_worker", index=INDEX, fate=TURN),
    *times(3, "commit_late", late=LATE_TURN, meanwhile=st.sampled_from(MEANWHILE)),
    *times(2, "fuse", is_locked=YES_OR_NO, fate=FUSION),
    *times(2, "fuse_late", late=LATE_FUSION, rival=st.sampled_from(RIVALS)),
    *times(2, "fuse_after_a_crash", dead=DEAD_FUSION, rival=st.sampled_from(RIVALS)),
    *times(2, "go_on", index=INDEX, fate=TURN),
    *times(2, "collect_garbage", has_grace=YES_OR_NO, fate=COLLECTION),
    *times(1, "collect_late", turn=LATE_TURN, fate=COLLECTION),
    *times(1, "change_policy", changes=POLICIES, fate=POLICY),
    *times(1, "roll_back", fate=ROLLBACK),
    *times(1, "an_hour_passes", with_paused=YES_OR_NO, is_wiped=YES_OR_NO, fate=SENDING),
    *times(1, "cancel", index=INDEX),
    *times(1, "kill", index=INDEX),
    *times(1, "lose_redis"),
)
