"""A pool is scaled by its own work: what waits in its queue, and what its workers have taken."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from coldfusion_queue.queue.app import FINETUNE_QUEUE, finetune_queue, unacked_key
from tests.chart.objects import identity, named, of_kind
from tests.chart.processes import Process, processes
from tests.chart.rendering import CHART, VALUE_FILES, Object, render, render_values
from tests.chart.test_rendered_processes import settings_of

ACL = CHART / "files" / "access" / "redis" / "keda.acl"


def scaled_process(scaler: Object, objects: tuple[Object, ...]) -> Process:
    """The worker that a scaler sets the number of."""
    name = scaler["spec"]["scaleTargetRef"]["name"]
    return next(
        process
        for process in processes(objects)
        if identity(process.pod.owner) == f"Deployment/{name}"
    )


def keys_of(scaler: Object) -> dict[str, str]:
    """The keys that a scaler reads, by the name of the trigger."""
    return {
        trigger["name"]: trigger["metadata"]["listName"] for trigger in scaler["spec"]["triggers"]
    }


def behaviour_of(scaler: Object) -> Mapping[str, Any]:
    """How fast the number may change."""
    spec = scaler["spec"]
    if scaler["kind"] == "ScaledObject":
        spec = spec["advanced"]["horizontalPodAutoscalerConfig"]
    found: Mapping[str, Any] = spec["behavior"]
    return found


def test_some_files_scale_by_keda_and_some_by_the_hpa() -> None:
    kinds = {found["kind"] for path in VALUE_FILES for found in render(path)}

    assert {"ScaledObject", "HorizontalPodAutoscaler"} <= kinds


def test_keda_reads_the_keys_that_the_pool_writes(
    values_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = render(values_file)
    for scaler in of_kind(objects, "ScaledObject"):
        process = scaled_process(scaler, objects)
        settings = settings_of(process, objects, tmp_path, monkeypatch)

        assert keys_of(scaler) == {
            "waiting": finetune_queue(settings.site).name,
            "taken": unacked_key(FINETUNE_QUEUE, pool=settings.pool, site=settings.site),
        }


def test_pools_that_are_scaled_count_for_themselves(values_file: Path) -> None:
    """Two pools that wrote one hash would each be scaled by the work of both."""
    taken = [keys_of(found)["taken"] for found in of_kind(render(values_file), "ScaledObject")]

    assert len(set(taken)) == len(taken)


def test_keda_may_read_the_keys_that_it_reads(values_file: Path) -> None:
    patterns = [word[1:] for word in ACL.read_text("utf-8").split() if word.startswith("~")]
    denied = [
        key
        for scaler in of_kind(render(values_file), "ScaledObject")
        for key in keys_of(scaler).values()
        if not any(fnmatch.fnmatchcase(key, pattern) for pattern in patterns)
    ]

    assert denied == []


def test_a_scale_in_policy_keeps_its_word(
    values_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Either nobody is taken while there is work, or whoever is has the time that it needs."""
    objects = render(values_file)
    for scaler in of_kind(objects, "ScaledObject", "HorizontalPodAutoscaler"):
        down = behaviour_of(scaler)["scaleDown"]
        process = scaled_process(scaler, objects)
        settings = settings_of(process, objects, tmp_path, monkeypatch)
        if down.get("selectPolicy") == "Disabled":
            assert scaler["spec"]["minReplicaCount"] == 0, identity(scaler)
        else:
            grace = process.pod.spec["terminationGracePeriodSeconds"]
            needed = settings.drain_seconds + settings.soft_shutdown_seconds
            assert [policy["value"] for policy in down["policies"]] == [1], identity(scaler)
            assert grace > needed, identity(scaler)


def test_keda_is_let_to_the_embedded_broker() -> None:
    objects = render(CHART / "ci" / "keda-values.yaml")
    namespaces = [
        peer.get("namespaceSelector", {}).get("matchLabels", {}).get("kubernetes.io/metadata.name")
        for policy in of_kind(objects, "NetworkPolicy")
        for rule in policy["spec"].get("ingress") or []
        for peer in rule.get("from") or []
    ]

    assert "keda" in namespaces


@pytest.mark.parametrize(
    ("url", "address"),
    [
        pytest.param("redis://redis.example.org/0", "redis.example.org:6379", id="no port"),
        pytest.param("redis://redis.example.org:6380/1", "redis.example.org:6380", id="port"),
    ],
)
def test_keda_asks_the_broker_at_a_port(url: str, address: str) -> None:
    """The program knows the port of Redis by itself; KEDA does not."""
    objects = render_values(
        {
            "broker": {"kind": "external", "external": {"url": url, "existingSecret": "broker"}},
            "pools": {"gpu": {"autoscaling": {"kind": "keda"}}},
        }
    )
    (scaler,) = of_kind(objects, "ScaledObject")

    assert {trigger["metadata"]["address"] for trigger in scaler["spec"]["triggers"]} == {address}


def test_keda_has_the_credentials_of_its_own_user() -> None:
    objects = render(CHART / "ci" / "keda-values.yaml")
    (authentication,) = of_kind(objects, "TriggerAuthentication")
    references = authentication["spec"]["secretTargetRef"]

    assert {entry["parameter"]: entry["key"] for entry in references} == {
        "username": "keda-broker-username",
        "password": "keda-broker-password",
    }
    assert named(objects, "Secret", references[0]["name"]) is not None


@pytest.mark.parametrize(
    ("values", "parameters"),
    [
        pytest.param({}, set(), id="no password"),
        pytest.param({"existingSecret": "broker"}, {"password"}, id="password"),
        pytest.param(
            {"existingSecret": "broker", "usernameKey": "user", "roleSecrets": {"keda": "own"}},
            {"username", "password"},
            id="user of its own",
        ),
    ],
)
@pytest.mark.parametrize("authority", ["", "internal-authority"])
def test_triggers_name_an_authentication_only_if_there_is_one(
    values: dict[str, Any], parameters: set[str], authority: str
) -> None:
    url = f"{'rediss' if authority else 'redis'}://redis.example.org:6379/0"
    objects = render_values(
        {
            "broker": {"kind": "external", "external": {"url": url, **values}},
            "tls": {"caSecret": authority},
            "pools": {"gpu": {"autoscaling": {"kind": "keda"}}},
        }
    )
    (scaler,) = of_kind(objects, "ScaledObject")
    found = of_kind(objects, "TriggerAuthentication")
    expected = parameters | ({"ca", "tls"} if authority else set())

    assert len(found) == bool(expected)
    given = {
        entry["parameter"]: entry["name"]
        for item in found
        for kind in ("secretTargetRef", "configMapTargetRef")
        for entry in item["spec"].get(kind, [])
    }
    assert set(given) == expected
    assert given.get("password") in {None, "broker", "own"}
    assert (given.get("password") == "own") == ("roleSecrets" in values)
    for trigger in scaler["spec"]["triggers"]:
        named_by_it = trigger.get("authenticationRef", {}).get("name")
        assert [named_by_it] == ([item["metadata"]["name"] for item in found] or [None])
        assert "enableTLS" not in trigger["metadata"]  # KEDA refuses it beside ``tls``
