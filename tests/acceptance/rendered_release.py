"""An installed chart on this host, quick to recover: its pods, and a view of broker and store."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

from coldfusion_queue.names import contribution_id
from tests.acceptance.rendered import Cluster
from tests.acceptance.rendered_container import Container
from tests.acceptance.rendered_runs import Running, run_warm
from tests.acceptance.world import World
from tests.rows import rows, write_rows

__all__ = ["DRAIN_SECONDS", "SERVERS", "SITE", "SOFT_SECONDS", "USERS", "Release"]

SITE = "hospital"
DRAIN_SECONDS, SOFT_SECONDS = 1, 10
VALUES = {
    "repository": {
        "name": "rendered",
        "baseModel": "/models",
        "baseModelClaim": "models",
        "policy": {"min_contributions": 1},
    },
    # All that recovers is quick.
    "settings": {
        "lease_seconds": 3,
        "reconcile_interval_seconds": 0.5,
        "fusion_interval_seconds": 0.5,
        "fusion_lock_seconds": 1,
        "progress_interval_seconds": 0.1,
        "torch_threads": 1,
    },
    "shutdown": {"softSeconds": SOFT_SECONDS},
    "pools": {
        "gpu": None,
        "cpu": {"gpu": {"count": 0}, "drainSeconds": DRAIN_SECONDS},
        SITE: {"gpu": {"count": 0}, "site": SITE, "siteData": {"existingClaim": "notes"}},
    },
}
SERVERS = ("broker", "store")
#: User of the broker by the component that it runs.
USERS = {
    "beat": "beat",
    "evaluation": "evaluation",
    "exporter": "exporter",
    "fusion": "fusion",
    "pool-cpu": "finetune",
    f"pool-{SITE}": f"site-{SITE}",
}
#: What a worker logs once of what becomes of a turn; that a message came twice is not among it.
ENDINGS = {"started", "resumed", "interrupted", "committed", "retried", "superseded", "failed"}


class Release:
    """An installed chart: what runs of it, and what is seen of it by who may see all."""

    def __init__(self, directory: Path, model: Path) -> None:
        (directory / "site").mkdir()
        write_rows(directory / "site" / "notes.jsonl", rows("pair"))
        claims = {"models": model, "notes": directory / "site"}
        self.cluster = Cluster(VALUES, directory / "pods", claims)
        self.secret = self.cluster.secret("cf-coldfusion-credentials")
        self.running: dict[str, Running] = {}
        self._replicas: dict[str, Iterator[int]] = {}
        addresses = self.cluster.addresses
        broker = addresses["cf-coldfusion-broker.coldfusion.svc:6379"]
        self.world = World(
            directory / "world",
            {
                "COLDFUSION_REPOSITORY": "rendered",
                "COLDFUSION_BROKER_URL": f"redis://{broker}/0",
                "COLDFUSION_BROKER_USERNAME": "admin",
                "COLDFUSION_BROKER_PASSWORD": self.secret["admin-broker-password"],
                "COLDFUSION_S3_ENDPOINT": f"http://{addresses['cf-coldfusion-store.coldfusion.svc:8333']}",
                "COLDFUSION_S3_ACCESS_KEY": self.secret["fusion-s3-access-key"],
                "COLDFUSION_S3_SECRET_KEY": self.secret["fusion-s3-secret-key"],
            },
        )

    def pod(self, part: str) -> Container:
        """A new pod of a component."""
        replicas = self._replicas.setdefault(part, itertools.count())
        return self.cluster.container(part, next(replicas))

    def start(self, part: str) -> Running:
        """A new pod that runs."""
        container = self.pod(part)
        log = self.world.log_file(container.directory.name)
        self.running[container.directory.name] = running = Running(container, log)
        return running

    def worker(self) -> Running:
        """The one worker of the pool ``cpu`` that was not told to stop."""
        (found,) = (it for it in self.of("pool-cpu") if it.code() is None)
        return found

    def of(self, *parts: str) -> list[Running]:
        """What was started of some components."""
        return [it for it in self.running.values() if it.container.name in parts]

    def submit(self, *arguments: object) -> str:
        """Submit with the rights of the pods of ``helm test``."""
        command = ["coldfusion", "submit", *map(str, arguments), "--json"]
        return str(run_warm(self.pod("test-loop"), *command).json()["submission"])

    def events(self, running: Running, submission: str) -> list[str]:
        """How a worker began and ended turns of a submission."""
        name = contribution_id(submission, 1)
        return [
            str(item["event"]).removeprefix("turn_")
            for item in self.world.events(running.container.directory.name)
            if item.get("submission") == submission or item.get("contribution") == name
            if str(item["event"]).removeprefix("turn_") in ENDINGS
        ]

    def close(self) -> None:
        """Kill what still runs."""
        for running in self.running.values():
            running.kill()
        self.world.redis.close()
