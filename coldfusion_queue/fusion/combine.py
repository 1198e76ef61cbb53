"""Fuses one chunk that was read, and finds out whose fault it is when that fails."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from coldfusion_queue.errors import IncompatibleModelError, InvalidTensorFileError
from coldfusion_queue.fusion.chunks import Chunk, Run
from coldfusion_queue.fusion.dtypes import FLOAT_DTYPES, Floats, encode, is_finite
from coldfusion_queue.fusion.faults import ContributionFault
from coldfusion_queue.fusion.inputs import Member
from coldfusion_queue.fusion.methods.method import Block, Combination
from coldfusion_queue.fusion.momentum import Momentum
from coldfusion_queue.fusion.reader import ChunkData, Reader
from coldfusion_queue.fusion.terms import Terms

__all__ = ["Combiner"]


@dataclass(frozen=True)
class Combiner:
    """A base model, the contributions that are added to it in the order of their ids, and how."""

    base: Reader
    members: Sequence[Member]
    combination: Combination
    momentum: Momentum | None = None

    def begin(self, header: bytes) -> bytes:
        """Header of the fused file, which is the base model's; the state's too."""
        if self.momentum is not None:
            self.momentum.write(header)
        return header

    def combine(
        self, chunk: Chunk, data: Mapping[Reader, ChunkData], first: int
    ) -> Iterator[bytes]:
        """Bytes of the fused file for a chunk, in parts; those of the state are written meanwhile.

        Args:
            chunk: what was read.
            data: what each file holds for it.
            first: index of its first floating-point element among those of the base model.

        Raises:
            ContributionFault: a contribution holds NaN or infinities, or takes the sum beyond
                the range of the base model's dtype.
            InvalidTensorFileError: the base model itself holds NaN or infinities, or the momentum
                alone leaves that range.
        """
        for index, run in enumerate(chunk.runs):
            yield from self._combine_run(index, run, data, first)
            first += run.num_floats

    def _combine_run(
        self, index: int, run: Run, data: Mapping[Reader, ChunkData], first: int
    ) -> Iterator[bytes]:
        if run.dtype not in FLOAT_DTYPES:
            copied = data[self.base].copy_of(index)
            if self.momentum is not None:
                self.momentum.write(copied)
            yield copied
            return
        terms = Terms(self.base, self.members, index, run, data)
        size = self.combination.block_elements(len(self.members))
        for start in range(0, run.num_elements, size):
            block = slice(start, min(start + size, run.num_elements))
            # Sums that leave the range are found afterwards; numpy need not warn of them.
            with np.errstate(over="ignore", under="ignore", invalid="ignore"):
                part = self._combine_block(terms, run, block, first + start)
            yield part

    def _combine_block(self, terms: Terms, run: Run, block: slice, first: int) -> bytes:
        hides = self.combination.hides_non_finite
        deltas = terms.finite_deltas(block) if hides else terms.deltas(block)
        coefficients = [member.coefficient for member in self.members]
        ids = [member.contribution_id for member in self.members]
        total = self.combination.combine(Block(deltas, coefficients, ids, first))
        total += terms.base(block)
        encoded = self._encode(total, terms, run, block)
        if self.momentum is None:
            return encoded
        self.momentum.write(encoded)
        self.momentum.go_on(total, terms.of(self.momentum.reader, block))
        return self._encode(total, terms, run, block)

    def _encode(self, total: Floats, terms: Terms, run: Run, block: slice) -> bytes:
        encoded = encode(total, run.dtype)
        # What was not looked at before reaches the sum if it is not finite.
        finite = is_finite(encoded, run.dtype)
        if not finite.all():
            raise self._blame(terms, run, block.start + int(finite.argmin()))
        return encoded

    def _blame(
        self, terms: Terms, run: Run, element: int
    ) -> ContributionFault | InvalidTensorFileError:
        """The error to raise when the fused number at ``element`` is not finite."""
        only = slice(element, element + 1)
        shares: dict[str, float] = {}
        for member, delta in zip(self.members, terms.deltas(only), strict=True):
            if not np.isfinite(delta).all():
                return terms.not_finite(member, element)
            shares[member.contribution_id] = abs(member.coefficient * float(delta[0]))
        tensor = run.tensor_at(element)
        if not np.isfinite(terms.base(only)).all():
            problem = f"tensor {tensor!r} holds NaN or infinite values"
            return InvalidTensorFileError(self.base.name, problem)
        if self.momentum is not None and not self._is_in_range_alone(
            self.momentum, terms, run, only
        ):
            problem = f"its momentum takes tensor {tensor!r} beyond the range of {run.dtype}"
            return InvalidTensorFileError(self.momentum.reader.name, problem)
        return _overflow(max(shares, key=lambda each: shares[each]), run.dtype, tensor)

    def _is_in_range_alone(self, momentum: Momentum, terms: Terms, run: Run, block: slice) -> bool:
        """Whether the model could go on if nothing were added to it."""
        total = terms.base(block).copy()
        momentum.go_on(total, terms.of(momentum.reader, block))
        return bool(is_finite(encode(total, run.dtype), run.dtype).all())


def _overflow(contribution_id: str, dtype: str, tensor: str) -> ContributionFault:
    error = IncompatibleModelError(
        f"contribution {contribution_id}",
        f"tensor {tensor!r}",
        "so large that fusing it leaves the base model's range",
        f"finite numbers of {dtype} after fusing",
        "its finetune diverged, lower the learning rate and submit again",
    )
    return ContributionFault(contribution_id, error)
