"""Private data, made ready for one turn on the site's own disk.

The same intake as that of ``coldfusion-submit``, with two differences: what it writes is deleted
with the turn and never uploaded, and its messages name nothing that the submission did not name.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from coldfusion_queue.disk import disk_errors
from coldfusion_queue.errors import NotFoundError
from coldfusion_queue.intake.prepare import PreparedDataset, prepare_dataset
from coldfusion_queue.intake.problems import naming_only
from coldfusion_queue.intake.splits import SPLIT_NAMES
from coldfusion_queue.intake.tables import EXTENSIONS
from coldfusion_queue.records import DatasetRecord, SiteData
from coldfusion_queue.settings import Settings
from coldfusion_queue.sites.labels import SiteLabels
from coldfusion_queue.sites.paths import find_data, shown_path
from coldfusion_queue.sites.scratch import scratch_directory

__all__ = ["SiteDataset", "prepared_data"]


@dataclass(frozen=True)
class SiteDataset:
    """Private data in canonical form, on this machine for as long as its context lasts."""

    record: DatasetRecord
    """What a finetune needs to know. Its labels are the numbers of the classes, not their names."""
    splits: dict[str, Path]
    directory: Path
    """What is made of the data goes here, and is deleted with it."""
    has_other_labels: bool
    """Whether it is known that the classes are not those of the turn before."""


@contextmanager
def prepared_data(
    settings: Settings, data: SiteData, submission_id: str, turn: int
) -> Iterator[SiteDataset]:
    """Read and validate a submission's private data.

    Writes: ``$COLDFUSION_HOME/site/``; nothing anywhere else.

    Raises:
        NotFoundError: this is no worker of that site.
        UsageError: the path is none within the site's data directory.
        InvalidDatasetError: the data cannot be finetuned on; the message holds nothing of it.
        DiskFullError: no room left.
    """
    if settings.site_data_dir is None or settings.site != data.site:
        remedy = f"only workers that run with COLDFUSION_SITE={data.site} have it"
        raise NotFoundError("the data of site", data.site, remedy)
    labels = SiteLabels(settings.site_labels_dir)
    with scratch_directory(settings.site_scratch_dir) as directory:
        with disk_errors(settings.site_scratch_dir, "COLDFUSION_HOME"):
            prepared = _prepare(settings.site_data_dir, data, directory)
            before = labels.find(submission_id, turn - 1)
            labels.keep(submission_id, turn, prepared.labels)
        splits = {name: split.path for name, split in prepared.splits.items()}
        has_other_labels = before is not None and before != prepared.labels
        yield SiteDataset(_record(data, prepared), splits, directory, has_other_labels)


def _prepare(directory: Path, data: SiteData, work_dir: Path) -> PreparedDataset:
    with naming_only(_submitted_names(data)):
        return prepare_dataset(
            str(find_data(directory, data.path)),
            text=data.text,
            text_pair=data.text_pair,
            label=data.label,
            split=data.split,
            objective=data.objective,
            work_dir=work_dir,
            name=shown_path(data.path),
        )


def _submitted_names(data: SiteData) -> set[str]:
    """What the contributor named, and the names that split files have anywhere."""
    given = {data.text, data.text_pair, data.label, data.split, shown_path(data.path)}
    common = {f"{name}{extension}" for name in SPLIT_NAMES for extension in EXTENSIONS}
    return {name for name in given if name is not None} | common | set(SPLIT_NAMES)


def _record(data: SiteData, prepared: PreparedDataset) -> DatasetRecord:
    """As ``dataset.json`` would be, without the names of the classes; it is never written."""
    labels = tuple(str(number) for number in range(len(prepared.labels)))
    return replace(prepared, dataset_id=data.dataset_id, labels=labels).record()
