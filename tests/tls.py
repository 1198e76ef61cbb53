"""TLS in front of a server that has none, with a certificate of 127.0.0.1 that signs itself."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["CERTIFICATE", "Front", "tls_front"]

#: Made for these tests, valid until 2120; nobody trusts it who does not read it from here.
CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBpjCCAUugAwIBAgIBATAKBggqhkjOPQQDAjAgMR4wHAYDVQQDDBVsb29wYmFj
ayBvZiB0aGUgdGVzdHMwIBcNMjAwMTAxMDAwMDAwWhgPMjEyMDAxMDEwMDAwMDBa
MCAxHjAcBgNVBAMMFWxvb3BiYWNrIG9mIHRoZSB0ZXN0czBZMBMGByqGSM49AgEG
CCqGSM49AwEHA0IABDLx/blP793lb2jiCLOYRlKt8lquearBmOUWSU7rxkGdW8UV
cs5ErEWGV9Hv/VoKJts9li46mZZkywWLknAhoGGjdDByMA8GA1UdEwEB/wQFMAMB
Af8wDgYDVR0PAQH/BAQDAgKEMB0GA1UdDgQWBBRRBcn4b8MlX1WaxHprK7JZwyWr
4jAfBgNVHSMEGDAWgBRRBcn4b8MlX1WaxHprK7JZwyWr4jAPBgNVHREECDAGhwR/
AAABMAoGCCqGSM49BAMCA0kAMEYCIQCCQAKxGZhFLxBD+gist6hlYMlFe/kKCTsH
xkNCFpxq6gIhAKHRS/qifqru/AsWGHE9CpqzUDBWPjegRFNcEWcBFMAd
-----END CERTIFICATE-----
"""

_KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgIuJyNFOEfDxhDRZc
us+e/O408OUFXkfGJoB5XDbxo+qhRANCAAQy8f25T+/d5W9o4gizmEZSrfJarnmq
wZjlFklO68ZBnVvFFXLORKxFhlfR7/1aCibbPZYuOpmWZMsFi5JwIaBh
-----END PRIVATE KEY-----
"""


class Front:
    """Passes on what comes encrypted, and what comes plain to the same port.

    So a Sentinel, which knows one port of a server and has no TLS here, and a client that has find
    the server at the same address.
    """

    def __init__(self, target: tuple[str, int], directory: Path) -> None:
        self._target = target
        pair = directory / "own.pem"
        pair.write_text(CERTIFICATE + _KEY)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(pair)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = [self._listener]
        self.port: int = self._listener.getsockname()[1]
        self.num_encrypted = 0
        self._run(self._accept)

    def close(self) -> None:
        """Break every connection."""
        for end in self._sockets:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _run(self, target: object, *arguments: object) -> None:
        threading.Thread(target=target, args=arguments, daemon=True).start()  # type: ignore[arg-type]

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                self._run(self._serve, self._listener.accept()[0])

    def _serve(self, client: socket.socket) -> None:
        self._sockets.append(client)
        with suppress(OSError):
            if client.recv(1, socket.MSG_PEEK) == b"\x16":  # of a handshake
                client = self._context.wrap_socket(client, server_side=True)
                self._sockets.append(client)
                self.num_encrypted += 1
            server = socket.create_connection(self._target)
            self._sockets.append(server)
            self._run(self._pump, client, server)
            self._pump(server, client)

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while piece := source.recv(65536):
                sink.sendall(piece)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextmanager
def tls_front(target: tuple[str, int], directory: Path) -> Iterator[Front]:
    """A front for the time of the context."""
    directory.mkdir(parents=True, exist_ok=True)
    front = Front(target, directory)
    try:
        yield front
    finally:
        front.close()
