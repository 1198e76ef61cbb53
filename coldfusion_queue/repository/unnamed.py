"""Datasets that nothing names: no submission, no policy, no evaluation."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

from coldfusion_queue.errors import InvalidRecordError
from coldfusion_queue.records import Submission
from coldfusion_queue.repository.garbage import Garbage, Kind, garbage
from coldfusion_queue.repository.survey import Survey
from coldfusion_queue.store import ObjectInfo

__all__ = ["datasets"]

_SUBMISSION = "submission.json"
_DATASET = "dataset.json"


def datasets(survey: Survey) -> Iterator[Garbage]:
    """Data without a record, and datasets that no submission names."""
    names, measured = _Names(survey), _measured_on(survey)
    for name, folder in survey.folders(survey.repository.keys.datasets).items():
        if not survey.is_old(folder.values()):
            continue
        if _DATASET not in folder:
            reason = "its upload broke off, and is older than the grace"
        elif name not in measured and not names.has(name, folder[_DATASET]):
            reason = "no submission, policy or evaluation names it, and it is older than the grace"
        else:
            continue
        yield garbage(Kind.DATASET, name, folder.values(), reason)


def _measured_on(survey: Survey) -> set[str]:
    """Datasets that base versions are, were or will be measured on."""
    keys = survey.repository.keys
    done = {
        path.partition("/")[0]
        for folder in survey.folders(keys.all_evaluations).values()
        for path in folder
    }
    wanted = {name.split(".")[1] for name in survey.folders(keys.wanted) if name.count(".") >= 3}
    return done | wanted | set(survey.policy.gate_datasets)


class _Names:
    """Which datasets submissions name, with few of them read.

    A submission is recorded right after its dataset. So the first that is younger than a dataset
    mostly names it; all of them are read only for a dataset that none of them names.
    """

    def __init__(self, survey: Survey) -> None:
        self._repository = survey.repository
        folders = survey.folders(survey.repository.keys.submissions)
        recorded = {name: f[_SUBMISSION] for name, f in folders.items() if _SUBMISSION in f}
        ordered = sorted((item.last_modified, name) for name, item in recorded.items())
        self._times = [time for time, _ in ordered]
        self._ids = [name for _, name in ordered]
        self._read: dict[str, Submission | None] = {}

    def has(self, dataset_id: str, record: ObjectInfo) -> bool:
        """Whether a submission names a dataset; one that cannot be read may name any."""
        first = bisect_left(self._times, record.last_modified)
        for name in [*self._ids[first:], *reversed(self._ids[:first])]:
            submission = self._submission(name)
            if submission is None or submission.dataset_id == dataset_id:
                return True
        return False

    def _submission(self, name: str) -> Submission | None:
        if name not in self._read:
            try:
                self._read[name] = self._repository.submissions.find(name)
            except InvalidRecordError:
                self._read[name] = None
        return self._read[name]
