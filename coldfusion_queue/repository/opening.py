"""Opens contributions and the base versions that they came from, for the fusion engine."""

from __future__ import annotations

from coldfusion_queue.errors import (
    IncompatibleModelError,
    LedgerConflictError,
    NotFoundError,
)
from coldfusion_queue.fusion.faults import ContributionFault, attributed
from coldfusion_queue.fusion.inputs import FusionInput
from coldfusion_queue.fusion.model_reader import ModelFiles
from coldfusion_queue.records import (
    BaseVersion,
    Contribution,
    FileRecord,
    Inspection,
    LedgerEntry,
)
from coldfusion_queue.repository.meter import FusionMeter
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.repository.source import ObjectSource

__all__ = ["Opener"]


class Opener:
    """Opens each base version once.

    Args:
        repository: whose.
        newest: the ledger entry that is fused on.
        meter: of the fusion that it opens them for.
    """

    def __init__(
        self, repository: Repository, newest: LedgerEntry, meter: FusionMeter | None = None
    ) -> None:
        self.meter = meter or FusionMeter()
        """What is read is counted there."""
        self._repository = repository
        self._newest = newest
        self._origins: dict[int, BaseVersion] = {newest.after.base.version: newest.after.base}
        self._models: dict[int, ModelFiles] = {}

    def model(self, version: BaseVersion) -> ModelFiles:
        """A base version's parameters, the same object each time."""
        if version.version not in self._models:
            self._models[version.version] = ModelFiles(
                tuple(self._source(file) for file in version.model_files),
                tuple(file.digest for file in version.model_files),
            )
        return self._models[version.version]

    def origin(self, contribution: Contribution) -> BaseVersion:
        """The published version that a contribution was finetuned from.

        Raises:
            ContributionFault: there is no such version, or its digest is another one.
            LedgerConflictError: it was published since ``newest`` was read.
        """
        try:
            origin = self._version(contribution.base_version)
        except NotFoundError as error:
            raise ContributionFault(contribution.contribution_id, error) from error
        if origin.digest != contribution.base_digest:
            raise ContributionFault(contribution.contribution_id, _wrong_base(contribution, origin))
        if origin.version > self._newest.after.base.version:
            raise LedgerConflictError(self._newest.sequence + 1)
        return origin

    def uninspected(self, contribution: Contribution) -> tuple[FusionInput, str]:
        """A contribution whose bytes have to be digested, and the stamp of the object read.

        Raises:
            ContributionFault: as ``origin``, or there is no such object.
            LedgerConflictError: as ``origin``.
        """
        file = contribution.shared
        with attributed(contribution.contribution_id):
            stamp = self._stamp(file)
        source = self._source(file, stamp)
        return self._input(contribution, source, file.digest, 1.0), stamp

    def inspected(
        self, contribution: Contribution, inspection: Inspection, coefficient: float
    ) -> FusionInput:
        """A contribution that was digested when it was inspected.

        It is not digested again if its object is still the one that was read then.

        Raises:
            ContributionFault, LedgerConflictError: as ``uninspected``.
        """
        file = contribution.shared
        with attributed(contribution.contribution_id):
            is_same = self._stamp(file) == inspection.stamp
        source = self._source(file, inspection.stamp if is_same else None)
        return self._input(contribution, source, None if is_same else file.digest, coefficient)

    def _input(
        self,
        contribution: Contribution,
        source: ObjectSource,
        digest: str | None,
        coefficient: float,
    ) -> FusionInput:
        origin = self.origin(contribution)
        return FusionInput(
            contribution_id=contribution.contribution_id,
            source=source,
            digest=digest,
            form=contribution.form,
            coefficient=coefficient,
            own_base=self.model(origin),
        )

    def _source(self, file: FileRecord, stamp: str | None = None) -> ObjectSource:
        return ObjectSource(self._repository.store, file, stamp, self.meter.on_read)

    def _stamp(self, file: FileRecord) -> str:
        found = self._repository.store.stat(file.key)
        if found is None:
            raise NotFoundError("object", file.key, "it was deleted, or never uploaded")
        return found.stamp

    def _version(self, version: int) -> BaseVersion:
        if version not in self._origins:
            self._origins[version] = self._repository.ledger.base_version(version)
        return self._origins[version]


def _wrong_base(contribution: Contribution, origin: BaseVersion) -> IncompatibleModelError:
    return IncompatibleModelError(
        f"contribution {contribution.contribution_id}",
        f"the digest of its base version {contribution.base_version}",
        contribution.base_digest,
        origin.digest,
        "it was finetuned from parameters that this repository never published",
    )
