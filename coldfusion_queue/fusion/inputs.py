"""What goes into a fusion: contributions, checked and opened."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from coldfusion_queue.errors import UsageError
from coldfusion_queue.fusion.layout import ByteSource, TensorLayout
from coldfusion_queue.fusion.low_rank_reader import LowRankReader
from coldfusion_queue.fusion.model_reader import ModelFiles, ModelReader
from coldfusion_queue.fusion.quantised_file import QuantisedReader
from coldfusion_queue.fusion.reader import Reader, SourceReader
from coldfusion_queue.records import ContributionForm

__all__ = ["FusionInput", "Member", "check_inputs", "files_of", "open_members"]


_KINDS: Mapping[ContributionForm, type[SourceReader]] = {
    "delta": SourceReader,
    "full": SourceReader,
    "quantised": QuantisedReader,
    "low_rank": LowRankReader,
}


@dataclass(frozen=True)
class FusionInput:
    """One contribution to a fusion."""

    contribution_id: str
    source: ByteSource
    """Its shared parameters."""
    digest: str | None
    """sha256 of the whole file, lower-case hex; None if the source itself makes sure that these
    are the bytes that were inspected."""
    form: ContributionForm
    """As in ``records.Contribution``."""
    coefficient: float
    """What its delta is multiplied by; see ``coefficients.coefficients``."""
    own_base: ModelFiles | None = None
    """Base version that a ``full`` one was finetuned from; None means the current one. The same
    files in several inputs are read once for all of them."""


@dataclass(frozen=True)
class Member:
    """A contribution whose files are open and fit the base model."""

    contribution_id: str
    coefficient: float
    reader: SourceReader
    reference: ModelReader | None
    """What it was finetuned from; None if its file holds the delta itself."""


def check_inputs(inputs: Sequence[FusionInput]) -> list[FusionInput]:
    """The contributions in the order in which they are summed up: that of their ids.

    Raises:
        UsageError: there are none, an id is there twice, or a coefficient is NaN or infinite.
    """
    ordered = sorted(inputs, key=lambda item: item.contribution_id)
    ids = [item.contribution_id for item in ordered]
    if not ids or len(set(ids)) != len(ids):
        raise UsageError("list of contributions", ", ".join(ids), "one or more, each once")
    for item in ordered:
        if not math.isfinite(item.coefficient):
            what = f"coefficient of contribution {item.contribution_id}"
            raise UsageError(what, str(item.coefficient), "a finite number")
    return ordered


def open_members(
    base: ModelFiles,
    base_reader: ModelReader,
    ordered: Sequence[FusionInput],
    pool: ThreadPoolExecutor,
) -> list[Member]:
    """Read all headers at the same time and check them against the base model's.

    Args:
        base: the current base model.
        base_reader: its reader.
        ordered: from ``check_inputs``.
        pool: threads to read with.

    Raises:
        ContributionFault: the first contribution whose file, or whose own base model's, is no
            safetensors file or does not fit the base model.
    """
    own = [pool.submit(_open, item, base_reader.layout) for item in ordered]
    old = {
        model.key: pool.submit(_open_base, model, contribution_id, base_reader)
        for contribution_id, model in _old_bases(base, ordered)
    }
    readers = [future.result() for future in own]
    references = {key: future.result() for key, future in old.items()}
    return [
        Member(
            item.contribution_id,
            item.coefficient,
            reader,
            references.get((item.own_base or base).key, base_reader)
            if item.form == "full"
            else None,
        )
        for item, reader in zip(ordered, readers, strict=True)
    ]


def files_of(members: Sequence[Member]) -> tuple[Reader, ...]:
    """All that the deltas of contributions come from, once."""
    found: list[Reader] = [member.reader for member in members]
    found += [member.reference for member in members if member.reference is not None]
    return tuple(dict.fromkeys(found))


def _old_bases(
    base: ModelFiles, ordered: Sequence[FusionInput]
) -> Iterable[tuple[str, ModelFiles]]:
    """Each old base model once, with the first contribution that needs it."""
    found: dict[tuple[int, ...], tuple[str, ModelFiles]] = {}
    for item in ordered:
        if item.form == "full" and item.own_base is not None and item.own_base.key != base.key:
            found.setdefault(item.own_base.key, (item.contribution_id, item.own_base))
    return found.values()


def _open(item: FusionInput, base_layout: TensorLayout) -> SourceReader:
    reader = _KINDS[item.form].open(item.source, item.digest, item.contribution_id)
    reader.align(base_layout)
    return reader


def _open_base(model: ModelFiles, contribution_id: str, base: ModelReader) -> ModelReader:
    reader = ModelReader.open(model, contribution_id)
    reader.align(base)
    return reader
