"""The files of a base model, read as one: a single file, or the shards of a large model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Self

from coldfusion_queue.errors import IncompatibleModelError, InvalidTensorFileError
from coldfusion_queue.fusion.chunks import Chunk, plan_chunks
from coldfusion_queue.fusion.faults import attributed
from coldfusion_queue.fusion.layout import ByteSource, TensorInfo, TensorLayout
from coldfusion_queue.fusion.reader import ChunkData, SourceReader

__all__ = ["ModelFiles", "ModelReader"]


@dataclass(frozen=True, eq=False)
class ModelFiles:
    """Where a base model's parameters are.

    Its tensors are those of the first file, then those of the second, and so on.
    """

    sources: tuple[ByteSource, ...]
    """One or more files, no tensor in two of them."""
    digests: tuple[str | None, ...]
    """sha256 of each, lower-case hex; None checks nothing."""

    @classmethod
    def single(cls, source: ByteSource, digest: str | None) -> Self:
        """A model that is one file."""
        return cls((source,), (digest,))

    @property
    def key(self) -> tuple[int, ...]:
        """Identity of the files, for as long as they live."""
        return tuple(map(id, self.sources))


class ModelReader:
    """The open files of one model.

    A pass reads one of the files or all of them, each from beginning to end; see
    ``reader.SourceReader``.
    """

    def __init__(self, files: Sequence[SourceReader]) -> None:
        self.files = tuple(files)
        self.headers = tuple(file.layout.header for file in files)
        self.layout = _joined(files)
        self._seen: set[int] = set()

    @classmethod
    def open(cls, model: ModelFiles, blamed: str | None) -> Self:
        """Read the headers of all files.

        Args:
            model: the files.
            blamed: id of the contribution that errors in them are attributed to, if any.

        Raises:
            InvalidTensorFileError: one is no safetensors file, or a tensor is in two of them; as
                ``ContributionFault`` if attributed.
        """
        pairs = zip(model.sources, model.digests, strict=True)
        files = [SourceReader.open(source, digest, blamed) for source, digest in pairs]
        with attributed(blamed):
            return cls(files)

    @property
    def name(self) -> str:
        """What messages call the model."""
        return self.files[0].name

    def align(self, base: ModelReader) -> None:
        """Check that the model is cut into files as the base model is, and fits it.

        Raises:
            IncompatibleModelError: it does not; as ``ContributionFault`` if attributed.
        """
        blamed = self.files[0].blamed
        if len(self.files) != len(base.files):
            with attributed(blamed):
                raise IncompatibleModelError(
                    f"contribution {blamed}",
                    "its own base version",
                    f"{len(self.files)} weight files",
                    str(len(base.files)),
                    "it was finetuned from another model, finetune this repository's base model",
                )
        for file, expected in zip(self.files, base.files, strict=True):
            file.align(expected.layout)
        self.headers = ()
        self.layout = replace(self.layout, header=b"", metadata={})

    def plan_chunks(self, chunk_bytes: int) -> tuple[Chunk, ...]:
        """Chunks of all files, one after the other; see ``chunks.plan_chunks``."""
        return tuple(
            chunk
            for index, file in enumerate(self.files)
            for chunk in plan_chunks(file.layout, chunk_bytes, index)
        )

    def verify_beforehand(self, part_bytes: int) -> None:
        """See ``SourceReader.verify_beforehand``."""
        for file in self.files:
            file.verify_beforehand(part_bytes)

    def rewind(self) -> None:
        """See ``SourceReader.rewind``."""
        self._seen.clear()
        for file in self.files:
            file.rewind()

    def read(self, chunk: Chunk) -> ChunkData:
        """See ``SourceReader.read``."""
        self._seen.add(chunk.file)
        return self.files[chunk.file].read(chunk)

    def verify(self) -> None:
        """Compare the digests of the files that were read since the beginning.

        Raises:
            DigestMismatchError: not the recorded bytes; as ``ContributionFault`` if attributed.
        """
        for index in sorted(self._seen):
            self.files[index].verify()


def _joined(files: Sequence[SourceReader]) -> TensorLayout:
    """All tensors in order; each with its place in its own file."""
    if len(files) == 1:
        return files[0].layout
    tensors: dict[str, TensorInfo] = {}
    for file in files:
        for name, tensor in file.layout.tensors.items():
            if name in tensors:
                raise InvalidTensorFileError(file.name, f"tensor {name!r} is in another shard too")
            tensors[name] = tensor
    return TensorLayout(MappingProxyType(tensors), b"", {})
