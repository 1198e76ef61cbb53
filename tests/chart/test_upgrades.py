"""What an upgrade keeps: passwords that were generated, and workers that a scaler has started."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chart.cluster import Cluster, cluster
from tests.chart.objects import Object
from tests.chart.rendering import CHART, helm, load_objects

GENERATED = ("-password", "-access-key", "-secret-key", "jwt-read", "jwt-write", "jwt-volume")


@pytest.fixture
def installed(tmp_path: Path) -> Iterator[tuple[Cluster, Path]]:
    with cluster(tmp_path) as (server, config):
        server.keep(credentials(config))
        yield server, config


def upgrade(config: Path, *values: str) -> list[Object]:
    """What helm renders when it can ask the cluster, in an upgrade."""
    text = helm(
        *("template", "fusion", str(CHART), "--namespace", "ns", "--is-upgrade"),
        *("--dry-run=server", "--disable-openapi-validation", f"--kubeconfig={config}"),
        *(part for value in values for part in ("--set", value)),
    )
    return load_objects(text)


def credentials(config: Path, *values: str) -> Object:
    (found,) = (
        item
        for item in upgrade(config, *values)
        if item["kind"] == "Secret" and item["metadata"]["name"].endswith("-credentials")
    )
    return found


def generated(secret: Any) -> dict[str, str]:
    return {key: value for key, value in secret.items() if key.endswith(GENERATED)}


def test_generated_passwords_survive_an_upgrade(installed: tuple[Cluster, Path]) -> None:
    server, config = installed
    before = server.secrets["fusion-coldfusion-credentials"]

    after = credentials(config)["stringData"]

    assert len(generated(before)) > 20
    assert len(set(generated(before).values())) == len(generated(before))
    assert after == before


def test_a_site_that_is_added_gets_credentials_and_changes_nobody_elses(
    installed: tuple[Cluster, Path],
) -> None:
    server, config = installed
    before = server.secrets["fusion-coldfusion-credentials"]

    after = credentials(config, "pools.h.site=h", "pools.h.siteData.existingClaim=notes")[
        "stringData"
    ]

    new = generated(after).keys() - generated(before).keys()
    keys = ("broker-password", "s3-access-key", "s3-secret-key")
    assert new == {f"site-h-{key}" for key in keys}
    assert {key: after[key] for key in generated(before)} == generated(before)
    digest = hashlib.sha256(after["site-h-broker-password"].encode()).hexdigest()
    assert f"user site-h on #{digest} " in after["users.acl"]
    config_of_store = json.loads(after["seaweedfs.json"])
    names = {identity["name"] for identity in config_of_store["identities"]}
    assert {"site-h", "finetune", "fusion"} <= names


def test_a_password_that_was_deleted_is_generated_anew(installed: tuple[Cluster, Path]) -> None:
    server, config = installed
    before = server.secrets["fusion-coldfusion-credentials"]
    old = before.pop("keda-broker-password")

    after = credentials(config)["stringData"]

    assert after["keda-broker-password"] != old
    assert {key: after[key] for key in generated(before)} == generated(before)


@pytest.mark.parametrize(("live", "rendered"), [(8, 8), (0, 0), (None, None)])
def test_autoscaling_that_is_turned_on_leaves_the_workers_that_there_are(
    installed: tuple[Cluster, Path], live: int | None, rendered: int | None
) -> None:
    server, config = installed
    name = "fusion-coldfusion-pool-gpu"
    if live is not None:
        server.replicas[name] = live
    scaling = "pools.gpu.autoscaling"

    objects = upgrade(
        *(config, f"{scaling}.kind=hpa", f"{scaling}.minReplicas=1", f"{scaling}.scaleIn=requeue"),
        "networkPolicy.enabled=false",
    )

    (pool,) = (
        item
        for item in objects
        if item["kind"] == "Deployment" and item["metadata"]["name"] == name
    )
    assert pool["spec"].get("replicas") == rendered
