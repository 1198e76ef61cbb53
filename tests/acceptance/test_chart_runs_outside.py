"""What the chart renders for somebody else's broker and store, with TLS and their authority."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.acceptance.conftest import MakeWorld
from tests.acceptance.rendered import Cluster
from tests.acceptance.rendered_runs import Running
from tests.acceptance.world import World
from tests.rows import rows, write_rows
from tests.tls import CERTIFICATE, Front, tls_front

pytestmark = pytest.mark.slow


def values_of(world: World, database: str) -> dict[str, object]:
    """The chart's values for the repository of a world, whose servers are the operator's."""
    return {
        "repository": {"name": world.repository.name, "create": False},
        "settings": {"fusion_interval_seconds": 0.5, "reconcile_interval_seconds": 0.5},
        "pools": {"gpu": None},
        "evaluation": {"enabled": False},
        "broker": {
            "kind": "external",
            "external": {
                "url": f"rediss://redis.data.svc:6380{database}",
                "existingSecret": "made-broker",
                "usernameKey": "user",
            },
        },
        "objectStore": {
            "kind": "external",
            "external": {
                "endpoint": "https://s3.data.svc:9000",
                "addressing": "path",
                "existingSecret": "made-store",
            },
        },
        "tls": {"caSecret": "authority", "caKey": "authority.pem"},
    }


@contextmanager
def fronts(world: World, directory: Path) -> Iterator[dict[str, Front]]:
    """TLS before the servers of a world, which have none; by their names in the cluster."""
    broker = urlsplit(world.settings.broker_url.get_secret_value())
    store = urlsplit(world.settings.s3_endpoint)
    with (
        tls_front((broker.hostname, broker.port), directory / "broker") as first,
        tls_front((store.hostname, store.port), directory / "store") as second,
    ):
        yield {"redis.data.svc:6380": first, "s3.data.svc:9000": second}


def test_fusion_worker_and_beat_work_with_servers_whose_authority_is_the_operators(
    make_world: MakeWorld, tmp_path: Path
) -> None:
    with make_world() as world, fronts(world, tmp_path) as front:
        broker = urlsplit(world.settings.broker_url.get_secret_value())
        settings = world.settings
        cluster = Cluster(
            values_of(world, broker.path),
            tmp_path / "pods",
            claims={},
            secrets={
                "made-broker": {"user": "default", "password": broker.password or ""},
                "made-store": {
                    "access-key": settings.s3_access_key.get_secret_value(),
                    "secret-key": settings.s3_secret_key.get_secret_value(),
                },
                "authority": {"authority.pem": CERTIFICATE},
            },
            addresses={name: f"127.0.0.1:{found.port}" for name, found in front.items()},
        )
        assert cluster.parts("Deployment", "StatefulSet", "Job") == ["beat", "exporter", "fusion"]
        started = []
        try:
            for part in ("fusion", "beat"):
                container = cluster.container(part)
                assert container.unread() == []
                started.append(Running(container, world.log_file(part)))
            for running in started:
                for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
                    running.wait_for(kind)
            # Nobody else tells the fusion worker to fuse, and it alone publishes.
            world.start_warm("finetune_worker")
            data = write_rows(world.data / "notes.jsonl", rows("single"))
            shape = ("--set", "epochs=1", "--set", "batch_size=8", "--set", "max_length=16")
            world.wait_complete(world.submit(data, *shape))
            assert all(found.num_encrypted for found in front.values())
            for running in started:
                running.terminate()
            assert [running.wait(running.grace_seconds) for running in started] == [0, 0]
        finally:
            for running in started:
                running.kill()
