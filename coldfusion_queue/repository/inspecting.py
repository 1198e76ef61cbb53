"""Inspects contributions before they may be fused, and records what was found."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import partial

from coldfusion_queue.crash_points import CrashPoint, reach
from coldfusion_queue.errors import InvalidRecordError, PermanentError
from coldfusion_queue.fusion.faults import ContributionFault
from coldfusion_queue.fusion.inspection import inspect_update
from coldfusion_queue.fusion.read_ahead import share_of
from coldfusion_queue.fusion.sketch import encode_sketch
from coldfusion_queue.names import actor
from coldfusion_queue.records import BaseVersion, Contribution, Inspection
from coldfusion_queue.repository.opening import Opener
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.settings import Settings
from coldfusion_queue.threads import WorkThreads

__all__ = ["Inspector", "find_inspections"]

log = logging.getLogger(__name__)

#: Contributions that are read at a time; each is worked on by one core.
_AT_A_TIME = 4
#: Files that are read for each: its own, its base version's and the base model's.
_FILES_EACH = 3
#: Small records that are read at a time.
_NUM_THREADS = 16


class Inspector:
    """Inspects each contribution once.

    Args:
        repository: whose contributions.
        settings: how much memory may be used.
        opener: opens contributions and base versions.
        base: the newest base version.
    """

    def __init__(
        self, repository: Repository, settings: Settings, opener: Opener, base: BaseVersion
    ) -> None:
        self._repository = repository
        self._opener = opener
        self._base = base
        self._base_norm: float | None = None
        share = share_of(settings.fusion_read_ahead_bytes, _AT_A_TIME * _FILES_EACH)
        self._chunk_bytes = min(settings.fusion_chunk_bytes, share)
        self.found: dict[str, Inspection] = {}
        """What is known so far, by contribution id."""

    def inspect(self, contributions: Sequence[Contribution]) -> dict[str, PermanentError]:
        """Inspect what has not been inspected yet; one at fault does not hold up the others.

        Idempotent: what was found is recorded once, and read from there by the
        next call of any process.
        Writes: ``inspections/<id>.json``.

        Args:
            contributions: pending ones.

        Returns:
            What is wrong with those that cannot be fused, by id; all others are in ``found``.

        Raises:
            LedgerConflictError: one comes from a version that was published meanwhile.
            RetryableError: the store failed; what was inspected by then stays.
        """
        self._recall([item for item in contributions if item.contribution_id not in self.found])
        left = [item for item in contributions if item.contribution_id not in self.found]
        faults: dict[str, PermanentError] = {}
        while left and self._base_norm is None:  # which is found along with the first
            faults |= self._inspect([left.pop(0)])
        return faults | self._inspect(left)

    def _recall(self, contributions: Sequence[Contribution]) -> None:
        ids = [item.contribution_id for item in contributions]
        recalled = find_inspections(self._repository, ids)
        for item in contributions:
            inspection = recalled.get(item.contribution_id)
            if inspection is not None and inspection.digest == item.shared.digest:
                self._note(inspection)

    def _inspect(self, contributions: Sequence[Contribution]) -> dict[str, PermanentError]:
        faults: dict[str, PermanentError] = {}
        with WorkThreads(_AT_A_TIME, "inspector") as pool:
            looks = [(item, pool.submit(self._look, item)) for item in contributions]
            try:
                for item, look in looks:
                    try:
                        self._keep(look.result())
                    except ContributionFault as fault:
                        faults[item.contribution_id] = fault.cause
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return faults

    def _look(self, contribution: Contribution) -> Inspection:
        item, stamp = self._opener.uninspected(contribution)
        facts = inspect_update(
            item,
            self._opener.model(self._base),
            base_norm=self._base_norm,
            chunk_bytes=self._chunk_bytes,
        )
        return Inspection(
            contribution_id=contribution.contribution_id,
            digest=contribution.shared.digest,
            stamp=stamp,
            norm=facts.norm,
            base_digest=self._base.digest,
            base_norm=facts.base_norm,
            sketch=encode_sketch(facts.sketch),
            created_at=datetime.now(UTC),
            created_by=actor(),
        )

    def _keep(self, inspection: Inspection) -> None:
        key = self._repository.keys.inspection(inspection.contribution_id)
        self._repository.store.create(key, inspection.to_bytes())
        reach(CrashPoint.FUSE_INSPECTED)
        self._note(inspection)

    def _note(self, inspection: Inspection) -> None:
        self.found[inspection.contribution_id] = inspection
        if inspection.base_digest == self._base.digest:
            self._base_norm = inspection.base_norm


def find_inspections(
    repository: Repository, contribution_ids: Iterable[str]
) -> dict[str, Inspection]:
    """What is recorded of some contributions, by id; unreadable records are left out."""
    with WorkThreads(_NUM_THREADS, "inspections") as threads:
        found = threads.map(partial(_find, repository), contribution_ids)
        return {item.contribution_id: item for item in found if item is not None}


def _find(repository: Repository, contribution_id: str) -> Inspection | None:
    try:
        return repository.contributions.inspection(contribution_id)
    except InvalidRecordError as error:
        log.warning("passed over: %s", error, extra={"event": "record_unreadable"})
        return None
