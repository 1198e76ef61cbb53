"""The fusion engine on files of this machine, with equal weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from benchmarks.deltas import digest_of
from coldfusion_queue.fusion.methods import Method, make_method
from coldfusion_queue.fusion.stream import FusionInput, fuse_stream
from coldfusion_queue.records import BaseVersion, ContributionForm

__all__ = ["FileSource", "file_input", "fuse_files"]

_MEAN = make_method("mean", {})


class FileSource:
    """A file as the engine reads it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.name = path.name
        self.num_bytes = path.stat().st_size

    def read(self, offset: int, num_bytes: int) -> bytes:
        """See ``ByteSource``."""
        with self._path.open("rb") as file:
            file.seek(offset)
            return file.read(num_bytes)


def file_input(
    name: str, path: Path, form: ContributionForm = "delta", coefficient: float = 1.0
) -> FusionInput:
    """A contribution that lies in a file."""
    return FusionInput(name, FileSource(path), digest_of(path), form, coefficient)


def fuse_files(
    base_dir: Path,
    files: Mapping[str, Path],
    output: Path,
    *,
    form: ContributionForm = "delta",
    method: Method = _MEAN,
) -> None:
    """Write the fused model of contributions, which are named by their ids."""
    base = base_dir / BaseVersion.MODEL_FILE
    inputs = [file_input(name, path, form, 1 / len(files)) for name, path in files.items()]
    parts = fuse_stream(
        FileSource(base),
        digest_of(base),
        inputs,
        chunk_bytes=16 * 2**20,
        threads=2,
        method=method,
    )
    with output.open("wb") as file:
        file.writelines(parts)
