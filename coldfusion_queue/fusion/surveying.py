"""Gives a survey the deltas of one file, cut at fixed elements whatever the chunks are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from coldfusion_queue.fusion.chunks import Chunk, Run
from coldfusion_queue.fusion.dtypes import FLOAT_DTYPES
from coldfusion_queue.fusion.inputs import Member
from coldfusion_queue.fusion.methods.method import Survey, Tally
from coldfusion_queue.fusion.reader import ChunkData, Reader
from coldfusion_queue.fusion.terms import Terms

__all__ = ["Surveyor"]


class Surveyor:
    """Collects deltas until there is a block of them, from several chunks if need be."""

    def __init__(self, base: Reader, members: Sequence[Member], survey: Survey) -> None:
        self._base = base
        self._members = members
        self._tally = survey.begin()
        self._block = np.empty((len(members), survey.block_elements), survey.dtype)
        self._filled = 0

    def look(self, chunk: Chunk, data: Mapping[Reader, ChunkData]) -> None:
        """Take the next chunk into account.

        Args:
            chunk: what was read.
            data: what each of the members' files holds for it.

        Raises:
            ContributionFault: a delta holds NaN or infinities.
        """
        # A float64 beyond the range of float32 is the survey's business, numpy need not warn.
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            for index, run in enumerate(chunk.runs):
                if run.dtype in FLOAT_DTYPES:
                    self._look_at(run, Terms(self._base, self._members, index, run, data))

    def finish(self) -> Tally:
        """Give the survey the last block, which is shorter than the others."""
        if self._filled:
            self._observe()
        return self._tally

    def _look_at(self, run: Run, terms: Terms) -> None:
        first = 0
        while first < run.num_elements:
            room = self._block.shape[1] - self._filled
            stop = min(first + room, run.num_elements)
            filled = self._filled + stop - first
            deltas = terms.finite_deltas(slice(first, stop))
            for row, delta in zip(self._block, deltas, strict=True):
                row[self._filled : filled] = delta
            self._filled, first = filled, stop
            if filled == self._block.shape[1]:
                self._observe()

    def _observe(self) -> None:
        self._tally.observe(self._block[:, : self._filled])
        self._filled = 0
