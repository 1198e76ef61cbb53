"""``deploy/Dockerfile``, read: its stages, and what an image inherits from them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

__all__ = ["TEXT", "environment", "instructions", "lineage", "stages"]

TEXT = (Path(__file__).parents[1] / "deploy" / "Dockerfile").read_text("utf-8")


def instructions() -> list[tuple[str, str]]:
    """Instruction and its arguments; continued lines are one."""
    lines = [line for line in TEXT.splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    found = []
    for line in filter(str.strip, joined.splitlines()):
        name, _, arguments = line.strip().partition(" ")
        found.append((name.upper(), " ".join(arguments.split())))
    return found


def stages() -> dict[str, tuple[str, list[tuple[str, str]]]]:
    """Base and instructions by stage, in order."""
    found: dict[str, tuple[str, list[tuple[str, str]]]] = {}
    current: list[tuple[str, str]] = []
    for name, arguments in instructions():
        if name == "FROM":
            base, _, stage = re.split(r"\s+(as|AS)\s+", arguments)
            current = []
            found[stage] = (base, current)
        elif found:
            current.append((name, arguments))
    return found


def lineage(stage: str) -> list[tuple[str, str]]:
    """Instructions of an image: of its stage, after those of the stages that it is made from."""
    base, own = stages()[stage]
    return [*(lineage(base) if base in stages() else []), *own]


def environment(stage: str) -> dict[str, str]:
    """Variables of an image."""
    lines = (arguments for name, arguments in lineage(stage) if name == "ENV")
    pairs = (pair.split("=", 1) for line in lines for pair in shlex.split(line))
    return {name: value for name, value in pairs}  # noqa: C416 - pairs are lists
