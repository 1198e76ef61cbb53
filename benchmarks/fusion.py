"""How close does a fusion come to the time of reading its bytes once and writing one model?

Contributions of RoBERTa-base's tensors (124 M parameters) in float32, random numbers, in an
embedded S3 server of its own. Each figure is of a fresh process; all parts are run once for each
repetition, one after the other, and the fastest of each counts:

    get     read all bytes that the fusion reads, with the best of several sizes and threads
    put     write one model from memory
    both    these two at the same time, which is what a fusion does
    fuse    the engine, from the store to the store, as contributions are fused that were inspected:
            of the base model the digest is verified, of the others that they are the same objects
    shards  the same with the base model in several files, as a large one is, in one process
    many    the same as fuse with four times as many contributions, for its memory
    digest  the same as fuse, but all digests are verified
    inspect look all contributions over, as it is done when they arrive
    torch   download, load all, add up, save, upload
    mergekit  download, mergekit's ``linear``, upload; if it is installed, see ``make bench-peers``

``ratio_to_floor`` is fuse / (get + put); ``ratio_to_overlapped_floor`` is fuse / both;
``shards_ratio`` is shards / fuse. Then every
method of a fusion, in turn as well; ``method_ratio.<name>`` is its time by that of the mean, and
``method_cpu_ratio.<name>`` the same of the CPU time of the process, which other work disturbs less.
``contribution_bytes_ratio.<dtype>`` is what a worker uploads by the size of the base model.

    python -m benchmarks.fusion
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fusion_parts import (
    MERGEKIT,
    contribution_sizes,
    fuse,
    fuse_with_mergekit,
    fuse_with_torch,
    get_all,
    get_and_put,
    inspect,
    put_one,
    roberta,
    upload_models,
    upload_shards,
)
from benchmarks.isolated import Measured, measure
from benchmarks.reporting import print_report
from coldfusion_queue.fusion.methods import METHODS
from coldfusion_queue.local import embedded_servers
from coldfusion_queue.records import FileRecord
from coldfusion_queue.settings import Settings, load_settings
from coldfusion_queue.store import Store

_MIB = 2**20
#: Sizes and threads to read with, of which the best counts.
_GETS = [(8 * _MIB, 4), (16 * _MIB, 2), (16 * _MIB, 4), (32 * _MIB, 4)]


def run(
    files: list[FileRecord], shards: list[FileRecord], repetitions: int, *, methods: bool
) -> dict[str, Any]:
    """Measure every part, in turn; report the fastest and all of them."""
    base, deltas = files[:1], files[1:]
    number = len(deltas)
    parts: dict[str, list[Measured]] = {}
    by_method: dict[str, list[Measured]] = {}
    best_gets: list[tuple[int, int]] = []
    for repetition in range(repetitions):
        gets = {option: measure(get_all, files, *option) for option in _GETS}
        best_get = min(gets, key=lambda option: gets[option].seconds)
        best_gets.append(best_get)
        found = {
            "get": gets[best_get],
            "put": measure(put_one, files[0].num_bytes),
            "both": measure(get_and_put, files, *best_get),
            "fuse": measure(fuse, base, deltas, number),
            "shards": measure(fuse, shards, deltas, number),
            "many": measure(fuse, base, deltas, 4 * number),
            "digest": measure(fuse, base, deltas, number, "mean", False, True),
            "inspect": measure(inspect, files),
            "torch": measure(fuse_with_torch, files),
        }
        if MERGEKIT.exists():
            found["mergekit"] = measure(fuse_with_mergekit, files)
        _add(repetition, parts, found)
        if methods:
            _add(repetition, by_method, measure_methods(base, deltas))
    return (
        _figures(parts)
        | (_method_figures(by_method) if methods else {})
        | {"best_gets": [{"bytes": size, "threads": threads} for size, threads in best_gets]}
    )


def measure_methods(base: list[FileRecord], deltas: list[FileRecord]) -> dict[str, Measured]:
    """A fusion by every method; those that sort, with unequal weights too."""
    number = len(deltas)
    found = {name: measure(fuse, base, deltas, number, name) for name in METHODS}
    for name in ("median", "trimmed_mean"):
        found[f"{name}_unequal_weights"] = measure(fuse, base, deltas, number, name, True)
    return found


def _add(repetition: int, to: dict[str, list[Measured]], found: Mapping[str, Measured]) -> None:
    for name, measured in found.items():
        to.setdefault(name, []).append(measured)
        print(
            f"{repetition} {name:28} {measured.seconds:6.2f} s, "
            f"CPU {measured.cpu_seconds:6.2f} s, {measured.peak_growth_bytes / _MIB:5.0f} MiB",
            file=sys.stderr,
        )


def _method_figures(methods: Mapping[str, list[Measured]]) -> dict[str, Any]:
    seconds = {name: min(item.seconds for item in each) for name, each in methods.items()}
    cpu = {name: min(item.cpu_seconds for item in each) for name, each in methods.items()}
    growth = {name: max(item.peak_growth_bytes for item in each) for name, each in methods.items()}
    return {
        "method_ratio": {name: round(each / seconds["mean"], 2) for name, each in seconds.items()},
        "method_cpu_ratio": {name: round(each / cpu["mean"], 2) for name, each in cpu.items()},
        "method_seconds": {
            name: [round(item.seconds, 3) for item in each] for name, each in methods.items()
        },
        "method_peak_rss_growth_mb": {name: round(each / 1e6) for name, each in growth.items()},
    }


def _figures(parts: dict[str, list[Measured]]) -> dict[str, Any]:
    seconds = {name: min(item.seconds for item in each) for name, each in parts.items()}
    growth = {name: max(item.peak_growth_bytes for item in each) for name, each in parts.items()}
    peers = {}
    if "mergekit" in seconds:
        peers["speedup_vs_mergekit"] = round(seconds["mergekit"] / seconds["fuse"], 2)
    return peers | {
        "ratio_to_floor": round(seconds["fuse"] / (seconds["get"] + seconds["put"]), 3),
        "ratio_to_floor_digested": round(seconds["digest"] / (seconds["get"] + seconds["put"]), 3),
        "inspect_ratio_to_get": round(seconds["inspect"] / seconds["get"], 3),
        "ratio_to_overlapped_floor": round(seconds["fuse"] / seconds["both"], 3),
        "peak_rss_growth_mb": round(growth["fuse"] / 1e6),
        "shards_ratio": round(seconds["shards"] / seconds["fuse"], 3),
        "shards_peak_rss_growth_mb": round(growth["shards"] / 1e6),
        "peak_rss_growth_mb_many": round(growth["many"] / 1e6),
        "speedup_vs_torch": round(seconds["torch"] / seconds["fuse"], 2),
        "torch_peak_rss_growth_mb": round(growth["torch"] / 1e6),
        "seconds": {
            name: [round(item.seconds, 3) for item in each] for name, each in parts.items()
        },
    }


def settings_with(servers: Mapping[str, str], directory: Path) -> Settings:
    """Settings of the embedded servers, for this process and those that it starts."""
    os.environ.update(servers)
    os.environ["COLDFUSION_HOME"] = str(directory / "home")
    return load_settings()


def main() -> None:
    """Run and print one line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--contributions", type=int, default=8)
    parser.add_argument("--shards", type=int, default=5, help="weight files at most")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a model of 2 M parameters")
    parser.add_argument("--no-methods", action="store_true", help="the mean alone")
    options = parser.parse_args()
    shapes = roberta(2, 128, 8_000) if options.quick else roberta(12, 768, 50_265)
    with tempfile.TemporaryDirectory() as name, embedded_servers(Path(name) / "servers") as servers:
        settings = settings_with(servers, Path(name))
        store = Store.open(settings)
        store.create_bucket()
        files = upload_models(store, shapes, options.contributions)
        shards = upload_shards(store, shapes, options.shards)
        figures = run(files, shards, options.repetitions, methods=not options.no_methods)
        sizes = measure(contribution_sizes, shapes).result
    print_report(
        "fusion",
        ("numpy", "minio", "torch", "safetensors"),
        **figures,
        contribution_bytes_ratio={
            dtype: round(size / sizes["full"], 4) for dtype, size in sizes.items()
        },
        contributions=options.contributions,
        parameters=sum(int(np.prod(shape)) for shape in shapes.values()),
        shards=len(shards),
        repetitions=options.repetitions,
        chunk_bytes=settings.fusion_chunk_bytes,
        read_ahead_bytes=settings.fusion_read_ahead_bytes,
        threads=settings.fusion_threads,
    )


if __name__ == "__main__":
    main()
