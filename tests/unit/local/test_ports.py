"""Free ports."""

from __future__ import annotations

import socket

import pytest

from coldfusion_queue.errors import WaitTimeoutError
from coldfusion_queue.local import ports
from coldfusion_queue.local.ports import GRPC_OFFSET, HOST, accepts_connections, free_port, is_free


def test_port_with_a_server_is_not_free_and_accepts_connections() -> None:
    port = free_port()
    assert is_free(port)
    assert not accepts_connections(port)
    with socket.create_server((HOST, port)):
        assert not is_free(port)
        assert accepts_connections(port)
    assert is_free(port)


def test_grpc_port_is_free_too_and_both_lie_below_those_of_outgoing_connections() -> None:
    for _ in range(50):
        port = free_port(with_grpc=True)
        assert is_free(port)
        assert is_free(port + GRPC_OFFSET)
        assert 1024 < port < port + GRPC_OFFSET < 32_768


def test_ports_that_were_given_out_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_FIRST", 11_000)
    monkeypatch.setattr(ports, "_LAST", 11_003)
    monkeypatch.setattr(ports, "is_free", lambda port: True)
    assert {free_port([11_000, 11_002]) for _ in range(20)} == {11_001}
    assert free_port([11_000, 11_001 + GRPC_OFFSET], with_grpc=True) == 11_002


def test_no_free_port_is_an_error_that_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "is_free", lambda port: False)
    with pytest.raises(WaitTimeoutError, match="between 11000 and 21000"):
        free_port()
