"""What labels are: names of classes, or numbers.

``auto`` takes regression when every label is a number, at least one of them is written with a
fraction (``3.0`` is, ``3`` is not) and there are more than two different ones; all else is
classification. In JSON, Parquet and hub datasets a number in quotes is a name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Literal, cast, get_args

from coldfusion_queue.errors import InvalidDatasetError, UsageError
from coldfusion_queue.intake.problems import Place, Tally
from coldfusion_queue.records import Objective

__all__ = [
    "MAX_LABELS",
    "Kind",
    "LabelUse",
    "ObjectiveChoice",
    "check_known",
    "check_objective",
    "class_names",
    "decide_objective",
    "read_label",
]

ObjectiveChoice = Literal["auto", "classification", "regression"]

#: More classes than this are refused; it also bounds the memory of counting them.
MAX_LABELS = 10_000

_MAX_LABEL_CHARACTERS = 200
_WHOLE = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")


class Kind(Enum):
    """What one label looks like."""

    #: Null, NaN or blank.
    MISSING = auto()
    #: Text that is no number, or a boolean.
    NAME = auto()
    #: Digits in quotes, in a format that has numbers: a name, or a number if regression is asked.
    NUMERAL = auto()
    #: A number without a fraction.
    WHOLE = auto()
    #: A number with a fraction, be it ``.0``.
    FRACTION = auto()
    #: The text ``nan`` in CSV: missing among numbers, a name among names.
    NAN = auto()
    #: An infinity, or a number too large for a float64.
    INFINITE = auto()
    #: A list, an object, bytes.
    OTHER = auto()


_NUMBERS = frozenset({Kind.WHOLE, Kind.FRACTION, Kind.INFINITE})
_QUOTED = {
    Kind.WHOLE: Kind.NUMERAL,
    Kind.FRACTION: Kind.NUMERAL,
    Kind.INFINITE: Kind.NAME,
}


@dataclass
class LabelUse:
    """Where the labels of one split are; grows row by row."""

    name: str
    """What messages call the split."""
    num_rows: int = 0
    kinds: dict[Kind, Tally] = field(default_factory=dict)
    distinct: dict[str, Tally] = field(default_factory=dict)
    """The different labels that are not missing, at most ``MAX_LABELS + 1``."""
    too_long: Tally = field(default_factory=Tally)

    def add(self, kind: Kind, label: str, place: Place) -> None:
        """Count the label of one row."""
        self.num_rows += 1
        self.kinds.setdefault(kind, Tally()).add(place)
        if kind is Kind.MISSING:
            return
        if len(label) > _MAX_LABEL_CHARACTERS:
            self.too_long.add(place)
        elif label in self.distinct or len(self.distinct) <= MAX_LABELS:
            self.distinct.setdefault(label, Tally()).add(place)

    def of(self, *kinds: Kind) -> Tally:
        """The rows whose labels look like one of these."""
        total = Tally()
        for kind in kinds:
            total.merge(self.kinds.get(kind, Tally()))
        return total

    @property
    def is_unlabelled(self) -> bool:
        """Whether no row has a label."""
        return self.kinds.keys() == {Kind.MISSING}


def read_label(value: object, is_typed: bool) -> tuple[Kind, str]:
    """What a label looks like, and the label as text, stripped of blanks around it.

    Args:
        value: the value as the file has it.
        is_typed: the format tells numbers from strings.
    """
    match value:
        case None:
            return Kind.MISSING, ""
        case bool():
            return Kind.NAME, str(value).lower()
        case int():
            return _number_kind(str(value)), str(value)
        case float():
            return _number_kind(repr(value)), repr(value)
        case str():
            return _read_text(value.strip(), is_typed)
        case _:
            return Kind.OTHER, ""


def check_objective(choice: str) -> ObjectiveChoice:
    """Return ``choice`` if it is ``auto`` or an objective.

    Raises:
        UsageError: it is not.
    """
    if choice not in get_args(ObjectiveChoice):
        raise UsageError("objective", choice, "auto, classification or regression")
    return cast("ObjectiveChoice", choice)


def decide_objective(use: LabelUse, choice: ObjectiveChoice) -> Objective:
    """The objective of a training split; see the module's first lines for ``auto``."""
    if choice != "auto":
        return Objective(choice)
    seen = {kind for kind in use.kinds if kind not in {Kind.MISSING, Kind.NAN}}
    is_fractional = bool(seen & {Kind.FRACTION, Kind.INFINITE}) and len(use.distinct) > 2
    if is_fractional and seen <= _NUMBERS:
        return Objective.REGRESSION
    return Objective.CLASSIFICATION


def class_names(use: LabelUse, objective: Objective) -> tuple[str, ...]:
    """The classes of a training split in the order of their code points; () for regression.

    Raises:
        InvalidDatasetError: labels are missing, of the wrong kind, all the same, or so many that
            they are hardly classes.
    """
    check_known(use, objective, ())
    if len(use.distinct) == 1:
        problem = f"all of its {use.num_rows} rows have the same label, expected at least 2"
        remedy = "add examples of other labels, or name another column with --label"
        raise InvalidDatasetError(use.name, problem, remedy)
    if objective is Objective.REGRESSION:
        return ()
    _check_number_of_classes(use)
    return tuple(sorted(use.distinct))


def check_known(use: LabelUse, objective: Objective, known: Sequence[str]) -> None:
    """Check the labels of one split.

    Args:
        use: the labels.
        objective: what they are for.
        known: the classes of the training split; empty to allow all.

    Raises:
        InvalidDatasetError: labels are missing, of the wrong kind, or not among ``known``.
    """
    _check_present(use, objective)
    if objective is Objective.REGRESSION:
        _check_numbers(use)
        return
    unknown, classes = Tally(), frozenset(known or use.distinct)
    for label in use.distinct.keys() - classes:
        unknown.merge(use.distinct[label])
    if unknown.count:
        problem = f"{unknown.describe()} have labels that the training split never has"
        remedy = "correct them, or add examples of these labels to the training split"
        raise InvalidDatasetError(unknown.source, problem, remedy)


def _check_present(use: LabelUse, objective: Objective) -> None:
    missing = use.of(Kind.MISSING)
    is_numeric = use.kinds.keys() <= _NUMBERS | {Kind.MISSING, Kind.NAN}
    if is_numeric or objective is Objective.REGRESSION:
        missing = use.of(Kind.MISSING, Kind.NAN)
    if missing.count:
        problem = f"labels are missing in {missing.describe()} of {use.num_rows}"
        raise InvalidDatasetError(missing.source, problem, "label these rows, or remove them")
    other = use.of(Kind.OTHER)
    if other.count:
        problem = f"labels are lists or objects in {other.describe()}, expected one name or number"
        raise InvalidDatasetError(other.source, problem, "name another column with --label")
    if use.too_long.count and objective is Objective.CLASSIFICATION:
        problem = (
            f"labels are longer than {_MAX_LABEL_CHARACTERS} characters in "
            f"{use.too_long.describe()}"
        )
        remedy = "name another column with --label, this one looks like text"
        raise InvalidDatasetError(use.too_long.source, problem, remedy)


def _check_numbers(use: LabelUse) -> None:
    names = use.of(Kind.NAME)
    if names.count:
        problem = f"labels are not numbers in {names.describe()}, expected numbers for regression"
        remedy = "correct them, or ask for --objective classification"
        raise InvalidDatasetError(names.source, problem, remedy)
    infinite = use.of(Kind.INFINITE)
    if infinite.count:
        problem = f"labels are infinite or too large for a float64 in {infinite.describe()}"
        raise InvalidDatasetError(infinite.source, problem, "correct these rows, or remove them")


def _check_number_of_classes(use: LabelUse) -> None:
    most = min(MAX_LABELS, max(2, use.num_rows // 2))
    if len(use.distinct) > most:
        many = "more than " if len(use.distinct) > MAX_LABELS else ""
        got = f"{many}{min(len(use.distinct), MAX_LABELS)} different labels"
        problem = f"its {use.num_rows} rows have {got}, expected at most {most}"
        remedy = "name another column with --label, or for numbers ask for --objective regression"
        raise InvalidDatasetError(use.name, problem, remedy)


def _number_kind(text: str) -> Kind:
    number = float(text)
    if math.isnan(number):
        return Kind.MISSING
    if math.isinf(number):
        return Kind.INFINITE
    return Kind.WHOLE if _WHOLE.fullmatch(text) else Kind.FRACTION


def _read_text(text: str, is_typed: bool) -> tuple[Kind, str]:
    if not text:
        return Kind.MISSING, ""
    if _NUMBER.fullmatch(text):
        kind = _number_kind(text)
        return (kind if not is_typed else _QUOTED[kind]), text
    if text.lower() == "nan" and not is_typed:
        return Kind.NAN, text
    return Kind.NAME, text
