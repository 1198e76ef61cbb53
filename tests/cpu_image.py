"""What the CPU image has, and how a process runs with nothing else.

``python -m tests.cpu_image MODULE ARGUMENT...`` runs a module as ``python -m`` does, and refuses
every import that the image could not answer.
"""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Collection
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

from packaging.requirements import Requirement

__all__ = ["block_all_but", "closure", "installed_modules", "listed", "normal"]

ROOT = Path(__file__).parents[1]
LIST = ROOT / "deploy" / "requirements-cpu.txt"


def normal(name: str) -> str:
    """A distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def listed() -> list[str]:
    """What the image is made from."""
    lines = (line.partition("#")[0].strip() for line in LIST.read_text("utf-8").splitlines())
    return [line for line in lines if line]


@cache
def closure() -> frozenset[str]:
    """Distributions that pip installs for the list."""
    found: set[str] = set()
    waiting = [normal(name) for name in listed()]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        try:
            required = requires(name) or []
        except PackageNotFoundError:  # of another platform
            continue
        found.add(name)
        for text in required:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(normal(requirement.name))
    return frozenset(found)


@cache
def installed_modules() -> frozenset[str]:
    """Top-level modules of the image: ours, and those that the closure brings."""
    found = {
        module
        for module, distributions in packages_distributions().items()
        if any(normal(distribution) in closure() for distribution in distributions)
    }
    return frozenset(found | {"coldfusion_queue", "workers"})


def block_all_but(allowed: Collection[str]) -> None:
    """From now on refuse to import what is neither allowed nor of the standard library."""

    def is_blocked(name: str) -> bool:
        top = name.partition(".")[0]
        is_python = top in sys.stdlib_module_names or top.startswith("_sysconfigdata")
        return not is_python and top not in allowed and top not in {"__main__", "tests"}

    class Blocker:
        """Asked before all others, for what is not loaded yet."""

        @staticmethod
        def find_spec(name: str, path: object = None, target: object = None) -> None:
            if is_blocked(name):
                raise ModuleNotFoundError(f"{name} is not in the CPU image", name=name)

    sys.meta_path.insert(0, Blocker)  # type: ignore[arg-type]
    for name in filter(is_blocked, list(sys.modules)):  # such as packaging, which is used above
        del sys.modules[name]


def main(argv: list[str]) -> None:
    """Run a module with what the image has."""
    block_all_but(installed_modules())
    sys.argv = argv
    runpy.run_module(argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
