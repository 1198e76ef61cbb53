"""Files of quantised deltas: their header, and how a fusion reads them chunk by chunk.

A safetensors file with one tensor, ``groups``, of dtype U8 and shape (G, 50): the groups of
``quantised``, one a row. Its metadata names the scheme and its version. Integer buffers of the base
model are not in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from coldfusion_queue.errors import IncompatibleModelError, InvalidTensorFileError
from coldfusion_queue.fusion.chunks import Chunk, Numbers, ReadPlan, Run
from coldfusion_queue.fusion.dtypes import FLOAT_DTYPES, Floats
from coldfusion_queue.fusion.faults import attributed
from coldfusion_queue.fusion.layout import TensorInfo, TensorLayout, make_header
from coldfusion_queue.fusion.quantised import (
    GROUP_BYTES,
    GROUP_ELEMENTS,
    decode_elements,
    num_groups,
    scales_of,
)
from coldfusion_queue.fusion.reader import ChunkData, SourceReader

__all__ = ["SCHEME", "QuantisedReader", "quantised_header"]

#: Levels, bits, group size and version; whatever changes what the bytes mean changes this.
SCHEME = "gaussian-3bit-128/1"

_TENSOR = "groups"
_METADATA = "quantised"


def quantised_header(num_elements: int) -> bytes:
    """What comes before the groups of a model with so many float elements."""
    shape = [num_groups(num_elements), GROUP_BYTES]
    return make_header([(_TENSOR, "U8", shape)], {_METADATA: SCHEME})


@dataclass(frozen=True)
class _Groups:
    """Numbers of groups that lie side by side; see ``chunks.Numbers``."""

    position: int
    skipped: int
    """Elements of the first group that come before the numbers."""
    num_elements: int

    @property
    def num_bytes(self) -> int:
        return num_groups(self.skipped + self.num_elements) * GROUP_BYTES

    def decode(self, data: bytes | bytearray, first: int, count: int) -> Floats:
        return decode_elements(data, self.position, self.skipped + first, count)


class QuantisedReader(SourceReader):
    """One open file of a fusion that holds a quantised delta.

    It is read from beginning to end. A group that two chunks share is read for both.
    """

    _starts: Mapping[str, int]
    _tensor: TensorInfo

    def align(self, base: TensorLayout) -> None:
        """See ``SourceReader.align``.

        Raises:
            InvalidTensorFileError: another scheme, or none; as ``ContributionFault``.
            IncompatibleModelError: tensors of another model; as ``ContributionFault``.
        """
        with attributed(self.blamed):
            self._tensor = self._checked(base)
        self._starts = base.float_starts
        self.forget_header()

    def read(self, chunk: Chunk) -> ChunkData:
        """See ``SourceReader.read``.

        Raises:
            InvalidTensorFileError: a scale is negative, NaN or infinite; as ``ContributionFault``.
        """
        data = super().read(chunk)
        scales = scales_of(data.raw)
        valid = (scales >= 0) & (scales < np.inf)
        if not valid.all():
            index = int(valid.argmin())
            group = (data.plan.ranges[0][0] - self._tensor.start) // GROUP_BYTES + index
            problem = (
                f"the scale of group {group} is {scales[index]}, expected a finite one, not < 0"
            )
            with attributed(self.blamed):
                raise InvalidTensorFileError(self.name, problem)
        return data

    def plan(self, chunk: Chunk) -> ReadPlan:
        """See ``SourceReader.plan``; runs of integers have no numbers in the file."""
        floats = [run for run in chunk.runs if run.dtype in FLOAT_DTYPES]
        if not floats:
            return ReadPlan((), tuple(() for _ in chunk.runs))
        first_group = self._first(floats[0]) // GROUP_ELEMENTS
        num = num_groups(self._first(floats[-1]) + floats[-1].num_elements) - first_group
        start = self._tensor.start + first_group * GROUP_BYTES
        spans = tuple(self._numbers(run, first_group) for run in chunk.runs)
        return ReadPlan(((start, start + num * GROUP_BYTES),), spans)

    def _numbers(self, run: Run, first_group: int) -> tuple[Numbers, ...]:
        if run.dtype not in FLOAT_DTYPES:
            return ()
        group, skipped = divmod(self._first(run), GROUP_ELEMENTS)
        return (_Groups((group - first_group) * GROUP_BYTES, skipped, run.num_elements),)

    def _first(self, run: Run) -> int:
        """Where a run begins among all float elements of the base model."""
        return self._starts[run.pieces[0].tensor] + run.pieces[0].first

    def _checked(self, base: TensorLayout) -> TensorInfo:
        """The one tensor of the file, after it was found to be what it should be."""
        scheme = self.layout.metadata.get(_METADATA)
        if scheme != SCHEME:
            problem = (
                f"it is quantised as {str(scheme)[:80]!r}, this fusion worker knows {SCHEME!r}"
            )
            raise InvalidTensorFileError(self.name, problem)
        tensor = self.layout.tensors.get(_TENSOR)
        if tensor is None or len(self.layout.tensors) != 1:
            problem = f"it has {len(self.layout.tensors)} tensors, expected {_TENSOR!r} alone"
            raise InvalidTensorFileError(self.name, problem)
        expected = (num_groups(base.num_floats), GROUP_BYTES)
        if tensor.dtype != "U8" or tensor.shape != expected:
            raise IncompatibleModelError(
                f"contribution {self.blamed}",
                f"tensor {_TENSOR!r}",
                f"{tensor.dtype} of shape {tensor.shape}",
                f"U8 of shape {expected}",
                "it was finetuned from another model, finetune this repository's base model",
            )
        return tensor
