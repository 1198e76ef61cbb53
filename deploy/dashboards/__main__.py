"""Writes the dashboards, or says whether they are what would be written.

python -m deploy.dashboards [--check]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from deploy.dashboards.queue_and_store import queue_and_store_board
from deploy.dashboards.repository import repository_board
from deploy.dashboards.workers import workers_board

__all__ = ["DIRECTORY", "make_dashboards"]

#: Chart and compose file both provision what is here.
DIRECTORY = Path(__file__).parents[2] / "helm" / "coldfusion" / "files" / "dashboards"


def make_dashboards() -> Mapping[str, str]:
    """The text of each file, by its name."""
    boards = {
        "repository": repository_board(),
        "workers": workers_board(),
        "queue-and-store": queue_and_store_board(),
    }
    return {f"{name}.json": board.to_json() for name, board in boards.items()}


def main(arguments: Sequence[str]) -> int:
    """Write the files, or with ``--check`` 1 if one of them would change."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if it would change")
    parser.add_argument("--directory", type=Path, default=DIRECTORY)
    options = parser.parse_args(arguments)
    made = make_dashboards()
    found = {path.name: path.read_text("utf-8") for path in options.directory.glob("*.json")}
    if not options.check:
        for name, text in made.items():
            (options.directory / name).write_text(text, encoding="utf-8")
    elif wrong := sorted(name for name in {*made, *found} if made.get(name) != found.get(name)):
        print(
            f"{', '.join(wrong)}: not what the code makes; run `make dashboards`", file=sys.stderr
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
