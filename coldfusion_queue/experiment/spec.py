"""The file that declares an experiment, and everything that is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, field_validator

from coldfusion_queue.errors import UsageError
from coldfusion_queue.experiment.design import Design, check_design
from coldfusion_queue.names import check_name
from coldfusion_queue.records import Hyperparameters
from coldfusion_queue.records.record import Record

__all__ = ["EXAMPLE", "Data", "Evaluations", "Experiment", "Fold", "Measure", "read_experiment"]

#: ``base`` of the bundled model.
EXAMPLE = "example"

#: Stands for the folder that the command line gives.
_FOLDER = "${DATA}"


class Data(Record):
    """A dataset, as ``coldfusion-submit`` takes it, and how much of it is used."""

    data: str
    """DATA of ``coldfusion-submit``; a relative path is relative to the file."""
    text: str | None = None
    text_pair: str | None = None
    label: str | None = None
    split: str | None = None
    objective: Literal["auto", "classification", "regression"] = "auto"
    part: str | None = Field(None, pattern=r"^[1-9][0-9]*/[1-9][0-9]*$")
    """``2/5`` takes the second of five disjoint parts of the training split, drawn at random."""
    train_rows: int | None = Field(None, ge=2)
    """Rows of the training split at most; None takes what the experiment says, here and below."""
    test_rows: int | None = Field(None, ge=1)
    """Rows of the validation and the test split at most."""


class Fold(Record):
    """One division into datasets that contribute and datasets that do not."""

    seen: tuple[str, ...]
    unseen: tuple[str, ...] = ()


class Measure(Record):
    """One kind of evaluation: on what, of which base versions, how."""

    datasets: Literal["all", "seen", "unseen"] | tuple[str, ...] = "all"
    versions: Literal["all", "last"] | tuple[int, ...] = "last"
    """Base versions that are measured; the pretrained model is, in any case."""
    seeds: int = Field(1, ge=1)
    """Finetunes of each, for each seed of the experiment; a probe has none."""
    num_shots: int | None = Field(None, ge=1)
    """Training examples of a few-shot evaluation."""
    max_scored_examples: int | None = Field(None, ge=1)
    hyperparameters: Hyperparameters = Field(default_factory=Hyperparameters)


class Evaluations(Record):
    """What is measured; None measures nothing of that kind."""

    frozen: Measure | None = Field(default_factory=lambda: Measure(versions="all"))
    finetuned: Measure | None = Field(default_factory=Measure)
    few_shot: Measure | None = None


class Experiment(Design):
    """An experiment as its file declares it; the fields of ``Design`` are those of arm ``cold``."""

    name: str
    """Begins the name of every repository that it makes."""
    base: str
    """The pretrained model: a path, the id of a model on the Hub, or ``example``."""
    datasets: Mapping[str, Data]
    """By the name of the contributor."""
    train_rows: int | None = Field(None, ge=2)
    """Rows of each training split at most, drawn before anything is uploaded."""
    test_rows: int | None = Field(None, ge=1)
    rows_seed: int = Field(0, ge=0, lt=2**32)
    """Of these draws, the same for all seeds of the experiment."""
    folds: tuple[Fold, ...] = ()
    """Several divisions instead of one; each is run like an experiment of its own."""
    seeds: tuple[int, ...] = (0,)
    """A number N in the file stands for 0 to N - 1."""
    evaluation: Evaluations = Field(default_factory=Evaluations)
    baselines: tuple[Literal["pretrained", "multitask", "fused_once"], ...] = ("pretrained",)
    """What it is compared with; the pretrained model is measured in any case."""
    controls: tuple[Literal["random_deltas", "alone"], ...] = ()
    variants: Mapping[str, Mapping[str, Any]] = Field(default_factory=dict)
    """Further arms: fields of ``Design`` that differ from arm ``cold``."""

    @field_validator("datasets", mode="before")
    @classmethod
    def _short_data(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {
            name: {"data": each} if isinstance(each, str) else each for name, each in value.items()
        }

    @field_validator("seeds", mode="before")
    @classmethod
    def _count_of_seeds(cls, value: Any) -> Any:
        is_count = isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1000
        return tuple(range(value)) if is_count else value

    def design(self, variant: str | None = None, fold: Fold | None = None) -> Design:
        """The design of an arm.

        Raises:
            ValidationError: the variant changes a field that a design has not, or to what it
                cannot be.
        """
        fields = {name: getattr(self, name) for name in Design.model_fields}
        if fold is not None:
            fields |= {"seen": fold.seen, "unseen": fold.unseen}
        if variant is not None:
            fields |= self.variants[variant]
        return Design.model_validate(fields)

    def at(self, directory: Path, data: Path | None) -> Self:
        """The same with paths that hold wherever it is run.

        Args:
            directory: of the file.
            data: what ``${DATA}`` stands for.
        """
        datasets = {
            name: item.model_copy(update={"data": _absolute(item.data, directory, data)})
            for name, item in self.datasets.items()
        }
        base = directory / self.base
        is_there = self.base != EXAMPLE and base.is_dir()
        return self.model_copy(
            update={"datasets": datasets, "base": str(base) if is_there else self.base}
        )

    def without_paths(self) -> Self:
        """The same with the last part of each local path alone, to be shown to others."""
        datasets = {
            name: item.model_copy(update={"data": _last_part(item.data)})
            for name, item in self.datasets.items()
        }
        return self.model_copy(update={"datasets": datasets, "base": _last_part(self.base)})


def read_experiment(path: Path, data: Path | None = None) -> Experiment:
    """Read the file of an experiment.

    Args:
        path: of the file.
        data: folder that ``${DATA}`` stands for.

    Raises:
        UsageError: something is wrong with it; names every problem.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        experiment = Experiment.model_validate(raw)
    except OSError as error:
        raise UsageError("experiment", str(path), f"a file ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise _refusal(path, [f"it is no YAML: {' '.join(str(error).split())}"]) from error
    except ValidationError as error:
        raise _refusal(path, list(_sentences(error))) from error
    problems = list(_problems(experiment, data))
    if problems:
        raise _refusal(path, problems)
    return experiment.at(path.absolute().parent, data)


def _refusal(path: Path, problems: Sequence[str]) -> UsageError:
    lines = "".join(f"\n  {problem}" for problem in problems)
    return UsageError("experiment", str(path), f"a file without these problems:{lines}")


def _sentences(error: ValidationError, where: str = "") -> Iterator[str]:
    for item in error.errors(include_url=False):
        place = ".".join(str(part) for part in item["loc"])
        yield f"{where}{place}: {item['msg']}" if place else f"{where}{item['msg']}"


def _problems(experiment: Experiment, data: Path | None) -> Iterator[str]:
    yield from _bad_names(experiment)
    if data is None and any(_FOLDER in item.data for item in experiment.datasets.values()):
        yield f"datasets: {_FOLDER} stands for a folder, which --data gives"
    if not experiment.seeds or len(set(experiment.seeds)) < len(experiment.seeds):
        yield "seeds: expected at least one, and each of them once"
    for name, item in experiment.datasets.items():
        if item.part is not None:
            index, total = map(int, item.part.split("/"))
            if index > total:
                yield f"datasets.{name}.part: got {item.part}, expected at most {total}/{total}"
    few = experiment.evaluation.few_shot
    if few is not None and few.num_shots is None:
        yield "evaluation.few_shot.num_shots: expected a number of examples"
    if experiment.folds and (experiment.seen or experiment.unseen):
        yield "folds: expected either these or seen and unseen"
    for number, fold in enumerate(experiment.folds or (None,), start=1):
        place = f"folds.{number}: " if fold is not None else ""
        for variant in (None, *experiment.variants):
            where = place if variant is None else f"{place}variants.{variant}: "
            try:
                design = experiment.design(variant, fold)
            except ValidationError as error:
                yield from _sentences(error, where)
            else:
                named = set(experiment.datasets)
                yield from (f"{where}{problem}" for problem in check_design(design, named))


def _bad_names(experiment: Experiment) -> Iterator[str]:
    for what, names in (
        ("name", [experiment.name]),
        ("datasets", experiment.datasets),
        ("variants", experiment.variants),
    ):
        for name in names:
            try:
                check_name(what, name)
            except UsageError as error:
                yield f"{what}: {error}"
    for kind in ("frozen", "finetuned", "few_shot"):
        measure: Measure | None = getattr(experiment.evaluation, kind)
        named = measure.datasets if measure and not isinstance(measure.datasets, str) else ()
        for name in sorted(set(named) - set(experiment.datasets)):
            yield f"evaluation.{kind}.datasets: there is no dataset {name!r}"


def _last_part(path: str) -> str:
    return Path(path).name if Path(path).is_absolute() else path


def _absolute(data: str, directory: Path, folder: Path | None) -> str:
    if folder is not None:
        data = data.replace(_FOLDER, str(folder.absolute()))
    if data.startswith(("hub:", "s3:")):
        return data
    return str(directory / Path(data).expanduser())
