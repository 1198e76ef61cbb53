"""Writes the paper's datasets that need more than a name: several texts a row, splits in rounds.

    python examples/experiments/paper_data.py FOLDER

The fields of a row are joined with ``<SEP>``, as the authors' code joins them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]


def joined(*fields: str) -> Callable[[Row], str]:
    """The text of a row: these fields of it."""
    return lambda row: " <SEP> ".join(str(row[field]) for field in fields)


def with_spans(row: Row) -> str:
    """The text of a row of WSC: does the second span mean the first one."""
    return f"{row['text']} <SEP> {row['span1_text']} <SEP> {row['span2_text']}"


#: Folder: hub name, configuration, text of a row, splits that become train and test.
#: Their public test splits have no labels, so the validation split is what is scored on.
DATASETS: dict[str, tuple[str, str | None, Callable[[Row], str], dict[str, list[str]]]] = {
    "copa": (
        "aps/super_glue",
        "copa",
        joined("premise", "choice1", "choice2", "question"),
        {"train": ["train"], "test": ["validation"]},
    ),
    "multirc": (
        "aps/super_glue",
        "multirc",
        joined("paragraph", "question", "answer"),
        {"train": ["train"], "test": ["validation"]},
    ),
    "wic": (
        "aps/super_glue",
        "wic",
        joined("word", "sentence1", "sentence2"),
        {"train": ["train"], "test": ["validation"]},
    ),
    "wsc": ("aps/super_glue", "wsc", with_spans, {"train": ["train"], "test": ["validation"]}),
    "mnli": (
        "nyu-mll/glue",
        "mnli",
        joined("premise", "hypothesis"),
        {"train": ["train"], "test": ["validation_mismatched"]},
    ),
    "anli": (
        "facebook/anli",
        None,
        joined("premise", "hypothesis"),
        {
            "train": ["train_r1", "train_r2", "train_r3"],
            "test": ["test_r1", "test_r2", "test_r3"],
        },
    ),
}


def lines_of(rows: Iterator[Row], text: Callable[[Row], str]) -> Iterator[str]:
    """Rows as lines of JSON, without those that nobody labelled."""
    for row in rows:
        if row["label"] >= 0:
            example = {"text": text(row), "label": str(row["label"])}
            yield json.dumps(example, ensure_ascii=False) + "\n"


def main(folder: Path) -> None:
    """Write all of them."""
    from datasets import load_dataset

    for name, (hub_name, config, text, splits) in DATASETS.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for target, sources in splits.items():
            with (folder / name / f"{target}.jsonl").open("w", encoding="utf-8") as file:
                for source in sources:
                    rows = load_dataset(hub_name, config, split=source)
                    file.writelines(lines_of(iter(rows), text))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
