"""Free ports on the loopback interface.

A port that is free now can be taken before a server binds it; who starts a server looks whether
it came up, and starts it on another port if it did not.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Collection

from coldfusion_queue.errors import WaitTimeoutError

__all__ = ["GRPC_OFFSET", "HOST", "accepts_connections", "free_port", "is_free"]

HOST = "127.0.0.1"

#: SeaweedFS serves gRPC on the HTTP port plus this.
GRPC_OFFSET = 10_000

# Both a port and its gRPC port lie below the ports that systems give to outgoing connections
# (32768 and up on Linux), one of which could otherwise sit on a port that we come back to later.
# No port is another one's gRPC port, which SeaweedFS would refuse.
_FIRST, _LAST = 11_000, 21_000
_NUM_TRIES = 500


def is_free(port: int) -> bool:
    """Whether a server could listen on the port now."""
    with socket.socket() as trial:
        # Servers set this too: connections that linger after a stop do not keep a port.
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((HOST, port))
        except OSError:
            return False
    return True


def free_port(taken: Collection[int] = (), *, with_grpc: bool = False) -> int:
    """A port that nothing listens on.

    Args:
        taken: ports that were given out already, though nothing listens on them yet.
        with_grpc: the port ``GRPC_OFFSET`` above is free as well.

    Raises:
        WaitTimeoutError: no free port was found.
    """
    # Two processes that look at the same time must not come to the same port.
    chooser = random.SystemRandom()
    offsets = (0, GRPC_OFFSET) if with_grpc else (0,)
    for _ in range(_NUM_TRIES):
        port = chooser.randrange(_FIRST, _LAST)
        wanted = [port + offset for offset in offsets]
        if not any(number in taken for number in wanted) and all(map(is_free, wanted)):
            return port
    remedy = f"free some port of {HOST} between {_FIRST} and {_LAST}"
    raise WaitTimeoutError("finding a free port", 0, remedy)


def accepts_connections(port: int, timeout_seconds: float = 0.5) -> bool:
    """Whether something listens on the port."""
    try:
        with socket.create_connection((HOST, port), timeout_seconds):
            return True
    except OSError:
        return False
