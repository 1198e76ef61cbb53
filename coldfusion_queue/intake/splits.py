"""Which files, or which splits of a hub dataset, become train, validation and test.

The name of a file without its extension is the name of its split: ``train``; ``validation``,
``valid``, ``dev`` or ``val``; ``test``. A single file of another name is the training split.
``--split NAME`` trains on another one. ``train-00000-of-00002.parquet`` is a part of a split.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from coldfusion_queue.errors import InvalidDatasetError
from coldfusion_queue.intake.problems import listed, printable
from coldfusion_queue.intake.rows import Table
from coldfusion_queue.intake.tables import EXTENSIONS, open_table

__all__ = ["SPLITS", "SPLIT_NAMES", "Splits", "choose_splits", "open_path"]

#: The splits that a dataset may have, in the order in which they are read.
SPLITS = ("train", "validation", "test")

_ALIASES = {"train": "train", "test": "test"} | dict.fromkeys(
    ("validation", "valid", "dev", "val"), "validation"
)
#: Names that files and splits of any dataset have.
SPLIT_NAMES = tuple(_ALIASES)
_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})")
_SHOWN_EXTENSIONS = ".jsonl, .json, .csv, .tsv or .parquet"


@dataclass(frozen=True)
class Splits:
    """The tables of each split; a split may have several parts."""

    tables: Mapping[str, Sequence[Table]]
    """``train``, and perhaps ``validation`` and ``test``."""
    notes: tuple[str, ...]
    """What was left out and why, for the user."""


def open_path(path: Path, split: str | None, name: str | None = None) -> Splits:
    """Find the data files of a path; they are opened once to see that they can be read.

    Args:
        path: a file or a folder.
        split: name of the split to train on, or None for the training split.
        name: what messages call it; by default the path.

    Raises:
        InvalidDatasetError: nothing is there, or nothing that can be read, or no such split.
    """
    shown = printable(name or str(path))
    try:
        if path.is_dir():
            return _open_folder(path, split, shown)
        _check_file(path, shown)
    except (FileNotFoundError, NotADirectoryError):
        problem = "there is no such file or folder"
        raise InvalidDatasetError(shown, problem, "check the path") from None
    except OSError as error:
        problem = f"it cannot be read ({error.strerror})"
        raise InvalidDatasetError(shown, problem, "check the path and its permissions") from error
    if split not in {None, path.stem} and _ALIASES.get(str(split).lower()) != "train":
        problem = f"it is a single file and has no split {printable(str(split))!r}"
        raise InvalidDatasetError(shown, problem, "leave out --split, or give a folder")
    return Splits({"train": [open_table(path, shown)]}, ())


def choose_splits(available: Iterable[str], split: str | None, name: str) -> dict[str, str]:
    """Which of the available names is trained on, validated on and tested on.

    Args:
        available: the names there are.
        split: the name to train on, or None for the training split.
        name: what messages call the dataset.

    Raises:
        InvalidDatasetError: there is no such split, or there are two.
    """
    names = sorted(available)
    chosen = {"train": _training_name(names, split, name)}
    for role in SPLITS[1:]:
        others = [other for other in _named(names, role) if other != chosen["train"]]
        if others:
            chosen[role] = _only(others, role, name)
    return chosen


def _training_name(names: Sequence[str], split: str | None, name: str) -> str:
    if split is not None:
        found = [split] if split in names else _named(names, _ALIASES.get(split.lower(), split))
        if not found:
            problem = f"it has no split {printable(split)!r}, only {listed(names)}"
            raise InvalidDatasetError(name, problem, "name one of them with --split")
        return _only(found, split, name)
    found = _named(names, "train")
    if found:
        return _only(found, "train", name)
    unnamed = [other for other in names if other.lower() not in _ALIASES]
    if len(unnamed) == 1:
        return unnamed[0]
    problem = f"it has no split 'train', only {listed(names)}"
    raise InvalidDatasetError(name, problem, "name the one to train on with --split")


def _named(names: Iterable[str], role: str) -> list[str]:
    return [name for name in names if _ALIASES.get(name.lower()) == role]


def _only(names: Sequence[str], role: str, name: str) -> str:
    if len(names) > 1:
        problem = f"{listed(names)} are all its {role} split, expected one"
        raise InvalidDatasetError(name, problem, "keep one of them, or rename the others")
    return names[0]


def _open_folder(path: Path, split: str | None, shown: str) -> Splits:
    parts: dict[str, list[Path]] = defaultdict(list)
    for file in sorted(path.iterdir()):
        if file.suffix.lower() in EXTENSIONS and not file.name.startswith(".") and file.is_file():
            matched = _PART.fullmatch(file.stem)
            parts[matched[1] if matched else file.stem].append(file)
    if not parts:
        problem = f"it holds no {_SHOWN_EXTENSIONS} file"
        raise InvalidDatasetError(shown, problem, "put the data files directly into it")
    chosen = choose_splits(parts, split, shown)
    tables = {role: _open_parts(parts[stem], shown) for role, stem in chosen.items()}
    left_out = sorted(parts.keys() - chosen.values())
    notes = (f"left out: {listed(left_out)}, which are no split of it",) if left_out else ()
    return Splits(tables, notes)


def _open_parts(files: Sequence[Path], folder: str) -> list[Table]:
    matches = [_PART.fullmatch(file.stem) for file in files]
    totals = {int(matched[3]) if matched else 1 for matched in matches}
    if totals != {len(files)}:
        _refuse_parts(files, folder)
    tables = []
    for file in files:
        shown = f"{folder.rstrip('/')}/{printable(file.name)}"
        _check_file(file, shown)
        tables.append(open_table(file, shown))
    return tables


def _refuse_parts(files: Sequence[Path], folder: str) -> NoReturn:
    problem = f"{listed(file.name for file in files)} are not exactly the parts of one split"
    remedy = "keep one file of each split, or all of its parts"
    raise InvalidDatasetError(folder, problem, remedy)


def _check_file(path: Path, shown: str) -> None:
    size = path.stat().st_size
    if not path.is_file():
        problem = "it is neither a regular file nor a folder"
        raise InvalidDatasetError(shown, problem, f"give a {_SHOWN_EXTENSIONS} file")
    if path.suffix.lower() not in EXTENSIONS:
        problem = f"its extension is {printable(path.suffix)!r}, expected {_SHOWN_EXTENSIONS}"
        raise InvalidDatasetError(shown, problem, "convert it, or correct its extension")
    if size == 0:
        problem = "it is empty, expected labelled examples"
        raise InvalidDatasetError(shown, problem, "write one labelled example a line")
    with path.open("rb"):
        pass  # raises here what reading it would raise later
