"""A fresh pair of servers for a block of code, such as a test run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from coldfusion_queue.local.launch import launch
from coldfusion_queue.local.processes import stop
from coldfusion_queue.local.seaweed import S3Server
from coldfusion_queue.local.state import connection_variables
from coldfusion_queue.local.valkey import ValkeyServer

__all__ = ["embedded_servers"]


@contextmanager
def embedded_servers(directory: Path, num_databases: int = 16) -> Iterator[Mapping[str, str]]:
    """Run a Valkey and an S3 server, with a bucket, while the block runs.

    On Linux the servers are killed with the thread that entered the block, however it ends.

    Args:
        directory: where they keep data and logs; made if need be, left as it is at the end.
        num_databases: number of Redis databases.

    Yields:
        The ``COLDFUSION_*`` variables that name them and their credentials.

    Raises:
        MissingExtraError: the extra ``local`` is not installed.
        ProcessFailedError: a server did not come up.
    """
    directory.mkdir(parents=True, exist_ok=True)
    valkey = ValkeyServer.new(directory / "valkey", num_databases=num_databases)
    # Each bucket takes some volumes of its own: small ones, so that there are enough of them.
    s3 = S3Server.new(directory / "s3", volume_megabytes=64)
    with ExitStack() as stopping:
        valkey, process = launch(valkey, directory / "valkey.log", die_with_parent=True)
        stopping.callback(stop, [process], 0)
        s3, process = launch(s3, directory / "s3.log", die_with_parent=True)
        stopping.callback(s3.clean)
        stopping.callback(stop, [process], 0)
        yield connection_variables(valkey, s3)
