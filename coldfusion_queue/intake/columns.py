"""Which columns hold the text, its pair and the label.

What is named explicitly is taken. The rest is guessed, ignoring case:

- the two texts of a pair: the first of ``PAIRS`` of which both columns are there. With ``--text``
  given there is no guessing of a pair, so ``--text X`` alone means single texts;
- a single text: the first of ``TEXTS`` that is there;
- the label: the first of ``LABELS`` that is there.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from coldfusion_queue.errors import InvalidDatasetError
from coldfusion_queue.intake.problems import listed, named_column, tellable
from coldfusion_queue.intake.rows import Table

__all__ = ["LABELS", "PAIRS", "TEXTS", "Columns", "check_columns", "choose_columns"]

#: Names of two columns that are a pair of texts, best first.
PAIRS = (
    ("text", "text_pair"),
    ("text1", "text2"),
    ("text_a", "text_b"),
    ("sentence1", "sentence2"),
    ("sentence_a", "sentence_b"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("question", "passage"),
    ("question", "context"),
    ("question", "answer"),
    ("query", "passage"),
    ("query", "document"),
)
#: Names of a column of single texts, best first.
TEXTS = (
    "text",
    "sentence",
    "content",
    "review",
    "review_text",
    "body",
    "comment",
    "tweet",
    "message",
    "utterance",
    "document",
    "question",
    "query",
    "title",
    "text1",
    "sentence1",
    "premise",
)
#: Names of a column of labels, best first.
LABELS = (
    "label",
    "labels",
    "class",
    "target",
    "score",
    "category",
    "sentiment",
    "rating",
    "stars",
    "similarity_score",
    "intent",
    "topic",
)


@dataclass(frozen=True)
class Columns:
    """Names of the columns that a dataset is made of."""

    text: str
    text_pair: str | None
    """None for single texts."""
    label: str

    @property
    def all(self) -> tuple[str, ...]:
        """Text, text pair if there is one, label."""
        pair = () if self.text_pair is None else (self.text_pair,)
        return (self.text, *pair, self.label)


def choose_columns(
    table: Table, text: str | None, text_pair: str | None, label: str | None
) -> Columns:
    """Take the columns that were named and guess the others.

    Args:
        table: the file that is trained on.
        text: name given with ``--text``, or None to guess.
        text_pair: name given with ``--text-pair``, or None to guess.
        label: name given with ``--label``, or None to guess.

    Raises:
        InvalidDatasetError: a named column is not there, none could be guessed, or two are one.
    """
    found = table.columns()
    if not found:
        raise InvalidDatasetError(table.name, "it has no rows", "give at least one example a label")
    named = [("--text", text), ("--text-pair", text_pair), ("--label", label)]
    _check_named(table, found, [(option, name) for option, name in named if name is not None])
    free = [name for name in found if name not in {text, text_pair, label}]
    if text is None and text_pair is None:
        text, text_pair = _guess_pair(free)
    text = text or _guess(free, TEXTS) or _refuse(table, found, "text", "--text")
    label = label or _guess([name for name in free if name not in {text, text_pair}], LABELS)
    return Columns(text, text_pair, label or _refuse(table, found, "label", "--label"))


def check_columns(table: Table, columns: Columns) -> None:
    """Check that another split has the columns that were chosen for the training split.

    Raises:
        InvalidDatasetError: one is not there.
    """
    found = table.columns()
    if not found:
        raise InvalidDatasetError(table.name, "it has no rows", "remove it, or fill it")
    missing = [name for name in columns.all if name not in found]
    if missing:
        problem = f"it has no column {listed(missing)}, only {listed(found)}"
        raise InvalidDatasetError(table.name, problem, "give all splits the same columns")


def _check_named(table: Table, found: Sequence[str], named: list[tuple[str, str]]) -> None:
    for option, name in named:
        if name not in found:
            close = difflib.get_close_matches(name, tellable(found), n=1)
            remedy = f"name one of them with {option}"
            if close and len(close[0]) < 2 * len(name):
                remedy = f"did you mean {option} {close[0]!r}?"
            problem = f"it has no column {named_column(name)}, only {listed(found)}"
            raise InvalidDatasetError(table.name, problem, remedy)
    for index, (option, name) in enumerate(named):
        for other, same in named[:index]:
            if name == same:
                problem = f"{other} and {option} both name the column {named_column(name)}"
                raise InvalidDatasetError(table.name, problem, "name two different columns")


def _guess_pair(found: Sequence[str]) -> tuple[str | None, str | None]:
    for first, second in PAIRS:
        pair = _guess(found, [first]), _guess(found, [second])
        if None not in pair:
            return pair
    return None, None


def _guess(found: Iterable[str], known: Iterable[str]) -> str | None:
    by_name = {name.lower(): name for name in reversed(list(found))}
    return next((by_name[name] for name in known if name in by_name), None)


def _refuse(table: Table, found: Sequence[str], role: str, option: str) -> str:
    problem = f"none of its columns is known as a {role} column: {listed(found)}"
    remedy = f"name the right one with {option}"
    if len(found) == 1 and not table.is_typed and re.search("[,;\t]", found[0]):
        remedy = "separate the columns with commas in a .csv file and with tabs in a .tsv file"
    raise InvalidDatasetError(table.name, problem, remedy)
