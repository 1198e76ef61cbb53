"""What every refusal has to look like, and what it must leave alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.acceptance.world import Finished, World
from tests.rows import rows, write_rows

Write = Callable[[Path], object]

GIB = 2**30


def traces(world: World) -> tuple[dict[str, int], object, object, object]:
    """All that a command can leave behind."""
    keys = {key: world.redis.type(key) for key in world.redis.scan_iter("*")}
    return world.objects(), keys, world.queued(), world.left_behind()


def check(done: Finished, code: int, *says: str) -> None:
    """The exit code, one sentence with all that it has to say, and nothing on standard output."""
    complaint = done.complaint()
    assert done.code == code, complaint
    for text in says:
        assert text in complaint
    assert done.out == ""
    # It is the last thing that was said, and no list of causes and consequences.
    assert len(complaint.splitlines()) == 1


def good(path: Path) -> object:
    """What a bad file should have been."""
    return write_rows(path, rows("single"))


def lines(*examples: object) -> Write:
    """A writer of JSON lines."""
    text = "".join(json.dumps(example) + "\n" for example in examples)
    return lambda path: path.write_text(text, encoding="utf-8")


def run(world: World, command: tuple[str, ...], tmp_path: Path, **own: str) -> Finished:
    """Run a command in which ``{data}``, ``{model}`` and ``{new}`` are paths."""
    data = world.data / "good.jsonl"
    good(data)
    paths = {"{data}": data, "{model}": world.data, "{new}": tmp_path / "new"}
    return world.run_warm(*(paths.get(word, word) for word in command), **own)
