"""The numbers that go into one run, decoded a block at a time."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate

import numpy as np

from coldfusion_queue.errors import InvalidTensorFileError, NonFiniteTensorError
from coldfusion_queue.fusion.chunks import Run
from coldfusion_queue.fusion.dtypes import Floats, accumulator
from coldfusion_queue.fusion.faults import ContributionFault
from coldfusion_queue.fusion.inputs import Member
from coldfusion_queue.fusion.reader import ChunkData, Reader

__all__ = ["Terms"]


class Terms:
    """What the base model and all contributions hold for a run."""

    def __init__(
        self,
        base: Reader,
        members: Sequence[Member],
        index: int,
        run: Run,
        data: Mapping[Reader, ChunkData],
    ) -> None:
        dtype = accumulator(run.dtype)
        self._base = base
        self._members = members
        self._run = run
        self._place = (0, 0)
        self._references: dict[Reader, Floats] = {}
        self._values = {reader: _Values(each, index, dtype) for reader, each in data.items()}

    def base(self, block: slice) -> Floats:
        """Theta_t of a block, of shape (n,); perhaps a view that must not be written to.

        Args:
            block: elements of the run, with a start and a stop.
        """
        return self._reference(self._base, block)

    def of(self, reader: Reader, block: slice) -> Floats:
        """What another file of the base model's layout holds, as ``base`` gives theta_t."""
        return self._reference(reader, block)

    def deltas(self, block: slice) -> Iterator[Floats]:
        """The delta of each contribution, in the order of their ids, as ``base`` gives theta_t."""
        return (self._delta(member, block) for member in self._members)

    def finite_deltas(self, block: slice) -> Iterator[Floats]:
        """The same, but each of them is looked at.

        Raises:
            ContributionFault: a delta holds NaN or infinities.
            InvalidTensorFileError: it does because the base model does.
        """
        for member in self._members:
            delta = self._delta(member, block)
            finite = np.isfinite(delta)
            if not finite.all():
                raise self.not_finite(member, block.start + int(finite.argmin()))
            yield delta

    def not_finite(
        self, member: Member, element: int
    ) -> ContributionFault | InvalidTensorFileError:
        """The error that says that a contribution's number is NaN or infinite, or the base's."""
        tensor = self._run.tensor_at(element)
        base = self._base if member.reference is self._base else None
        if base is not None and not np.isfinite(self.base(slice(element, element + 1))).all():
            problem = f"tensor {tensor!r} holds NaN or infinite values"
            return InvalidTensorFileError(base.name, problem)
        error = NonFiniteTensorError(member.contribution_id, tensor)
        return ContributionFault(member.contribution_id, error)

    def _delta(self, member: Member, block: slice) -> Floats:
        values = self._values[member.reader].block(block)
        if member.reference is None:
            return values
        difference: Floats = np.subtract(values, self._reference(member.reference, block))
        return difference

    def _reference(self, reader: Reader, block: slice) -> Floats:
        """What several deltas are relative to, decoded once for all of them."""
        place = (block.start, block.stop)
        if self._place != place:
            self._place, self._references = place, {}
        if reader not in self._references:
            self._references[reader] = self._values[reader].block(block)
        return self._references[reader]


class _Values:
    """The numbers of one file for one run, in the order of the base model's file."""

    def __init__(self, data: ChunkData, index: int, dtype: np.dtype[np.floating]) -> None:
        self._raw = data.raw
        self._dtype = dtype
        self._spans = data.plan.spans[index]
        self._starts = list(accumulate((span.num_elements for span in self._spans), initial=0))

    def block(self, block: slice) -> Floats:
        """Numbers of a block; a wider file is rounded to the dtype."""
        parts = list(self._decoded(block.start, block.stop))
        if len(parts) == 1:
            return parts[0].astype(self._dtype, copy=False)
        return np.concatenate(parts, dtype=self._dtype, casting="same_kind")

    def _decoded(self, first: int, stop: int) -> Iterator[Floats]:
        index = bisect_right(self._starts, first) - 1
        while first < stop:
            span, skipped = self._spans[index], first - self._starts[index]
            count = min(stop - first, span.num_elements - skipped)
            yield span.decode(self._raw, skipped, count)
            first, index = first + count, index + 1
