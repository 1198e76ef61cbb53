"""The metrics of a worker's processes as those of one, also when some of them have died.

Each process writes files of its own, named by its number, which its parent reads at each scrape.
What a process that died counted stays counted: it is added to one file for all of them, or a worker
whose children die now and then would have hundreds after some months. Its gauges go.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from prometheus_client.core import Metric
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from coldfusion_queue.metrics import catalogue

__all__ = ["DeviceCollector", "ProcessesCollector", "is_alive"]

#: Kinds of files whose numbers are added, process by process.
_ADDED = frozenset({"counter", "histogram"})

#: In the place of a process's number.
_DEAD = "dead"


class ProcessesCollector(Collector):
    """For the parent of the processes, whose HTTP server may ask from several threads.

    Args:
        directory: ``PROMETHEUS_MULTIPROC_DIR``.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()

    def collect(self) -> Iterable[Metric]:
        """What all processes counted, and the gauges of those that live."""
        with self._lock:  # nobody reads while numbers go from one file to another
            for path in self._files():
                kind, number = path.stem.split("_")[0], path.stem.rpartition("_")[2]
                if number == _DEAD or is_alive(int(number)):
                    continue
                if kind in _ADDED:
                    self._add(kind, path)
                else:
                    mark_process_dead(int(number), str(self._directory))  # type: ignore[no-untyped-call]
            # A file that a process has just made is empty for a moment.
            files = [str(path) for path in self._files() if path.stat().st_size > 0]
            return list(MultiProcessCollector.merge(files))  # type: ignore[no-untyped-call]

    def _files(self) -> list[Path]:
        return list(self._directory.glob("*.db"))

    def _add(self, kind: str, path: Path) -> None:
        if path.stat().st_size > 0:
            totals = MmapedDict(str(self._directory / f"{kind}_{_DEAD}.db"))  # type: ignore[no-untyped-call]
            try:
                read = MmapedDict.read_all_values_from_file(str(path))  # type: ignore[no-untyped-call]
                for key, value, *_ in read:
                    total = totals.read_value(key)[0] + value  # type: ignore[no-untyped-call]
                    totals.write_value(key, total, 0.0)  # type: ignore[no-untyped-call]
            finally:
                totals.close()  # type: ignore[no-untyped-call]
        path.unlink()


class DeviceCollector(Collector):
    """For how long a worker's device was free, by the second of the scrape.

    Args:
        repository: of the worker's settings: a device that is free is so for nobody's turn.
        site: of the worker.
        idle_seconds: asked at each scrape.
    """

    def __init__(self, repository: str, site: str | None, idle_seconds: Callable[[], float]):
        self._labels = [repository, site or ""]
        self._idle_seconds = idle_seconds

    def collect(self) -> Iterable[Metric]:
        """The one counter."""
        family = catalogue.DEVICE_IDLE.family()
        family.add_metric(self._labels, self._idle_seconds())
        yield family


def is_alive(pid: int) -> bool:
    """Whether there is a process of this number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's by now
        return True
    return True
