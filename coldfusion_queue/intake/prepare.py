"""From DATA to a dataset in canonical form, with an id that follows from its content."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from coldfusion_queue.disk import disk_errors
from coldfusion_queue.errors import UsageError
from coldfusion_queue.intake.canonical import relabel
from coldfusion_queue.intake.columns import Columns, check_columns, choose_columns
from coldfusion_queue.intake.hub import HubLoader, open_hub
from coldfusion_queue.intake.labels import (
    LabelUse,
    ObjectiveChoice,
    check_known,
    check_objective,
    class_names,
    decide_objective,
)
from coldfusion_queue.intake.s3 import FetchS3
from coldfusion_queue.intake.sources import (
    HubSource,
    LocalSource,
    Source,
    parse_source,
    suggest_name,
)
from coldfusion_queue.intake.splits import SPLITS, Splits, open_path
from coldfusion_queue.intake.staging import stage_split
from coldfusion_queue.records import DatasetRecord, FileRecord, Objective, SplitRecord

__all__ = ["PreparedDataset", "PreparedSplit", "dataset_id_of", "describe", "prepare_dataset"]


@dataclass(frozen=True)
class PreparedSplit:
    """One split in canonical form."""

    path: Path
    digest: str
    """sha256 of the file, lower-case hex."""
    num_bytes: int
    num_examples: int

    @property
    def file(self) -> FileRecord:
        """Under its name on this machine."""
        return FileRecord(key=self.path.name, digest=self.digest, num_bytes=self.num_bytes)


@dataclass(frozen=True)
class PreparedDataset:
    """A valid dataset, ready to be uploaded."""

    dataset_id: str
    """First 32 hex digits of the sha256 of what follows, without paths, columns and name."""
    objective: Objective
    is_pair: bool
    labels: tuple[str, ...]
    """Names of the classes, in the order of their indices; empty for regression."""
    splits: Mapping[str, PreparedSplit]
    """``train``, and perhaps ``validation`` and ``test``."""
    suggested_name: str
    """A contributor name made from the name of the file, folder or hub dataset."""
    columns: Columns
    """The columns that were taken, to be shown."""
    notes: tuple[str, ...]
    """Whole files and splits that were left out, and why; rows never are."""

    def record(self, files: Mapping[str, FileRecord] | None = None) -> DatasetRecord:
        """What a finetune needs to know of it.

        Args:
            files: of each split, where it is stored; None is the names of those on this machine.
        """
        splits = {
            name: SplitRecord(
                file=split.file if files is None else files[name], num_examples=split.num_examples
            )
            for name, split in self.splits.items()
        }
        return DatasetRecord(
            dataset_id=self.dataset_id,
            objective=self.objective,
            is_pair=self.is_pair,
            labels=self.labels,
            splits=splits,
        )


def prepare_dataset(
    data: str,
    *,
    text: str | None = None,
    text_pair: str | None = None,
    label: str | None = None,
    split: str | None = None,
    objective: str = "auto",
    work_dir: Path,
    fetch_s3: FetchS3 | None = None,
    load_hub: HubLoader | None = None,
    name: str | None = None,
) -> PreparedDataset:
    """Validate a dataset and write it to ``work_dir`` in canonical form.

    Args:
        data: see ``sources``.
        text: column of the texts, or None to guess it (see ``columns``).
        text_pair: column of the second texts, or None to guess whether there is one.
        label: column of the labels, or None to guess it.
        split: split to train on, or None for the training split (see ``splits``).
        objective: ``classification``, ``regression``, or ``auto`` to decide from the labels
            (see ``labels``).
        work_dir: an existing directory; gets ``<split>.parquet``, and nothing if this fails.
        fetch_s3: reads ``s3://``, see ``s3.fetch_s3_with``; without it ``s3://`` is refused.
        load_hub: replaces ``datasets.load_dataset``.
        name: what messages call a local path; by default the path.

    Raises:
        UsageError: ``data`` or ``objective`` has no form that is known.
        InvalidDatasetError: the dataset cannot be finetuned on.
        DiskFullError: no room left.
    """
    source, choice = parse_source(data), check_objective(objective)
    with (
        disk_errors(work_dir),
        tempfile.TemporaryDirectory(dir=work_dir, prefix=".staging-") as staging,
    ):
        splits = _open_source(source, split, Path(staging), fetch_s3, load_hub, name)
        columns = choose_columns(splits.tables["train"][0], text, text_pair, label)
        uses = _stage(splits, columns, Path(staging))
        unlabelled = [name for name in uses if name != "train" and uses[name].is_unlabelled]
        notes = tuple(f"left out: split {name!r}, which has no labels" for name in unlabelled)
        labelled = {name: use for name, use in uses.items() if name not in unlabelled}
        decided, classes = _decide(labelled, choice)
        prepared = _write_all(labelled, decided, classes, Path(staging), work_dir)
    is_pair = columns.text_pair is not None
    dataset_id = dataset_id_of(decided, is_pair, classes, prepared)
    suggested, notes = suggest_name(source), splits.notes + notes
    return PreparedDataset(
        dataset_id, decided, is_pair, classes, prepared, suggested, columns, notes
    )


def _open_source(
    source: Source,
    split: str | None,
    staging: Path,
    fetch_s3: FetchS3 | None,
    load_hub: HubLoader | None,
    name: str | None,
) -> Splits:
    if isinstance(source, LocalSource):
        return open_path(source.path, split, name)
    if isinstance(source, HubSource):
        return open_hub(source, split, load_hub)
    if fetch_s3 is None:
        raise UsageError("dataset", str(source), "a local path or hub:NAME, no store is set up")
    directory = staging / "s3"
    directory.mkdir()
    return open_path(fetch_s3(source, directory), split, str(source))


def _stage(splits: Splits, columns: Columns, staging: Path) -> dict[str, LabelUse]:
    for tables in splits.tables.values():
        for table in tables:
            check_columns(table, columns)
    return {
        name: stage_split(splits.tables[name], columns, staging / f"{name}.parquet")
        for name in SPLITS
        if name in splits.tables
    }


def _decide(
    uses: Mapping[str, LabelUse], objective: ObjectiveChoice
) -> tuple[Objective, tuple[str, ...]]:
    decided = decide_objective(uses["train"], objective)
    classes = class_names(uses["train"], decided)
    for use in uses.values():
        check_known(use, decided, classes)
    return decided, classes


def _write_all(
    uses: Mapping[str, LabelUse],
    objective: Objective,
    classes: tuple[str, ...],
    staging: Path,
    work_dir: Path,
) -> dict[str, PreparedSplit]:
    prepared = {}
    try:
        for name, use in uses.items():
            target = work_dir / f"{name}.parquet"
            relabel(staging / target.name, target, objective, classes)
            prepared[name] = describe(target, use.num_rows)
    except BaseException:
        for name in uses:
            (work_dir / f"{name}.parquet").unlink(missing_ok=True)
        raise
    return prepared


def describe(path: Path, num_examples: int) -> PreparedSplit:
    """A split that was written in canonical form."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return PreparedSplit(path, digest, path.stat().st_size, num_examples)


def dataset_id_of(
    objective: Objective,
    is_pair: bool,
    classes: tuple[str, ...],
    splits: Mapping[str, PreparedSplit],
) -> str:
    """The id of a dataset with this content."""
    content = {
        "objective": objective.value,
        "is_pair": is_pair,
        "labels": classes,
        "splits": {name: split.digest for name, split in splits.items()},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]
