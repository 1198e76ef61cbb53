"""Looks a contribution over before it may be fused: all of its bytes, once, in bounded memory."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from coldfusion_queue.errors import InvalidTensorFileError
from coldfusion_queue.fusion.chunks import Run
from coldfusion_queue.fusion.dtypes import FLOAT_DTYPES, Floats
from coldfusion_queue.fusion.inputs import FusionInput, open_members
from coldfusion_queue.fusion.methods.method import BLOCK_ELEMENTS
from coldfusion_queue.fusion.model_reader import ModelFiles, ModelReader
from coldfusion_queue.fusion.read_ahead import ReadAhead
from coldfusion_queue.fusion.reader import Reader
from coldfusion_queue.fusion.sketch import Sketch
from coldfusion_queue.fusion.terms import Terms
from coldfusion_queue.threads import WorkThreads

__all__ = ["UpdateFacts", "inspect_update"]


@dataclass(frozen=True)
class UpdateFacts:
    """What a contribution's delta is like."""

    norm: float
    """Its Euclidean norm, at most the largest float64."""
    base_norm: float
    """That of the current base model."""
    sketch: NDArray[np.float32]
    """See ``fusion.sketch``."""


def inspect_update(
    item: FusionInput,
    base: ModelFiles,
    *,
    base_norm: float | None,
    chunk_bytes: int,
) -> UpdateFacts:
    """Read a contribution from beginning to end.

    Args:
        item: the contribution; its coefficient does not matter.
        base: the current base model.
        base_norm: norm of that model if it is known: then its data is read only if ``item`` is in
            full form and was finetuned from it.
        chunk_bytes: bytes of the base model that are worked on at a time; two chunks of each of
            three files are held at most.

    Raises:
        ContributionFault: it cannot be fused, as ``stream.fuse_stream`` says.
        InvalidTensorFileError: the base model holds NaN or infinities, or is damaged.
        DigestMismatchError: a file of the base model is not the recorded one.
        RetryableError: what a source raises passes unchanged.

    Cost: O(P) time for P parameters.
    """
    base_reader = ModelReader.open(base, None)
    with WorkThreads(3, thread_name_prefix="inspect") as pool:
        (member,) = open_members(base, base_reader, [item], pool)
        needed = [member.reader, member.reference, base_reader if base_norm is None else None]
        readers: list[Reader] = list(dict.fromkeys(each for each in needed if each is not None))
        for reader in readers:
            reader.verify_beforehand(chunk_bytes)
        tally = _Tally()
        chunks = base_reader.plan_chunks(chunk_bytes)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):  # looked for instead
            ahead = ReadAhead(readers, chunks, pool)
            for chunk in chunks:
                data = ahead.take()
                for index, run in enumerate(chunk.runs):
                    if run.dtype in FLOAT_DTYPES:
                        terms = Terms(base_reader, [member], index, run, data)
                        tally.add(terms, run, base=base_reader if base_norm is None else None)
    return UpdateFacts(
        norm=_root(tally.square),
        base_norm=_root(tally.base_square) if base_norm is None else base_norm,
        sketch=tally.sketch.numbers,
    )


@dataclass
class _Tally:
    """Sums over all float elements that were seen."""

    num_elements: int = 0
    square: float = 0.0
    base_square: float = 0.0
    sketch: Sketch = field(default_factory=Sketch)

    def add(self, terms: Terms, run: Run, base: ModelReader | None) -> None:
        """Add a run; ``base`` is the base model's file if its norm is wanted."""
        for first in range(0, run.num_elements, BLOCK_ELEMENTS):
            block = slice(first, min(first + BLOCK_ELEMENTS, run.num_elements))
            if base is not None:  # first, or a contribution in full form would be blamed for it
                self.base_square += self._base_square(terms.base(block), base, run, first)
            (delta,) = terms.finite_deltas(block)
            self.square += _square(delta)
            self.sketch.add(self.num_elements, delta)
            self.num_elements += len(delta)

    def _base_square(self, values: Floats, base: ModelReader, run: Run, first: int) -> float:
        square = _square(values)
        if not math.isfinite(square) and not np.isfinite(values).all():
            tensor = run.tensor_at(first + int(np.isfinite(values).argmin()))
            problem = f"tensor {tensor!r} holds NaN or infinite values"
            raise InvalidTensorFileError(base.name, problem)
        return square


def _square(values: Floats) -> float:
    """Sum of the squares, in float64."""
    wide = values.astype(np.float64)
    # Not by BLAS: its threads would wait for those of the other inspections, at full speed.
    return float(np.einsum("i,i->", wide, wide))


def _root(square: float) -> float:
    return min(math.sqrt(square), sys.float_info.max)
