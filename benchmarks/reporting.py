"""What every benchmark's line of JSON says about program and machine."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import version

import psutil

__all__ = ["print_report"]


def print_report(benchmark: str, packages: tuple[str, ...] = (), **fields: object) -> None:
    """Print the one line on standard output.

    Args:
        benchmark: its name.
        packages: those whose versions matter to the figures.
        fields: sizes and results.
    """
    report = {
        "benchmark": benchmark,
        **fields,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("coldfusion-queue", *packages)},
        },
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "cpus": os.cpu_count(),
            "memory_bytes": psutil.virtual_memory().total,
        },
    }
    print(json.dumps(report))
