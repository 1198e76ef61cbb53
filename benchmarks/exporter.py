"""How long does Prometheus wait for a scrape of the exporter?

An exporter on fresh servers of its own, asked over HTTP as Prometheus asks it. Its repository has
decided contributions, as ledger entries of 8 with three evaluations of each version, and pending
ones; its broker has a queue and workers, of which some fell silent.

    scrape_seconds     p50, p95 and the slowest, with a pause after each
    hurried_seconds    the same without: then a scrape meets the evaluations being listed for it
    cpu_seconds        of the exporter for one scrape, with what it reads after it for the next
    requests           of one scrape, by what was counted at the exporter: to store and to broker
    floor_seconds      the longest chain of requests that wait for each other, with nothing beside
                       it: newest ledger entry, then listing of the inbox
    caught_up_seconds  from the first scrape until the whole ledger is counted
    meanwhile_seconds  the slowest scrape until then
    memory_bytes       resident, in the end

    python -m benchmarks.exporter
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import psutil
import redis
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.between import ROOT
from benchmarks.protocol import Site
from benchmarks.reporting import print_report
from coldfusion_queue.keys import POOLS, RedisKeys, presence
from coldfusion_queue.local import embedded_servers
from coldfusion_queue.local.ports import free_port
from coldfusion_queue.local.processes import last_lines, start, stop
from coldfusion_queue.queue.app import make_app, unacked_key
from coldfusion_queue.queue.connection import connect_redis
from coldfusion_queue.queue.sending import TurnSender
from coldfusion_queue.records import (
    FORMAT_VERSION,
    Evaluation,
    EvaluationSpec,
    ModelIdentity,
    RepositoryRecord,
)
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.settings import Settings, load_settings
from coldfusion_queue.store import Store

_DATASETS = ("debian", "nouns", "verbs")
_NUM_TAKEN, _NUM_WORKERS = 16, 50
_PATIENCE_SECONDS = 300.0
_NOW = datetime(2000, 1, 1, tzinfo=UTC)

Families = Mapping[str, Any]


class Scraped:
    """An exporter that runs, and how it is asked."""

    def __init__(self, variables: Mapping[str, str], directory: Path) -> None:
        port = free_port()
        environment = {**os.environ, **variables, "PYTHONPATH": str(ROOT)}
        environment |= {"COLDFUSION_METRICS_PORT": str(port)}
        command = [sys.executable, "-m", "workers.exporter"]
        self._log = directory / "exporter.log"
        self._url = f"http://127.0.0.1:{port}"
        self._process = start(
            "exporter", command, environment, directory, self._log, die_with_parent=True
        )
        self._until(lambda: self._get("/readyz") is not None)

    def catch_up(self) -> tuple[float, float]:
        """Seconds until the ledger is counted, and the slowest scrape until then."""
        begun, slowest = time.perf_counter(), 0.0
        while True:
            seconds, families = self.scrape()
            slowest = max(slowest, seconds)
            if "coldfusion_contributions" in families:
                return time.perf_counter() - begun, slowest

    def scrape(self) -> tuple[float, Families]:
        """Seconds that one took, and what it told; it has to tell of store and broker."""
        begun = time.perf_counter()
        text = self._get("/metrics") or ""
        seconds = time.perf_counter() - begun
        families = {item.name: item for item in text_string_to_metric_families(text)}
        assert families["coldfusion_up"].samples[0].value == 1, last_lines(self._log)
        return seconds, families

    def seconds(self, number: int, pause_seconds: float) -> dict[str, float]:
        """How long so many scrapes took, with a pause after each."""
        found = []
        for _ in range(number):
            found.append(self.scrape()[0])
            time.sleep(pause_seconds)
        cuts = quantiles(found, n=20, method="inclusive")
        figures = {"p50": cuts[9], "p95": cuts[18], "max": max(found)}
        return {name: round(value, 4) for name, value in figures.items()}

    def cpu_seconds(self, number: int, pause_seconds: float) -> float:
        """Of one scrape, with what is read after it for the next."""
        before = psutil.Process(self._process.pid).cpu_times()
        self.seconds(number, pause_seconds)
        after = psutil.Process(self._process.pid).cpu_times()
        return round((after.user + after.system - before.user - before.system) / number, 4)

    def requests(self, number: int, pause_seconds: float) -> dict[str, float]:
        """The same."""
        _, before = self.scrape()
        time.sleep(pause_seconds)
        for _ in range(number - 1):
            self.scrape()
            time.sleep(pause_seconds)
        _, after = self.scrape()
        return {
            server: round((_answered(after, server) - _answered(before, server)) / number, 1)
            for server in ("store", "broker")
        }

    def memory_bytes(self) -> int:
        """What it has resident."""
        return int(psutil.Process(self._process.pid).memory_info().rss)

    def stop(self) -> None:
        """End it."""
        stop([self._process], 5)

    def _get(self, path: str) -> str | None:
        try:
            with urllib.request.urlopen(self._url + path, timeout=60) as answer:  # noqa: S310
                return bytes(answer.read()).decode()
        except OSError:
            return None

    def _until(self, condition: Any) -> None:
        begun = time.monotonic()
        while not condition():
            if time.monotonic() - begun > _PATIENCE_SECONDS:
                raise SystemExit(f"the exporter did not begin:\n{last_lines(self._log)}")
            time.sleep(0.1)


def _answered(families: Families, server: str) -> float:
    name = f"coldfusion_{server}_request_duration_seconds"
    samples = families[name].samples
    return sum(item.value for item in samples if item.name == f"{name}_count")


def evaluate(repository: Repository, first: int, last: int) -> None:
    """Let these versions, whose digest is their number, have been evaluated on three datasets."""

    def record(version: int) -> None:
        for dataset in _DATASETS:
            found = Evaluation(
                spec=EvaluationSpec(dataset_id=dataset, kind="frozen"),
                base_version=version,
                base_digest=f"{version:032x}{0:032x}",
                scored_on="test",
                metric="accuracy",
                score=0.5,
                interval=(0.4, 0.6),
                num_train=1,
                num_scored=1,
                seconds=1,
                created_at=_NOW,
                created_by="benchmark",
            )
            key = repository.keys.evaluation(found.evaluation_id)
            repository.store.put(key, found.to_bytes())

    with ThreadPoolExecutor(16) as threads:
        for _ in threads.map(record, range(first, last)):
            pass


def fill_broker(settings: Settings, num_queued: int) -> None:
    """A queue, workers that have turns, and workers of which every fifth fell silent."""
    client: redis.Redis = connect_redis(settings)
    with make_app(settings) as app:
        TurnSender(app, client, settings, settings.repository).send("s", 1)
    (message,) = client.lrange("finetune", 0, -1)
    client.lpush("finetune", *[message] * num_queued)
    taken = json.dumps([json.loads(message), "finetune", "finetune"])
    client.hset(unacked_key("finetune"), mapping={str(n): taken for n in range(_NUM_TAKEN)})
    keys = RedisKeys(settings.repository)
    client.set(keys.turn("s.t00001"), "running:worker")
    client.set(keys.stored, json.dumps({"base": [1, 1], "contributions": [1, 1]}))
    client.sadd(POOLS, "a100", "t4")
    now = client.time()[0]
    ages = {f"a100/worker-{n}": now - (0 if n % 5 else 1800) for n in range(_NUM_WORKERS)}
    client.zadd(presence("finetune"), ages)


def identify(repository: Repository) -> None:
    """What a repository that was not made by ``init`` lacks."""
    identity = ModelIdentity(
        model_type="bert", hub_id="bench", tokenizer_digest=None, num_parameters=1
    )
    record = RepositoryRecord(
        format_version=FORMAT_VERSION,
        name=repository.name,
        identity=identity,
        created_at=_NOW,
        created_by="benchmark",
    )
    repository.store.create(repository.keys.repository_record, record.to_bytes())


def floor(repository: Repository, repetitions: int) -> float:
    """Seconds of the chain of requests alone, by a client that is connected."""
    repository.ledger.newest()
    seconds = []
    for _ in range(repetitions):
        begun = time.perf_counter()
        repository.ledger.newest()
        repository.inbox.glance()
        seconds.append(time.perf_counter() - begun)
    return median(seconds)


def measure(
    site: Site, variables: Mapping[str, str], directory: Path, number: int, pause_seconds: float
) -> dict[str, Any]:
    """One exporter, from its start, at what the site holds now."""
    exporter = Scraped(variables, directory)
    try:
        caught_up, meanwhile = exporter.catch_up()
        time.sleep(pause_seconds)
        result = {
            "decided": (site.num_entries - 1) * 8,
            "pending": len(site.pending),
            "scrape_seconds": exporter.seconds(number, pause_seconds),
            "hurried_seconds": exporter.seconds(number, 0),
            "cpu_seconds": exporter.cpu_seconds(max(5, number // 4), pause_seconds),
            "requests": exporter.requests(5, pause_seconds),
            "floor_seconds": round(floor(site.repository, number), 4),
            "caught_up_seconds": round(caught_up, 2),
            "meanwhile_seconds": round(meanwhile, 4),
            "memory_bytes": exporter.memory_bytes(),
        }
    finally:
        exporter.stop()
    print(json.dumps(result), file=sys.stderr, flush=True)
    return result


def run(
    variables: Mapping[str, str],
    directory: Path,
    sizes: Sequence[tuple[int, int]],
    num_queued: int,
    number: int,
    pause_seconds: float,
) -> list[dict[str, Any]]:
    own = {name.removeprefix("COLDFUSION_").lower(): value for name, value in variables.items()}
    settings = load_settings(**own)
    site = Site(Store.open(settings), settings.repository)
    identify(site.repository)
    fill_broker(settings, num_queued)
    results = []
    for num_decided, num_pending in sizes:
        first = site.num_entries
        site.grow(num_decided)
        evaluate(site.repository, first, site.num_entries)
        site.fill(num_pending)
        results.append(measure(site, variables, directory, number, pause_seconds))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument("--scrapes", type=int, default=100)
    parser.add_argument("--pause-seconds", type=float, default=1.0)
    arguments = parser.parse_args()
    sizes = [(100, 10), (10_000, 10), (10_000, 1000), (10_000, 10_000)]
    num_queued, number, pause_seconds = 1000, arguments.scrapes, arguments.pause_seconds
    if arguments.quick:
        sizes, num_queued, number, pause_seconds = [(160, 10)], 10, 5, 0.1
    with tempfile.TemporaryDirectory() as name, embedded_servers(Path(name)) as variables:
        own = {**variables, "COLDFUSION_REPOSITORY": "growing", "COLDFUSION_HOME": name}
        results = run(own, Path(name), sizes, num_queued, number, pause_seconds)
    print_report(
        "exporter",
        ("prometheus-client", "minio", "redis"),
        scrapes=number,
        pause_seconds=pause_seconds,
        queued=num_queued,
        workers=_NUM_WORKERS,
        results=results,
    )


if __name__ == "__main__":
    main()
