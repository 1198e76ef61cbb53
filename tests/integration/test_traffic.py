"""What is counted of the requests to the real store and the real broker."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis
from prometheus_client import REGISTRY
from pydantic import SecretStr

from coldfusion_queue.errors import AccessDeniedError, StoreUnavailableError
from coldfusion_queue.local.ports import HOST, free_port
from coldfusion_queue.queue.connection import connect_redis
from coldfusion_queue.queue.lock import single_flight
from coldfusion_queue.settings import Settings
from coldfusion_queue.store import Store
from tests.integration.conftest import MIB, pieces
from tests.integration.proxy import Proxy

Counts = Callable[..., dict[str, float]]


@pytest.fixture
def counts(settings: Settings) -> Counts:
    """``counts(name)``: the samples of this test's repository that are not 0, by their labels."""

    def read(name: str) -> dict[str, float]:
        found = {}
        for family in REGISTRY.collect():
            for sample in family.samples:
                labels = dict(sample.labels)
                is_ours = labels.pop("repository", None) == settings.repository
                if sample.name == f"coldfusion_{name}" and is_ours and sample.value:
                    found[" ".join(labels.values())] = sample.value
        return found

    return read


# --- store ------------------------------------------------------------------------------------

REQUESTS: dict[str, Callable[[Store, str], Any]] = {
    "read": lambda store, key: store.get(key),
    "look_up": lambda store, key: store.stat(key),
    "list": lambda store, key: list(store.list(key)),
    "create": lambda store, key: store.create(f"{key}-new", b"data"),
    "write": lambda store, key: store.put(f"{key}-new", b"data"),
    "delete": lambda store, key: store.delete([key]),
}


@pytest.mark.parametrize("operation", REQUESTS)
def test_a_request_is_counted_once_by_what_it_does(
    store: Store, prefix: str, counts: Counts, operation: str
) -> None:
    store.put(f"{prefix}object", b"12345")
    before = counts("store_request_duration_seconds_count").get(operation, 0)

    REQUESTS[operation](store, f"{prefix}object")

    assert counts("store_request_duration_seconds_count")[operation] == before + 1
    assert counts("store_errors_total") == counts("store_retries_total") == {}


def test_every_byte_of_objects_is_counted_on_its_way_up_and_down(
    small_parts: Settings, prefix: str, counts: Counts, tmp_path: Path
) -> None:
    store = Store.open(small_parts)
    store.put(f"{prefix}small", bytes(1000))
    store.create(f"{prefix}record", bytes(10))
    large = store.put_stream(f"{prefix}large", pieces(os.urandom(12 * MIB)))
    store.get(f"{prefix}small")
    store.read_range(f"{prefix}small", 100, 50)
    store.download(large, tmp_path / "large")

    assert counts("store_read_bytes_total")["read"] == 1000 + 50 + 12 * MIB
    written = counts("store_written_bytes_total")
    assert {name: written[name] for name in ("write", "create")} == {"write": 1000, "create": 10}
    # The parts, and the request that lists them at the end.
    assert 12 * MIB < written["upload"] < 12 * MIB + 2000
    assert counts("store_request_duration_seconds_count")["upload"] == 1 + 3 + 1


def test_what_is_not_there_and_what_is_there_already_are_answers(
    store: Store, prefix: str, counts: Counts
) -> None:
    store.create(f"{prefix}record", b"first")

    assert not store.create(f"{prefix}record", b"second")
    assert store.find(f"{prefix}missing") is None
    assert store.stat(f"{prefix}missing") is None
    assert store._read(f"{prefix}record", 100, 10) == b""
    assert counts("store_errors_total") == {}


def test_refusals_outages_and_failures_are_told_apart(
    settings: Settings, prefix: str, counts: Counts, proxy: Proxy
) -> None:
    wrong = settings.model_copy(update={"s3_secret_key": SecretStr("wr0ng")})
    away = settings.model_copy(update={"s3_endpoint": f"http://{HOST}:{free_port()}"})
    broken = settings.model_copy(update={"s3_endpoint": proxy.endpoint})
    proxy.faults[:] = ["503"] * 9
    for place, error in ((wrong, AccessDeniedError), (away, StoreUnavailableError)):
        with pytest.raises(error):
            Store.open(place, 3).get(f"{prefix}object")
    with pytest.raises(StoreUnavailableError):
        Store.open(broken, 2).put(f"{prefix}object", b"data")

    assert counts("store_errors_total") == {
        "read denied": 1,
        "read unreachable": 1,
        "write failed": 1,
    }
    assert counts("store_retries_total") == {"read": 2, "write": 1}
    # Nobody was there to answer one of the three.
    assert counts("store_request_duration_seconds_count") == {"read": 1, "write": 1}


def test_what_goes_well_in_the_end_was_retried_and_is_no_error(
    store: Store, shaky: Store, prefix: str, counts: Counts, proxy: Proxy
) -> None:
    store.put(f"{prefix}object", bytes(1000))
    proxy.faults[:] = ["drop", "503", "cut", "pass"]

    shaky.get(f"{prefix}object")

    assert counts("store_retries_total") == {"read": 3}
    assert counts("store_errors_total") == {}
    assert counts("store_read_bytes_total")["read"] == 1000


def test_an_answer_that_always_breaks_off_is_an_error(
    store: Store, prefix: str, counts: Counts, proxy: Proxy, settings: Settings
) -> None:
    store.put(f"{prefix}object", bytes(1000))
    proxy.faults[:] = ["cut"] * 9
    behind = settings.model_copy(update={"s3_endpoint": proxy.endpoint})
    with pytest.raises(StoreUnavailableError):
        Store.open(behind, 2).get(f"{prefix}object")

    assert counts("store_errors_total") == {"read unreachable": 1}
    assert counts("store_retries_total") == {"read": 1}


def test_requests_of_many_threads_are_all_counted(
    store: Store, prefix: str, counts: Counts
) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: store.create(f"{prefix}{n}", b"x"), range(200)))

    assert counts("store_request_duration_seconds_count") == {"create": 200}


# --- broker -----------------------------------------------------------------------------------


def test_commands_and_whole_pipelines_are_one_request_each(
    settings: Settings, counts: Counts
) -> None:
    client = connect_redis(settings)
    client.set("a", "1")
    with client.pipeline() as pipeline:
        pipeline.get("a").get("a").get("a")
        assert pipeline.execute() == ["1", "1", "1"]

    assert counts("broker_request_duration_seconds_count") == {"": 2}


def test_a_script_that_the_broker_does_not_know_yet_is_no_error(
    settings: Settings, counts: Counts
) -> None:
    client = connect_redis(settings)
    client.script_flush()
    with single_flight(client, "lock", 10) as is_free:
        assert is_free

    assert counts("broker_errors_total") == {}


def test_a_broker_that_is_away_refuses_or_fails_is_told_apart(
    settings: Settings, counts: Counts
) -> None:
    url = settings.broker_url.get_secret_value()
    scheme, _, rest = url.partition("://")
    place = rest.rpartition("@")[2]
    wrong = {
        "away": f"redis://{HOST}:{free_port()}/0",
        "refuses": f"{scheme}://nobody:wr0ng@{place}",
    }
    for name, error in (("away", redis.ConnectionError), ("refuses", redis.AuthenticationError)):
        other = settings.model_copy(update={"broker_url": SecretStr(wrong[name])})
        with pytest.raises(error):
            connect_redis(other).ping()
    client = connect_redis(settings)
    client.set("text", "no list")
    with pytest.raises(redis.ResponseError):
        client.llen("text")
    with pytest.raises(redis.ResponseError), client.pipeline() as pipeline:
        pipeline.llen("text").execute()

    assert counts("broker_errors_total") == {"unreachable": 1, "denied": 1, "failed": 2}


# --- processes that fork ------------------------------------------------------------------------

_FORKING = """
import os, sys, threading
from coldfusion_queue.settings import load_settings
from coldfusion_queue.store import Store
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

sys.setswitchinterval(1e-6)
settings = load_settings()
traffic = Store.open(settings)._pool.traffic
stop = threading.Event()

def probe():
    while not stop.is_set():
        traffic.failed("look_up", "failed")

threads = [threading.Thread(target=probe) for _ in range(2)]
for thread in threads:
    thread.start()
for _ in range(40):
    child = os.fork()
    if child == 0:
        traffic.failed("read", "failed")
        os._exit(0)
    os.waitpid(child, 0)
stop.set()
for thread in threads:
    thread.join()
registry = CollectorRegistry()
MultiProcessCollector(registry)
labels = {"repository": settings.repository, "operation": "read", "reason": "failed"}
print(registry.get_sample_value("coldfusion_store_errors_total", labels))
"""


def test_children_count_for_themselves_whatever_the_parents_threads_do_while_it_forks(
    settings: Settings, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FORKING],
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert done.stdout == "40.0\n", done.stderr
