"""Writes the README of the chart from `README.md.in` and the comments in `values.yaml`.

A key is described by the comment right above it that begins with `# -- `; further lines of the
comment go on with it. `# @default -- text` shows another default than the value. Each top-level
key becomes a section: its description, and a table of what is below it. The tables take the place
of the line `<!-- values -->`.

    python helm/document_values.py [--check]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parent / "coldfusion"
PLACE = "<!-- values -->"
NOTICE = (
    "<!-- Made by helm/document_values.py from README.md.in and values.yaml: change those, then "
    "run `make chart-readme`. -->\n"
)
#: A default with more characters is left to `values.yaml`.
LONGEST_DEFAULT = 80


class UndocumentedError(Exception):
    """A value has no description; the text names it and says how to write one."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One key of the values."""

    path: str
    description: str
    default: str
    children: tuple[Entry, ...] = ()


def read_values(text: str) -> tuple[Entry, ...]:
    """The entries of `values.yaml`, top level first, each with those below it.

    Raises:
        UndocumentedError: a key has no description, nor has one above it that stands for all below.
    """
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        raise UndocumentedError("values.yaml holds no mapping")
    lines = text.splitlines()
    return tuple(_entry(key, value, "", lines) for key, value in root.value)


def _entry(key: yaml.Node, value: yaml.Node, parent: str, lines: Sequence[str]) -> Entry:
    path = f"{parent}.{key.value}" if parent else str(key.value)
    line = key.start_mark.line
    description, default = _comment(lines, line)
    below = value.value if isinstance(value, yaml.MappingNode) else []
    # A key on the line of its parent would take the parent's comment for its own.
    under = (node.start_mark.line for node in _keys(value) if node.start_mark.line > line)
    if any(_comment(lines, number)[0] for number in under):
        children = tuple(_entry(name, node, path, lines) for name, node in below)
        return Entry(path, description, "", children)
    if not description:
        raise UndocumentedError(
            f"values.yaml, line {line + 1}: {path} has no description; write a "
            f"comment that begins with `# -- ` right above it"
        )
    return Entry(path, description, default or _shown(value))


def _keys(node: yaml.Node) -> Iterator[yaml.Node]:
    """The keys of all mappings below a node, those in lists left out."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key
            yield from _keys(value)


def _comment(lines: Sequence[str], line: int) -> tuple[str, str]:
    """The description and the shown default in the comment that ends above a line."""
    block: list[str] = []
    for text in reversed(lines[:line]):
        if not text.lstrip().startswith("#"):
            break
        block.insert(0, text.lstrip().removeprefix("#").strip())
    starts = [index for index, text in enumerate(block) if text.startswith("-- ")]
    if not starts:
        return "", ""
    words, default = [], ""
    for text in block[starts[-1] :]:
        if text.startswith("@default -- "):
            default = text.removeprefix("@default -- ")
        else:
            words.append(text.removeprefix("-- "))
    return " ".join(words), default


def _shown(node: yaml.Node) -> str:
    value: Any = yaml.load(yaml.serialize(node), Loader=yaml.SafeLoader)
    text = json.dumps(value)
    return f"`{text}`" if len(text) <= LONGEST_DEFAULT else "see `values.yaml`"


def table(entries: Sequence[Entry]) -> str:
    """The sections of the README that say every value."""
    single = [entry for entry in entries if not entry.children]
    parts = []
    if single:
        parts += ["### One key each\n", _rows(single)]
    for entry in entries:
        if entry.children:
            parts.append(f"### `{entry.path}`\n")
            if entry.description:
                parts.append(f"{entry.description}\n")
            parts.append(_rows(_leaves(entry.children)))
    return "\n".join(parts)


def _leaves(entries: Sequence[Entry]) -> Iterator[Entry]:
    for entry in entries:
        if entry.description or not entry.children:
            yield entry
        yield from _leaves(entry.children)


def _rows(entries: Sequence[Entry] | Iterator[Entry]) -> str:
    head = "| key | default | description |\n|---|---|---|\n"
    cells = ((f"`{one.path}`", one.default, one.description) for one in entries)
    return head + "".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n" for row in cells
    )


def make_readme(chart: Path) -> str:
    """The text of the README of a chart."""
    prose = (chart / "README.md.in").read_text(encoding="utf-8")
    if prose.splitlines().count(PLACE) != 1:
        raise UndocumentedError(f"README.md.in needs one line `{PLACE}`, where the tables go")
    values = (chart / "values.yaml").read_text(encoding="utf-8")
    return NOTICE + prose.replace(PLACE + "\n", table(read_values(values)))


def main(arguments: Sequence[str]) -> int:
    """Write the README, or with ``--check`` say whether it is the one that would be written."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if it would change")
    parser.add_argument("--chart", type=Path, default=CHART, help="directory of the chart")
    options = parser.parse_args(arguments)
    readme = options.chart / "README.md"
    try:
        text = make_readme(options.chart)
    except UndocumentedError as error:
        print(error, file=sys.stderr)
        return 1
    if not options.check:
        readme.write_text(text, encoding="utf-8")
    elif not readme.exists() or readme.read_text(encoding="utf-8") != text:
        print(f"{readme} is not what values.yaml says; run `make chart-readme`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
