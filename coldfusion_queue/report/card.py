"""The model card: a README.md beside a pulled model that says what it is and was made of."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from pathlib import Path

from coldfusion_queue.errors import InvalidRecordError
from coldfusion_queue.records import BaseVersion, GateReport
from coldfusion_queue.report.card_text import PRETRAINED_CARD_FILE, card_text
from coldfusion_queue.report.scores import scores, unique_names
from coldfusion_queue.repository.datasets import dataset_names
from coldfusion_queue.repository.repository import Repository

__all__ = ["CARD_FILE", "PRETRAINED_CARD_FILE", "write_card"]

CARD_FILE = "README.md"


def write_card(repository: Repository, base: BaseVersion, directory: Path) -> None:
    """Write the card of a version beside its downloaded files.

    Reads the submissions for the names of datasets, the evaluations of the version and its ledger
    entry. A README.md that the version has is kept as ``README.pretrained.md``.

    Args:
        repository: where the version is from.
        base: the version.
        directory: where it was downloaded to.
    """
    card, kept, brought = directory / CARD_FILE, directory / PRETRAINED_CARD_FILE, None
    if CARD_FILE in base.files:
        brought = card.read_text(encoding="utf-8", errors="replace")
    found = scores(
        item for item in repository.evaluations.of(base.digest) if item.base_digest == base.digest
    )
    gate = _gate(repository, base)
    ids = [line.dataset_id for line in base.fused if line.dataset_id is not None]
    ids += [item.dataset_id for item in found] + list(gate.scores if gate else ())
    names = unique_names(ids, _names(repository, base))
    text = card_text(repository.record(), base, found, gate, names, brought)
    if brought is not None:  # nothing was changed before all that can fail was done
        card.rename(kept)
    card.write_text(text, encoding="utf-8")


def _gate(repository: Repository, base: BaseVersion) -> GateReport | None:
    """What the gate found when the version was published."""
    ledger = repository.ledger
    numbers = range(ledger.newest().sequence + 1)
    # Versions never decrease along the ledger.
    first = bisect_left(
        numbers, base.version, key=lambda number: ledger.entry(number).after.base.version
    )
    return ledger.entry(first).after.gate


def _names(repository: Repository, base: BaseVersion) -> Mapping[str, str]:
    try:
        return dataset_names(repository)
    except InvalidRecordError:  # of somebody's submission, which is no reason to get no model
        return {line.dataset_id: line.contributor_id for line in base.fused if line.dataset_id}
