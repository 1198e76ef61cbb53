"""Fuses one chunk that was read, and finds out whose fault it is when that fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from coldfusion_queue.errors import (
    IncompatibleModelError,
    InvalidTensorFileError,
    NonFiniteTensorError,
)
from coldfusion_queue.fusion.average import add_delta, delta_of
from coldfusion_queue.fusion.chunks import Chunk, Run
from coldfusion_queue.fusion.dtypes import FLOAT_DTYPES, Floats, accumulator, encode, is_finite
from coldfusion_queue.fusion.faults import ContributionFault
from coldfusion_queue.fusion.inputs import Member
from coldfusion_queue.fusion.reader import ChunkData, SourceReader

__all__ = ["Combiner"]


@dataclass(frozen=True)
class Combiner:
    """A base model and the contributions that are added to it, in the order of their ids."""

    base: SourceReader
    members: Sequence[Member]

    @property
    def readers(self) -> tuple[SourceReader, ...]:
        """Every open file once."""
        found = [self.base, *(member.reader for member in self.members)]
        found += [member.reference for member in self.members if member.reference is not None]
        return tuple(dict.fromkeys(found))

    def combine(self, chunk: Chunk, data: Mapping[SourceReader, ChunkData]) -> bytes:
        """Bytes of the fused model for a chunk.

        Args:
            chunk: what was read.
            data: what each of the ``readers`` holds for it.

        Raises:
            ContributionFault: a contribution holds NaN or infinities, or takes the sum beyond
                the range of the base model's dtype.
            InvalidTensorFileError: the base model itself holds NaN or infinities.
        """
        # Sums that leave the range are found afterwards; numpy need not warn of them.
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            parts = [self._combine_run(index, run, data) for index, run in enumerate(chunk.runs)]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _combine_run(self, index: int, run: Run, data: Mapping[SourceReader, ChunkData]) -> bytes:
        if run.dtype not in FLOAT_DTYPES:
            return data[self.base].copy_of(index)
        terms = _Terms(self, index, run, data)
        total = np.zeros(run.num_elements, accumulator(run.dtype))
        for member in self.members:
            add_delta(total, member.coefficient, terms.values(member), terms.reference(member))
        total += terms.base
        encoded = encode(total, run.dtype)
        # A NaN or an infinity anywhere reaches the sum, so looking there is enough.
        finite = is_finite(encoded, run.dtype)
        if not finite.all():
            raise terms.blame(int(finite.argmin()))
        return encoded


class _Terms:
    """The numbers that go into one run."""

    def __init__(
        self, combiner: Combiner, index: int, run: Run, data: Mapping[SourceReader, ChunkData]
    ) -> None:
        self._combiner = combiner
        self._index = index
        self._run = run
        self._data = data
        self.base = self._read(combiner.base)

    def values(self, member: Member) -> Floats:
        return self._read(member.reader)

    def reference(self, member: Member) -> Floats | None:
        if member.reference is self._combiner.base:
            return self.base
        return None if member.reference is None else self._read(member.reference)

    def blame(self, element: int) -> ContributionFault | InvalidTensorFileError:
        """The error to raise when the fused number at ``element`` is not finite."""
        tensor = self._run.tensor_at(element)
        shares: dict[str, float] = {}
        for member in self._combiner.members:
            delta = float(delta_of(self.values(member), self.reference(member))[element])
            if not np.isfinite(delta):
                error = NonFiniteTensorError(member.contribution_id, tensor)
                return ContributionFault(member.contribution_id, error)
            shares[member.contribution_id] = abs(member.coefficient * delta)
        if not np.isfinite(self.base[element]):
            problem = f"tensor {tensor!r} holds NaN or infinite values"
            return InvalidTensorFileError(self._combiner.base.name, problem)
        return self._overflow(max(shares, key=lambda each: shares[each]), tensor)

    def _overflow(self, contribution_id: str, tensor: str) -> ContributionFault:
        error = IncompatibleModelError(
            f"contribution {contribution_id}",
            f"tensor {tensor!r}",
            "so large that fusing it leaves the base model's range",
            f"finite numbers of {self._run.dtype} after fusing",
            "its finetune diverged, lower the learning rate and submit again",
        )
        return ContributionFault(contribution_id, error)

    def _read(self, reader: SourceReader) -> Floats:
        return self._data[reader].values(self._index, accumulator(self._run.dtype))
