"""What the chart's scalers do to workers: on a real broker, with KEDA, HPA and time simulated."""

from __future__ import annotations

import copy
import itertools
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from coldfusion_queue.queue.app import unacked_index_key
from coldfusion_queue.queue.sending import TurnSender
from coldfusion_queue.settings import Settings
from tests.chart.rendering import CHART, VALUE_FILES, Object, render, render_values
from tests.integration.scaled_pool import Pool, Simulation, Work
from tests.integration.scaling import SYNC_SECONDS, Autoscaler, Clock, Hpa, evaluate, work_of

HOUR = 3600.0
ACL = (CHART / "files" / "access" / "redis" / "keda.acl").read_text(encoding="utf-8")

#: What only looks right: it forgets what runs.
NAIVE = "waiting"


def scaled_objects(objects: tuple[Object, ...]) -> dict[str, Object]:
    """The ScaledObjects by the names of their pools."""
    found = [item for item in objects if item["kind"] == "ScaledObject"]
    return {item["metadata"]["name"].rpartition("-pool-")[2]: item for item in found}


def values_of(name: str) -> tuple[Object, ...]:
    return render(CHART / "ci" / f"{name}-values.yaml")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The broker library stamps and puts back messages by it."""
    clock = Clock()
    monkeypatch.setattr("kombu.transport.redis.time", clock)
    return clock


@pytest.fixture
def work(sender: TurnSender) -> Work:
    return Work(sender)


@pytest.fixture
def keda(settings: Settings, client: redis.Redis) -> Iterator[redis.Redis]:
    """Connected as the user that the chart makes for KEDA."""
    name = f"keda-{secrets.token_hex(4)}"
    client.execute_command("ACL", "SETUSER", name, "on", ">its-own", *ACL.split())
    options = client.get_connection_kwargs()
    address = {key: options[key] for key in ("host", "port", "db")}
    with redis.Redis(username=name, password="its-own", **address) as own:
        yield own
    client.execute_command("ACL", "DELUSER", name)


Make = Callable[..., Pool]


@pytest.fixture
def make_pool(settings: Settings, clock: Clock, work: Work, keda: redis.Redis) -> Iterator[Make]:
    """A pool of workers by its ScaledObject, whose formula a test may change."""
    made = []

    def make(name: str, scaled: Object, formula: str | None = None, **options: Any) -> Pool:
        changes = {"site": options.pop("site", None), "pool": name}
        changed: Any = copy.deepcopy(scaled)
        if formula is not None:
            changed["spec"]["advanced"]["scalingModifiers"]["formula"] = formula
        scaler = Autoscaler(changed, keda, clock)
        pool = Pool(settings.model_copy(update=changes), clock, work, scaler, **options)
        made.append(pool)
        return pool

    yield make
    for pool in made:
        pool.close()


@pytest.fixture
def simulate(clock: Clock, client: redis.Redis) -> Callable[..., Simulation]:
    return lambda *pools: Simulation(clock, client, pools)


def gpu() -> Object:
    """Goes to zero alone, eight workers at most, 900 s without work before it goes."""
    return scaled_objects(values_of("tls"))["gpu"]


def test_formulae_are_understood() -> None:
    values = {"waiting": 5.0, "taken": 2.0}

    assert evaluate("ceil(waiting * 0.75) + taken", values) == 6
    assert evaluate("waiting - 2 * taken + 0.5", values) == 1.5
    with pytest.raises(ValueError, match="more in it than is known"):
        evaluate("max(waiting, taken)", values)


@pytest.mark.parametrize("path", VALUE_FILES, ids=lambda path: path.stem)
def test_keda_may_count_all_that_it_is_told_to_count(
    path: Path, keda: redis.Redis, client: redis.Redis
) -> None:
    for scaled in scaled_objects(render(path)).values():
        waiting, taken = (item["metadata"]["listName"] for item in scaled["spec"]["triggers"])
        assert work_of(scaled, keda) == 0  # there is no such key
        client.rpush(waiting, "a", "b", "c", "d")
        client.hset(taken, mapping={"a": 1, "b": 2})
        assert work_of(scaled, keda) in {4 + 2, 3 + 2, 1 + 2}
        client.delete(waiting, taken)


def test_a_pool_comes_up_with_the_work_and_goes_when_none_is_left(
    make_pool: Make, work: Work, simulate: Callable[..., Simulation], clock: Clock
) -> None:
    pool = make_pool("gpu", gpu())
    cluster = simulate(pool)
    cluster.run(300)
    assert set(pool.replicas) == {0}

    for number in range(20):
        work.submit(f"s{number}", 1800 + 60 * number)
    begun = clock.now
    assert cluster.run(30, until=lambda: pool.replicas[-1] == 1)
    assert cluster.run(120, until=lambda: pool.replicas[-1] == 8)
    assert cluster.run(4 * HOUR, until=lambda: len(work.done) == 20)
    assert clock.now - begun < 2.2 * HOUR  # eight at a time: three rounds of 2800 s at most
    ended = clock.now
    assert cluster.run(HOUR, until=lambda: pool.replicas[-1] == 0)

    assert max(pool.replicas) == 8
    assert sorted(set(pool.replicas)) == [0, 1, 8]  # from eight to zero at once
    assert 900 <= clock.now - ended <= 960
    assert pool.taken_from == []
    assert set(work.starts.values()) == {1}


def test_what_comes_while_a_pool_cools_down_finds_its_workers(
    make_pool: Make, work: Work, simulate: Callable[..., Simulation]
) -> None:
    pool = make_pool("gpu", gpu())
    cluster = simulate(pool)
    for number in range(3):
        work.submit(f"s{number}", 600)
    assert cluster.run(HOUR, until=lambda: len(work.done) == 3)
    num_steps = len(pool.replicas)
    for number in range(4):  # each a minute before it would have gone
        cluster.run(840)
        work.submit(f"late{number}", 30)
        assert cluster.run(60, until=lambda: work.done[-1] == f"late{number}")  # noqa: B023

    assert set(pool.replicas[num_steps:]) == {3}
    assert cluster.run(HOUR, until=lambda: pool.replicas[-1] == 0)
    assert pool.taken_from == []


@pytest.mark.parametrize(
    ("seconds_before_the_end", "num_workers"),
    [
        pytest.param(25, 1, id="a worker soon takes it as its second"),
        pytest.param(300, 2, id="it would have to wait"),
    ],
)
def test_a_turn_that_a_worker_prepares_ahead_needs_no_other_worker(
    seconds_before_the_end: float,
    num_workers: int,
    make_pool: Make,
    work: Work,
    simulate: Callable[..., Simulation],
    keda: redis.Redis,
) -> None:
    pool = make_pool("gpu", gpu())
    cluster = simulate(pool)
    work.submit("first", 600)
    assert cluster.run(300, step=5, until=lambda: work.starts["first"] == 1)
    cluster.run(600 - seconds_before_the_end, step=5)
    work.submit("second", 600)
    cluster.run(5, step=5)

    assert work_of(gpu(), keda) == 2
    assert cluster.run(HOUR, step=5, until=lambda: len(work.done) == 2)
    assert max(pool.replicas) == num_workers


@pytest.mark.parametrize("formula", [None, NAIVE], ids=["rendered", "naive"])
def test_no_turn_is_taken_away_while_it_runs_because_what_runs_is_counted(
    formula: str | None, make_pool: Make, work: Work, simulate: Callable[..., Simulation]
) -> None:
    pool = make_pool("gpu", gpu(), formula)
    cluster = simulate(pool)
    work.submit("long", 2 * HOUR)
    cluster.run(2 * HOUR, until=lambda: "long" in work.done)

    assert set(pool.taken_from) == (set() if formula is None else {"long"})
    assert (0 in pool.replicas[10:]) is (formula is not None)
    assert (work.starts["long"] > 1) is (formula is not None)


@pytest.mark.parametrize("formula", [None, NAIVE], ids=["rendered", "naive"])
def test_as_many_workers_stay_as_there_are_turns(
    formula: str | None, make_pool: Make, work: Work, simulate: Callable[..., Simulation]
) -> None:
    scaled = scaled_objects(values_of("keda"))["spot"]  # scales in by putting turns back
    pool = make_pool("spot", scaled, formula, scale_in="requeue")
    cluster = simulate(pool)
    for number in range(4):
        work.submit(f"s{number}", 2 * HOUR)
    cluster.run(300)
    num_steps = len(pool.replicas)
    cluster.run(1.5 * HOUR)

    if formula is None:
        assert set(pool.replicas[num_steps:]) == {4}
        assert pool.taken_from == []
    else:
        assert min(pool.replicas[num_steps:]) < 4
        assert pool.taken_from != []


@pytest.mark.parametrize(
    ("name", "scale_in"),
    [pytest.param("t4", "drain", id="drain"), pytest.param("spot", "requeue", id="requeue")],
)
def test_a_pool_that_scales_in_does_so_one_by_one_and_no_turn_is_lost(
    name: str,
    scale_in: str,
    make_pool: Make,
    work: Work,
    simulate: Callable[..., Simulation],
) -> None:
    scaled = scaled_objects(values_of("keda"))[name]
    pool = make_pool(name, scaled, "waiting + taken", scale_in=scale_in)
    cluster = simulate(pool)
    for number in range(3):
        work.submit(f"short{number}", 600)
        work.submit(f"long{number}", 2 * HOUR)
    cluster.run(300)
    assert pool.replicas[-1] == 6
    assert cluster.run(4 * HOUR, until=lambda: len(work.done) == 6)
    cluster.run(3 * HOUR)

    changes = [after - before for before, after in itertools.pairwise(pool.replicas)]
    downs = [index for index, change in enumerate(changes) if change < 0]
    assert pool.replicas[-1] == scaled["spec"]["minReplicaCount"]
    to_zero = 1 if pool.replicas[-1] == 0 else 0  # the last of them goes by KEDA, not by the HPA
    assert {changes[index] for index in downs[: len(downs) - to_zero]} == {-1}
    assert min(after - before for before, after in itertools.pairwise(downs)) * 15 >= 60
    assert len(pool.taken_from) == 3  # from six to three: a busy one each time, which is bad luck
    assert set(pool.taken_from) <= {"long0", "long1", "long2"}
    # Whoever drains ends its turn; else another worker goes on with it.
    assert sum(work.starts.values()) == (6 if scale_in == "drain" else 6 + 3)


def test_pools_that_share_a_queue_share_its_turns(
    make_pool: Make, work: Work, simulate: Callable[..., Simulation]
) -> None:
    scaling = {"kind": "keda", "maxReplicas": 40}
    objects = scaled_objects(
        render_values(
            {
                "pools": {
                    "gpu": None,
                    "a100": {"autoscaling": {**scaling, "share": 0.75}},
                    "t4": {"autoscaling": {**scaling, "share": 0.25}},
                }
            }
        )
    )
    pools = [make_pool(name, objects[name]) for name in ("a100", "t4")]
    cluster = simulate(*pools)
    for number in range(12):
        work.submit(f"s{number}", HOUR)
    cluster.run(HOUR)
    # Those that are there first take turns before the others come, and a part is rounded up.
    assert max(pools[0].replicas) in {9, 10}
    assert max(pools[1].replicas) in {3, 4}

    assert cluster.run(HOUR, until=lambda: len(work.done) == 12)
    assert cluster.run(HOUR, until=lambda: [pool.replicas[-1] for pool in pools] == [0, 0])
    work.submit("alone", 600)  # a part of one turn is a turn: either may be quicker
    cluster.run(60)
    assert [pool.replicas[-1] for pool in pools] == [1, 1]
    assert [name for pool in pools for name in pool.taken_from] == []


def test_a_pool_with_room_takes_what_a_full_one_leaves(
    make_pool: Make, work: Work, simulate: Callable[..., Simulation], client: redis.Redis
) -> None:
    objects = scaled_objects(values_of("keda"))
    full, roomy = make_pool("a100", objects["a100"]), make_pool("t4", objects["t4"])
    cluster = simulate(full, roomy)
    for number in range(13):
        work.submit(f"s{number}", 3 * HOUR)
    cluster.run(2 * HOUR)

    assert max(full.replicas) == objects["a100"]["spec"]["maxReplicaCount"] == 4
    assert roomy.replicas[-1] == 13 - 4
    assert client.llen("finetune") == 0


def test_an_hpa_leaves_a_number_alone_that_is_off_by_less_than_a_tenth(clock: Clock) -> None:
    behavior = gpu()["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    hpa = Hpa(clock, behavior, 1, 40, 1.0)
    answers = []
    for value in (12, 13, 13, 13, 13, 13, 13, 14, 14, 14, 14, 14, 14):
        clock.now += SYNC_SECONDS
        answers.append(hpa.look(12, value))

    assert answers[:7] == [12] * 7
    assert answers[-1] == 14  # when it was wanted for the whole window


@pytest.mark.parametrize("site", [None, "hospital-b"])
def test_the_turn_of_a_killed_worker_keeps_its_pool_until_it_is_ended(
    site: str | None,
    make_pool: Make,
    work: Work,
    simulate: Callable[..., Simulation],
    client: redis.Redis,
    settings: Settings,
) -> None:
    scaled = gpu() if site is None else scaled_objects(values_of("sites"))["hospital-b"]
    # The new worker comes much later than a pool goes.
    pool = make_pool("gpu", scaled, site=site, start_seconds=1200)
    cluster = simulate(pool)
    work.submit("long", HOUR, site)
    assert cluster.run(HOUR, until=lambda: work.starts["long"] == 1)
    cluster.run(1800)
    num_steps = len(pool.replicas)
    pool.kill(pool.workers[0])
    cluster.run(1000)

    assert client.llen(pool.queue.name) == 0  # nobody puts back what it had
    assert client.hlen(pool.unacked) == 1
    assert cluster.run(2 * HOUR, until=lambda: work.done == ["long"])
    assert work.starts["long"] == 2
    assert set(pool.replicas[num_steps:]) == {1}
    assert cluster.run(HOUR, until=lambda: pool.replicas[-1] == 0)
    assert client.hlen(pool.unacked) == client.zcard(unacked_index_key(pool.unacked)) == 0
