"""Examples to finetune on, made of real text."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.conftest import CORPUS

__all__ = ["rows", "write_rows"]


def rows(kind: str, number: int = 24, seed: int = 1) -> list[dict[str, Any]]:
    """Examples: ``single`` and ``pair`` have three labels, ``regression`` has fractions."""
    generator = random.Random(seed)
    found = []
    for index in range(number):
        row: dict[str, Any] = {"text": f"{generator.choice(CORPUS)} {index}"}
        if kind == "pair":
            row["text_pair"] = generator.choice(CORPUS)
        row["label"] = (index + 0.5) / 7 if kind == "regression" else f"label{index % 3}"
        found.append(row)
    return found


def write_rows(path: Path, examples: Sequence[Mapping[str, Any]]) -> Path:
    """Write examples in the format of the path's extension."""
    if path.suffix == ".jsonl":
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in examples)
        path.write_text("".join(lines), encoding="utf-8")
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(examples[0]))
            writer.writeheader()
            writer.writerows(examples)
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(list(examples)), path)
    return path
