"""What the chart starts is what the program is: commands, settings, probes, time to stop."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from coldfusion_queue.errors import SettingsError
from coldfusion_queue.settings import Settings, load_settings
from tests.chart.objects import of_kind, selects
from tests.chart.processes import Process, lay_out, processes
from tests.chart.rendering import CHART, VALUE_FILES, Object, render

#: What Celery, the runtime and the kubelet take beyond the soft shutdown.
MARGIN_SECONDS = 15

ROLES = {
    "workers.finetune_worker",
    "workers.evaluation_worker",
    "workers.fusion_worker",
    "workers.beat",
    "workers.exporter",
}


def workers(objects: tuple[Object, ...]) -> list[Process]:
    """The processes that go on for ever."""
    return [process for process in processes(objects) if process.module in ROLES]


def settings_of(
    process: Process,
    objects: tuple[Object, ...],
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Settings:
    """The settings as the process would read them."""
    root = directory / process.container["name"] / process.pod.owner["metadata"]["name"]
    monkeypatch.delenv("COLDFUSION_HOME", raising=False)
    with monkeypatch.context() as patch:
        for name, value in lay_out(process, objects, root).items():
            patch.setenv(name, value)
        return load_settings()


def test_every_process_of_the_program_is_started_by_some_file() -> None:
    assert {process.module for path in VALUE_FILES for process in workers(render(path))} == ROLES


def test_commands_are_run_without_a_shell_and_exist(objects: tuple[Object, ...]) -> None:
    wrong = [
        process.name
        for process in processes(objects)
        if process.command[0] not in ("python", "coldfusion", "coldfusion-submit")
        or (process.module and importlib.util.find_spec(process.module) is None)
    ]

    assert wrong == []


def test_settings_are_ones_that_the_program_takes(
    values_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = render(values_file)
    wrong = []
    for process in processes(objects):
        try:
            settings_of(process, objects, tmp_path, monkeypatch)
        except SettingsError as error:
            wrong.append(f"{process.name}: {error}")

    assert wrong == []


def test_files_of_secrets_are_read(
    values_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = render(values_file)
    for process in workers(objects):
        settings = settings_of(process, objects, tmp_path, monkeypatch)

        assert process.variables()["COLDFUSION_SECRETS_DIR"] == "/etc/coldfusion/secrets"
        assert settings.broker_password is not None, process.name
        if process.module != "workers.beat":
            assert settings.s3_secret_key is not None, process.name


def test_a_worker_has_the_time_that_it_takes_to_stop(
    values_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = render(values_file)
    wrong = []
    for process in workers(objects):
        settings = settings_of(process, objects, tmp_path, monkeypatch)
        hook = (process.container.get("lifecycle") or {}).get("preStop") or {}
        needed = (hook.get("sleep") or {}).get("seconds", 0)
        if process.module.endswith("_worker"):
            needed += settings.drain_seconds + settings.soft_shutdown_seconds + MARGIN_SECONDS
        if process.pod.spec.get("terminationGracePeriodSeconds", 30) < needed:
            wrong.append(f"{process.name} needs {needed} s")

    assert wrong == []


def test_probes_ask_what_the_processes_serve(objects: tuple[Object, ...]) -> None:
    """Liveness asks the process alone: a restart does not mend a broker."""
    paths = {"livenessProbe": "/livez", "readinessProbe": "/readyz", "startupProbe": "/startupz"}
    wrong = [
        f"{process.name}: {probe}"
        for process in workers(objects)
        for probe, path in paths.items()
        if ((process.container.get(probe) or {}).get("httpGet") or {}).get("path") != path
    ]

    assert wrong == []


def test_beat_and_exporter_are_one_each(objects: tuple[Object, ...]) -> None:
    # None at all where the repository is somewhere else.
    is_here = any(process.module == "workers.fusion_worker" for process in workers(objects))
    for module in ("workers.beat", "workers.exporter"):
        found = [process for process in workers(objects) if process.module == module]
        specs = [process.pod.owner["spec"] for process in found]

        assert [spec["replicas"] for spec in specs] == ([1] if is_here else [])
        assert {spec["strategy"]["type"] for spec in specs} <= {"Recreate"}


def test_workers_write_where_they_may(objects: tuple[Object, ...]) -> None:
    wrong = []
    for process in workers(objects):
        mounts = {
            mount["mountPath"]: mount.get("readOnly", False)
            for mount in process.container["volumeMounts"]
        }
        variables = process.variables()
        for path in ("/tmp", variables.get("COLDFUSION_HOME")):
            if mounts.get(path) is not False:
                wrong.append(f"{process.name}: {path}")
        if process.module in ("workers.finetune_worker", "workers.evaluation_worker"):
            if variables.get("HF_HUB_OFFLINE") != "1" or mounts.get("/dev/shm") is not False:
                wrong.append(f"{process.name}: offline, /dev/shm")
            if not variables.get("HF_HOME", "").startswith("/var/lib/coldfusion/"):
                wrong.append(f"{process.name}: HF_HOME")

    assert wrong == []


def test_every_worker_may_talk_to_broker_and_store(objects: tuple[Object, ...]) -> None:
    """Where traffic is denied by default, a pod without a policy of its own starves."""
    policies = of_kind(objects, "NetworkPolicy")
    denied = [policy for policy in policies if policy["spec"]["podSelector"] in ({}, None)]
    starved = [
        process.name
        for process in processes(objects)
        if policies
        and not any(
            selects(policy["spec"]["podSelector"], process.pod.labels)
            and "Egress" in policy["spec"]["policyTypes"]
            and policy["spec"].get("egress")
            for policy in policies
            if policy not in denied
        )
    ]

    assert starved == []


def test_every_worker_sends_traces_to_the_collector_and_may_reach_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = render(CHART / "ci" / "monitoring-values.yaml")
    (egress,) = [
        rule
        for policy in of_kind(objects, "NetworkPolicy")
        for rule in policy["spec"].get("egress", [])
        if {"port": 4318, "protocol": "TCP"} in rule["ports"]
    ]

    assert egress["to"] == [
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "observability"}}}
    ]
    for process in workers(objects):
        variables = {item["name"]: item["value"] for item in process.container["env"]}
        assert variables["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://collector.observability:4318"
        assert settings_of(process, objects, tmp_path, monkeypatch).traces


def test_nothing_is_traced_without_a_collector(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = render(CHART / "ci" / "minimal-values.yaml")

    for process in workers(objects):
        assert not settings_of(process, objects, tmp_path, monkeypatch).traces
