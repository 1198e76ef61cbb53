"""The compose file: what it promises of every service, and that its parts fit together."""

from __future__ import annotations

import importlib.util
import re
import stat
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from coldfusion_queue import __version__
from coldfusion_queue.settings import Settings
from tests.compose import DEPLOY, read_compose, seconds

FILE = read_compose()
SERVICES: dict[str, Any] = FILE["services"]
#: Ours that run on, and so are asked for their health and scraped.
PROCESSES = [
    name
    for name, service in SERVICES.items()
    if service.get("command", [""])[:2] == ["python", "-m"]
]
#: Ours that are not root's.
OURS = [
    name
    for name, service in SERVICES.items()
    if service["image"].startswith("coldfusion") and name != "volumes"
]


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    """``make_secrets.py``."""
    path = DEPLOY / "compose" / "make_secrets.py"
    spec = importlib.util.spec_from_file_location("make_secrets", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", SERVICES)
def test_no_service_has_rights_or_a_root_that_it_can_write(name: str) -> None:
    service = SERVICES[name]

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    if name == "volumes":  # gives the volumes to the others, once
        assert (service["user"], service["cap_add"]) == ("0:0", ["CHOWN"])
    else:
        assert service["user"] == "10001:10001"
        assert "cap_add" not in service
    mounted = [mount.split(":")[-1] for mount in service.get("volumes", [])]
    assert "/tmp" in [*service.get("tmpfs", []), *mounted]


@pytest.mark.parametrize("name", OURS)
def test_the_home_of_each_process_is_its_users(name: str) -> None:
    mounts = [*SERVICES[name]["tmpfs"], *SERVICES[name].get("volumes", [])]
    home = [mount for mount in mounts if "/var/lib/coldfusion" in mount]

    # A named volume begins as the image's directory, with its owner; one in memory as root's
    assert len(home) == 1
    owned = home[0] == "/var/lib/coldfusion:uid=10001,gid=10001,mode=0700"
    assert owned or home[0].partition(":")[0] in FILE["volumes"]


@pytest.mark.parametrize("name", SERVICES)
def test_no_command_is_a_shell_and_no_image_is_whatever_is_newest(name: str) -> None:
    service = SERVICES[name]

    assert isinstance(service.get("command", []), list)
    assert not {"sh", "/bin/sh", "bash", "-c"} & {*service.get("entrypoint", [])}
    assert service.get("command", [""])[0] not in {"sh", "bash"}
    name, _, digest = service["image"].partition("@")
    tag = name.rpartition(":")[2]
    assert re.search(r"\d", tag)
    if name.startswith("coldfusion-queue"):
        assert tag.rpartition("-")[0] == __version__
    else:
        assert re.fullmatch(r"sha256:[0-9a-f]{64}", digest)


@pytest.mark.parametrize("name", PROCESSES)
def test_each_process_has_a_health_check_and_time_to_hand_its_turn_on(name: str) -> None:
    service = SERVICES[name]
    soft_shutdown = Settings.model_fields["soft_shutdown_seconds"].default
    kind, program, *arguments = service["healthcheck"]["test"]

    assert (kind, program) == ("CMD", "python")
    assert "/livez" in arguments[-1]
    assert seconds(service["stop_grace_period"]) >= soft_shutdown + 15
    assert service["environment"]["COLDFUSION_METRICS_PORT"] == "9464"


@pytest.mark.parametrize("name", SERVICES)
def test_every_variable_is_a_setting_and_none_is_a_secret(name: str) -> None:
    variables = SERVICES[name].get("environment", {})
    settings = {f"COLDFUSION_{field.upper()}" for field in Settings.model_fields}

    assert {item for item in variables if item.startswith("COLDFUSION_")} <= settings
    for variable, value in variables.items():
        if re.search(r"PASSWORD|SECRET|_KEY$|TOKEN", variable):
            assert str(value).startswith("/run/secrets")
        assert not re.search(r"://[^/]*@", str(value))


def test_processes_that_load_no_torch_run_in_the_small_image() -> None:
    small = {name for name in PROCESSES if SERVICES[name]["image"].endswith("-cpu")}

    assert small == {"fusion", "beat", "exporter"}
    assert PROCESSES[0] == "finetune"


def test_workers_with_a_gpu_reserve_one_and_the_same_without_do_not() -> None:
    for name in ("finetune", "evaluation"):
        reserved = SERVICES[name]["deploy"]["resources"]["reservations"]["devices"]
        assert [item["capabilities"] for item in reserved] == [["gpu"]]
        assert SERVICES[name]["profiles"] == ["gpu"]
        without = SERVICES[f"{name}-cpu"]
        assert "deploy" not in without
        assert without["profiles"] == ["cpu"]
        assert without["command"] == SERVICES[name]["command"]


def test_workers_and_stores_have_no_way_out_of_the_host() -> None:
    outside = {name for name, item in SERVICES.items() if "outside" in item["networks"]}

    assert FILE["networks"]["backend"] == {"internal": True}
    assert outside == {"setup", "cli", "prometheus", "grafana"}
    published = {name: item["ports"] for name, item in SERVICES.items() if "ports" in item}
    assert published.keys() == {"prometheus", "grafana"}
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)


def test_every_file_that_is_mounted_is_there() -> None:
    for service in SERVICES.values():
        for mount in service.get("volumes", []):
            source = mount.partition(":")[0]
            if source.startswith(("./", "../")):
                assert (DEPLOY / source).exists(), source
            elif not source.startswith("/"):
                assert source in FILE["volumes"], source


def test_every_volume_of_others_is_given_to_their_user() -> None:
    given = {mount.partition(":")[0] for mount in SERVICES["volumes"]["volumes"]}
    paths = {mount.rpartition(":")[2] for mount in SERVICES["volumes"]["volumes"]}
    foreign = [item for item in SERVICES.values() if not item["image"].startswith("coldfusion")]
    needed = {
        mount.partition(":")[0]
        for item in foreign
        for mount in item["volumes"]
        if not mount.startswith(("./", "../", "/"))
    }

    assert given == needed
    assert paths <= {*SERVICES["volumes"]["command"]}
    for item in foreign:
        assert "volumes" in item["depends_on"]


def test_the_secrets_are_made_once_and_fit_together(maker: ModuleType, tmp_path: Path) -> None:
    directory = tmp_path / "secrets"
    made = maker.make_secrets(directory)
    first = {path.name: path.read_text() for path in directory.iterdir()}

    assert set(made) == set(FILE["secrets"]) == set(first)
    for name, described in FILE["secrets"].items():
        assert described["file"] == f"./compose/secrets/{name}"
    assert first["COLDFUSION_BROKER_PASSWORD"].strip() in first["valkey_password.conf"]
    identity = yaml.safe_load(first["s3.json"])["identities"][0]["credentials"][0]
    assert identity["accessKey"] == first["COLDFUSION_S3_ACCESS_KEY"].strip()
    assert identity["secretKey"] == first["COLDFUSION_S3_SECRET_KEY"].strip()
    # Containers read the files as users of their own; people do not get that far
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {0o444}
    assert maker.make_secrets(directory) == []
    # One that was lost is made from the others
    (directory / "s3.json").unlink()
    assert maker.make_secrets(directory) == ["s3.json"]
    assert {path.name: path.read_text() for path in directory.iterdir()} == first


def test_no_service_gets_a_secret_that_is_not_its_own() -> None:
    got = {name: set(item.get("secrets", [])) for name, item in SERVICES.items()}
    ours = {"COLDFUSION_BROKER_PASSWORD", "COLDFUSION_S3_ACCESS_KEY", "COLDFUSION_S3_SECRET_KEY"}

    assert got.pop("valkey") == {"valkey_password.conf"}
    assert got.pop("s3") == {"s3.json"}
    assert got.pop("grafana") == {"grafana_password"}
    assert (got.pop("volumes"), got.pop("prometheus")) == (set(), set())
    assert all(secrets == ours for secrets in got.values())


def test_secrets_and_models_are_not_committed() -> None:
    ignored = (DEPLOY / "compose" / ".gitignore").read_text("utf-8").splitlines()

    assert "/secrets/" in ignored


def test_prometheus_scrapes_every_process() -> None:
    config = yaml.safe_load((DEPLOY / "compose" / "prometheus.yaml").read_text("utf-8"))
    found = {
        (name, item["port"])
        for job in config["scrape_configs"]
        for item in job.get("dns_sd_configs", [])
        for name in item["names"]
    }

    assert {name for name, port in found if port == 9464} == set(PROCESSES)
    assert {name for name, _ in found} <= SERVICES.keys()
    metrics = re.search(r"-metricsPort=(\d+)", " ".join(SERVICES["s3"]["command"]))
    assert metrics is not None
    assert ("s3", int(metrics[1])) in found


def test_grafana_finds_prometheus_and_its_dashboards() -> None:
    provisioning = DEPLOY / "compose" / "grafana" / "provisioning"
    source = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text("utf-8"))
    files = yaml.safe_load((provisioning / "dashboards" / "files.yaml").read_text("utf-8"))
    mounted = [mount.split(":")[1] for mount in SERVICES["grafana"]["volumes"]]

    assert source["datasources"][0]["url"] == "http://prometheus:9090"
    assert files["providers"][0]["options"]["path"] in mounted
    assert (
        "../helm/coldfusion/files/dashboards:/etc/grafana/dashboards:ro"
        in SERVICES["grafana"]["volumes"]
    )


def test_grafana_knows_how_often_prometheus_scrapes() -> None:
    """Or a panel asks for rates over less than two scrapes, and shows gaps."""
    provisioning = DEPLOY / "compose" / "grafana" / "provisioning"
    source = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text("utf-8"))
    config = yaml.safe_load((DEPLOY / "compose" / "prometheus.yaml").read_text("utf-8"))

    (prometheus,) = source["datasources"]
    assert prometheus["jsonData"]["timeInterval"] == config["global"]["scrape_interval"]


def test_prometheus_has_the_rules_of_the_chart() -> None:
    config = yaml.safe_load((DEPLOY / "compose" / "prometheus.yaml").read_text("utf-8"))

    (rules,) = config["rule_files"]
    assert f"../helm/coldfusion/files/rules.yaml:{rules}:ro" in SERVICES["prometheus"]["volumes"]


def test_the_broker_keeps_what_it_has_and_forgets_nothing() -> None:
    lines = (DEPLOY / "compose" / "valkey.conf").read_text("utf-8").splitlines()

    assert {"appendonly yes", "maxmemory-policy noeviction", "protected-mode yes"} <= set(lines)
    assert "include /run/secrets/valkey_password.conf" in lines
