"""The local stack with its real servers; its workers are stand-ins written here."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import redis

from coldfusion_queue.errors import (
    AccessDeniedError,
    InvalidRecordError,
    ProcessFailedError,
    SettingsError,
)
from coldfusion_queue.local import LocalStack
from coldfusion_queue.local.ports import GRPC_OFFSET, HOST
from coldfusion_queue.settings import load_settings
from coldfusion_queue.store import Store

WORKERS = ("finetune_worker", "evaluation_worker", "fusion_worker", "beat", "exporter")

# Notes down its environment, then listens where its metrics would be.
STAND_IN = """
import json, os, pathlib, signal, socket, sys
name = pathlib.Path(__file__).stem + "".join(sys.argv[1:])
variables = {k: v for k, v in os.environ.items() if k.startswith("COLDFUSION_")}
pathlib.Path(name + ".part").write_text(json.dumps(variables))
pathlib.Path(name + ".part").rename(name + ".json")
with socket.create_server(("127.0.0.1", int(os.environ["COLDFUSION_METRICS_PORT"]))):
    signal.pause()
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Home directory of the stack, which is also ``COLDFUSION_HOME``."""
    return tmp_path / "home"


@pytest.fixture
def stack(home: Path) -> Iterator[LocalStack]:
    """A stack that is taken down at the end. Its workers are those of ``write_worker``."""
    stack = LocalStack(home)
    (stack.directory / "workers").mkdir(parents=True)
    (stack.directory / "workers" / "__init__.py").touch()
    for name in WORKERS:
        write_worker(stack, name, STAND_IN)
    yield stack
    # With the data: without a grace, which a test would only have to wait for.
    for process in stack.processes():
        if process.running:
            os.kill(process.pid, signal.SIGKILL)
    stack.down(remove_data=True)


def write_worker(stack: LocalStack, name: str, program: str) -> None:
    """Put a program in the place of a worker: ``-m`` looks into the working directory first."""
    (stack.directory / "workers" / f"{name}.py").write_text(textwrap.dedent(program))


def pids(stack: LocalStack) -> dict[str, int]:
    return {process.name: process.pid for process in stack.processes() if process.running}


def test_up_starts_both_servers_and_down_stops_them(stack: LocalStack, home: Path) -> None:
    assert stack.processes() == []

    settings = stack.up(servers_only=True)

    # A later command of the same person finds them by itself.
    assert load_settings() == settings
    assert settings.home == home
    Store.open(settings).put("repository/object", b"data")
    with redis.Redis.from_url(settings.broker_url.get_secret_value()) as client:
        client.set("key", "value")
    assert stat.S_IMODE(stack.env_file.stat().st_mode) == 0o600
    assert stat.S_IMODE((stack.directory / "stack.json").stat().st_mode) == 0o600
    assert stat.S_IMODE((stack.directory / "valkey" / "valkey.conf").stat().st_mode) == 0o600
    running = pids(stack)
    assert set(running) == {"valkey", "s3"}

    stack.down()

    assert not any(psutil.pid_exists(pid) for pid in running.values())
    assert not stack.env_file.exists()
    assert stack.processes() == []
    stack.down()


def test_up_again_finds_data_ports_and_credentials(stack: LocalStack) -> None:
    before = stack.up(servers_only=True)
    Store.open(before).put("repository/object", b"data")
    with redis.Redis.from_url(before.broker_url.get_secret_value()) as client:
        client.lpush("queue", "task")
    stack.down()

    after = stack.up(servers_only=True)

    assert after == before
    assert Store.open(after).get("repository/object") == b"data"
    with redis.Redis.from_url(after.broker_url.get_secret_value()) as client:
        assert client.lrange("queue", 0, -1) == [b"task"]


def test_up_restarts_only_what_died(stack: LocalStack) -> None:
    settings = stack.up(servers_only=True)
    Store.open(settings).put("repository/object", b"data")
    before = pids(stack)
    assert stack.up(servers_only=True) == settings
    assert pids(stack) == before

    os.kill(before["s3"], signal.SIGKILL)
    stack.up(servers_only=True)

    after = pids(stack)
    assert after["valkey"] == before["valkey"]
    assert after["s3"] != before["s3"]
    assert Store.open(settings).get("repository/object") == b"data"


def test_down_with_remove_data_leaves_nothing_of_it(stack: LocalStack) -> None:
    before = stack.up(servers_only=True)
    stack.down(remove_data=True)
    assert sorted(path.name for path in stack.directory.iterdir()) == ["lock", "workers"]
    after = stack.up(servers_only=True)
    assert after.s3_secret_key != before.s3_secret_key
    assert after.broker_url != before.broker_url


def test_port_that_was_taken_meanwhile_is_left_alone(stack: LocalStack) -> None:
    before = stack.up(servers_only=True)
    Store.open(before).put("repository/object", b"data")
    state = json.loads((stack.directory / "stack.json").read_text())
    stack.down()

    with (
        socket.create_server((HOST, state["valkey_port"])),
        # One of the ports that nobody asked for by name.
        socket.create_server((HOST, state["s3_ports"]["filer"] + GRPC_OFFSET)),
    ):
        after = stack.up(servers_only=True)

    assert after.broker_url != before.broker_url
    assert after.s3_endpoint != before.s3_endpoint
    assert load_settings() == after
    assert Store.open(after).get("repository/object") == b"data"
    with redis.Redis.from_url(after.broker_url.get_secret_value()) as client:
        assert client.ping()


def test_secrets_are_asked_for_and_not_shown(stack: LocalStack) -> None:
    settings = stack.up(servers_only=True)
    assert settings.s3_secret_key is not None
    secrets = [settings.s3_secret_key.get_secret_value(), settings.broker_url.get_secret_value()]
    secrets.append(secrets[1].split("@")[0].rpartition(":")[2])
    for process in stack.processes():
        command = " ".join(psutil.Process(process.pid).cmdline())
        shown = command + process.log.read_text() + repr(process)
        assert not any(secret in shown for secret in secrets)
    port = int(secrets[1].rpartition(":")[2].partition("/")[0])
    with (
        redis.Redis(host=HOST, port=port) as client,
        pytest.raises(redis.AuthenticationError),
    ):
        client.ping()
    anonymous = settings.model_copy(update={"s3_access_key": None, "s3_secret_key": None})
    with pytest.raises(AccessDeniedError):
        Store.open(anonymous).get("anything")


def test_servers_listen_on_the_loopback_interface_only(stack: LocalStack) -> None:
    stack.up(servers_only=True)
    for process in stack.processes():
        connections = psutil.Process(process.pid).net_connections(kind="tcp")
        listening = {c.laddr.ip for c in connections if c.status == psutil.CONN_LISTEN}
        assert listening == {HOST}


def test_nothing_is_left_in_the_directory_of_temporary_files(stack: LocalStack) -> None:
    def traces() -> set[str]:
        ports = json.loads((stack.directory / "stack.json").read_text())["s3_ports"].values()
        numbers = {str(port + offset) for port in ports for offset in (0, GRPC_OFFSET)}
        sockets = [path.name for path in Path("/tmp").glob("seaweedfs-*")]
        return {name for name in sockets if name.removesuffix(".sock").split("-")[-1] in numbers}

    stack.up(servers_only=True)
    logs = set(Path("/tmp").glob(f"weed.*.{pids(stack)['s3']}"))
    os.kill(pids(stack)["s3"], signal.SIGKILL)
    stack.down()
    assert traces() == set()
    assert logs == set()


def test_workers_get_the_connection_and_ports_of_their_own(
    stack: LocalStack,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    wait_until: Callable[..., object],
) -> None:
    # Of some other place; the stack's processes must not mix it with theirs.
    monkeypatch.setenv("COLDFUSION_BROKER_URL", "rediss://elsewhere.example.org/0")
    monkeypatch.setenv("COLDFUSION_S3_ENDPOINT", "https://elsewhere.example.org")
    monkeypatch.setenv("COLDFUSION_S3_SESSION_TOKEN", "elsewhere")
    (home.parent / "secrets").mkdir()
    (home.parent / "secrets" / "COLDFUSION_BROKER_PASSWORD").write_text("elsewhere")
    monkeypatch.setenv("COLDFUSION_SECRETS_DIR", str(home.parent / "secrets"))
    monkeypatch.setenv("COLDFUSION_LOG_LEVEL", "WARNING")

    settings = stack.up(
        2,
        [{"COLDFUSION_DUTY_CYCLE": "1.0"}, {"COLDFUSION_DUTY_CYCLE": "0.5"}],
        {"COLDFUSION_REPOSITORY": "mine", "COLDFUSION_DUTY_CYCLE": "0.9"},
    )

    assert settings.repository == "mine"
    assert settings.s3_endpoint.startswith(f"http://{HOST}:")
    assert settings.s3_session_token is None
    processes = stack.processes()
    names = {
        *("valkey", "s3", "finetune-1", "finetune-2", "evaluation"),
        *("fusion", "beat", "exporter"),
    }
    assert {process.name for process in processes if process.running} == names
    assert {process.name for process in processes[:2]} == {"valkey", "s3"}
    # ``up`` waits for what serves metrics, which beat does not.
    wait_until((stack.directory / "beat.json").exists)
    seen = {
        path.stem: json.loads(path.read_text())
        for path in stack.directory.glob("*.json")
        if path.stem != "stack"
    }
    first, second = "finetune_worker--namefinetune-1", "finetune_worker--namefinetune-2"
    evaluation = "evaluation_worker--nameevaluation"
    assert set(seen) == {first, second, evaluation, "fusion_worker", "beat", "exporter"}
    for variables in seen.values():
        assert variables["COLDFUSION_BROKER_URL"] == settings.broker_url.get_secret_value()
        assert variables["COLDFUSION_S3_ENDPOINT"] == settings.s3_endpoint
        assert not {"COLDFUSION_S3_SESSION_TOKEN", "COLDFUSION_SECRETS_DIR"} & variables.keys()
        assert variables["COLDFUSION_HOME"] == str(home)
        assert variables["COLDFUSION_REPOSITORY"] == "mine"
        assert variables["COLDFUSION_LOG_LEVEL"] == "WARNING"
        assert variables["COLDFUSION_METRICS_HOST"] == HOST
    duty = {name: variables["COLDFUSION_DUTY_CYCLE"] for name, variables in seen.items()}
    assert (duty[first], duty[second], duty["fusion_worker"]) == ("1.0", "0.5", "0.9")
    ports = {variables["COLDFUSION_METRICS_PORT"] for variables in seen.values()}
    assert len(ports) == 6
    shown = {str(process.metrics_port) for process in processes if process.metrics_port}
    assert shown == ports

    # Again: what runs stays, what died comes back on its old port.
    before = pids(stack)
    os.kill(before["fusion"], signal.SIGKILL)
    stack.up(1, environment={"COLDFUSION_REPOSITORY": "mine"})
    after = pids(stack)
    assert after.pop("fusion") != before.pop("fusion")
    assert after == before
    again = json.loads((stack.directory / "fusion_worker.json").read_text())
    assert again["COLDFUSION_METRICS_PORT"] == seen["fusion_worker"]["COLDFUSION_METRICS_PORT"]

    stack.down()
    assert not any(psutil.pid_exists(pid) for pid in before.values())


def test_worker_that_dies_at_once_shows_the_end_of_its_log(stack: LocalStack) -> None:
    write_worker(
        stack,
        "fusion_worker",
        """
        import sys
        for number in range(50):
            print("line", number)
        sys.exit("the repository is of another version")
        """,
    )
    with pytest.raises(ProcessFailedError) as caught:
        stack.up()
    error = caught.value
    assert error.name == "fusion"
    assert error.log == str(stack.directory / "logs" / "fusion.log")
    assert "line 49" in str(error)
    assert "line 10" not in str(error)
    assert str(error).endswith("the repository is of another version")
    assert not any(process.running for process in stack.processes())
    assert not stack.env_file.exists()


def test_failing_worker_does_not_take_down_what_ran_before(stack: LocalStack) -> None:
    stack.up(servers_only=True)
    before = pids(stack)
    write_worker(stack, "beat", "raise SystemExit('no')")
    with pytest.raises(ProcessFailedError):
        stack.up()
    assert pids(stack) == before
    assert stack.env_file.exists()


def test_server_that_cannot_start_is_reported_with_its_log(stack: LocalStack) -> None:
    stack.up(servers_only=True)
    stack.down()
    # Damaged in the middle, which the server refuses to repair by itself.
    log = next((stack.directory / "valkey" / "appendonlydir").glob("*.incr.aof"))
    log.write_bytes(b"*3\r\n$3\r\nSET\r\nnonsense\r\n" * 50)
    with pytest.raises(ProcessFailedError, match="valkey ended") as caught:
        stack.up(servers_only=True)
    assert "AOF" in caught.value.tail
    assert pids(stack) == {}


def test_ctrl_c_during_up_stops_what_was_started(stack: LocalStack) -> None:
    write_worker(
        stack,
        "exporter",
        """
        import os, signal
        os.kill(os.getppid(), signal.SIGINT)
        signal.pause()
        """,
    )
    with pytest.raises(KeyboardInterrupt):
        stack.up()
    assert stack.processes() != []
    assert pids(stack) == {}
    assert not stack.env_file.exists()


def test_two_ups_at_once_start_one_stack(stack: LocalStack) -> None:
    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(
            lambda home: LocalStack(home).up(servers_only=True), [stack.home] * 2
        )
    assert first == second
    ours = [
        process
        for process in psutil.process_iter(["cwd"])
        if str(process.info["cwd"]).startswith(str(stack.directory))
    ]
    assert {process.pid for process in ours} == set(pids(stack).values())
    assert len(ours) == 2


def test_wrong_settings_start_nothing(stack: LocalStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLDFUSION_DUTY_CYCLE", "7")
    with pytest.raises(SettingsError, match="COLDFUSION_DUTY_CYCLE"):
        stack.up(servers_only=True)
    assert stack.processes() == []


def test_damaged_state_is_named(stack: LocalStack) -> None:
    path = stack.directory / "stack.json"
    path.write_text("{")
    with pytest.raises(InvalidRecordError, match=str(path)):
        stack.up(servers_only=True)
    path.unlink()


def test_down_without_up_does_nothing(tmp_path: Path) -> None:
    stack = LocalStack(tmp_path / "never")
    stack.down()
    stack.down(remove_data=True)
    assert stack.processes() == []
    assert not (tmp_path / "never").exists()


def test_long_path_of_the_home_directory(tmp_path: Path) -> None:
    # Too long for a Unix socket.
    stack = LocalStack(tmp_path / ("a long name with spaces " * 5).strip())
    try:
        settings = stack.up(servers_only=True)
        Store.open(settings).put("repository/object", b"data")
    finally:
        stack.down(remove_data=True)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems cannot tie them together")
def test_embedded_servers_die_with_a_killed_parent(
    tmp_path: Path, wait_until: Callable[..., object]
) -> None:
    program = """
    import sys, time
    from pathlib import Path
    from coldfusion_queue.local import embedded_servers
    with embedded_servers(Path(sys.argv[1])):
        print("up", flush=True)
        time.sleep(600)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "servers")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "up\n"
        children = psutil.Process(parent.pid).children()
        commands = " ".join(word for child in children for word in child.cmdline())
        parent.kill()
    assert len(children) == 2
    wait_until(lambda: not any(child.is_running() for child in children), 10)
    ports = re.findall(r"-(\w+)\.port=(\d+)", commands)
    assert len(ports) == 5
    for part, port in ports:  # nobody is left who could do it
        Path(f"/tmp/seaweedfs-{part}-grpc-{int(port) + GRPC_OFFSET}.sock").unlink(missing_ok=True)


def test_lock_is_not_inherited_by_what_up_starts(stack: LocalStack) -> None:
    stack.up(servers_only=True)
    done = threading.Event()

    def down() -> None:
        LocalStack(stack.home).down()
        done.set()

    thread = threading.Thread(target=down)
    thread.start()
    thread.join(30)
    assert done.is_set()
