"""The datasets of an experiment: prepared and cut on this machine, before anything is uploaded."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from coldfusion_queue.errors import PermanentError, UsageError
from coldfusion_queue.experiment.spec import Data, Experiment
from coldfusion_queue.intake.cutting import Cut, cut_dataset
from coldfusion_queue.intake.prepare import PreparedDataset, prepare_dataset
from coldfusion_queue.intake.s3 import FetchS3

__all__ = ["prepare_datasets"]


def prepare_datasets(
    experiment: Experiment,
    names: Collection[str],
    work_dir: Path,
    fetch_s3: FetchS3 | None,
    tell: Callable[[str], None],
) -> dict[str, PreparedDataset]:
    """Prepare datasets, by name.

    The same file gives the same datasets, with the same ids, in every run.

    Args:
        experiment: whose datasets.
        names: those that are used.
        work_dir: gets a folder for each.
        fetch_s3: see ``prepare_dataset``.
        tell: told which is prepared.

    Raises:
        UsageError: some cannot be taken; names all of them.
        RetryableError: the store failed.
    """
    prepared: dict[str, PreparedDataset] = {}
    problems: list[str] = []
    for name in names:
        tell(f"preparing dataset {name}")
        try:
            prepared[name] = _prepare(experiment, name, work_dir / name, fetch_s3)
        except PermanentError as error:
            problems.append(f"datasets.{name}: {error}")
    if problems:
        lines = "".join(f"\n  {problem}" for problem in problems)
        raise UsageError("experiment", experiment.name, f"datasets without these problems:{lines}")
    return prepared


def _prepare(
    experiment: Experiment, name: str, work_dir: Path, fetch_s3: FetchS3 | None
) -> PreparedDataset:
    item = experiment.datasets[name]
    for directory in (work_dir / "whole", work_dir / "cut"):
        directory.mkdir(parents=True)
    whole = prepare_dataset(
        item.data,
        text=item.text,
        text_pair=item.text_pair,
        label=item.label,
        split=item.split,
        objective=item.objective,
        work_dir=work_dir / "whole",
        fetch_s3=fetch_s3,
    )
    cut = cut_dataset(whole, _cut(experiment, item), work_dir / "cut")
    evaluation = experiment.evaluation
    for measure in (evaluation.frozen, evaluation.finetuned, evaluation.few_shot):
        if measure is not None:
            measure.hyperparameters.metric_of(cut.objective)
    experiment.hyperparameters.metric_of(cut.objective)
    return cut


def _cut(experiment: Experiment, item: Data) -> Cut:
    test_rows = item.test_rows or experiment.test_rows
    limits = {
        "train": item.train_rows or experiment.train_rows,
        "validation": test_rows,
        "test": test_rows,
    }
    index, total = map(int, (item.part or "1/1").split("/"))
    return Cut(limits, (index, total), experiment.rows_seed)
