"""How close does a fusion come to the time of reading its bytes once and writing one model?

Contributions of RoBERTa-base's tensors (124 M parameters) in float32, random numbers, in an
embedded S3 server of its own. Each figure is of a fresh process; all parts are run once for each
repetition, one after the other, and the fastest of each counts:

    get     read all bytes that the fusion reads, with the best of several sizes and threads
    put     write one model from memory
    both    these two at the same time, which is what a fusion does
    fuse    the engine, from the store to the store, as contributions are fused that were inspected:
            of the base model the digest is verified, of the others that they are the same objects
    many    the same with four times as many contributions, for its memory
    digest  the same as fuse, but all digests are verified
    inspect look all contributions over, as it is done when they arrive
    torch   download, load all, add up, save, upload
    mergekit  download, mergekit's ``linear``, upload; if it is installed, see ``make bench-peers``

``ratio_to_floor`` is fuse / (get + put); ``ratio_to_overlapped_floor`` is fuse / both. Then every
method of a fusion, in turn as well; ``method_ratio.<name>`` is its time by that of the mean, and
``method_cpu_ratio.<name>`` the same of the CPU time of the process, which other work disturbs less.

    python -m benchmarks.fusion
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from benchmarks.isolated import Measured, measure
from benchmarks.reporting import print_report
from coldfusion_queue.fusion.inspection import inspect_update
from coldfusion_queue.fusion.methods import METHODS, make_method
from coldfusion_queue.fusion.momentum import FusionState
from coldfusion_queue.fusion.stream import FusionInput, fuse_stream
from coldfusion_queue.local import embedded_servers
from coldfusion_queue.records import FileRecord
from coldfusion_queue.repository.source import ObjectSource
from coldfusion_queue.settings import Settings, load_settings
from coldfusion_queue.store import Store

_MIB = 2**20
_OUTPUT = "bench/output"
_STATE = "bench/state"
#: Where ``make bench-peers`` installs it.
MERGEKIT = Path(os.environ.get("PEERS_BIN", ".venv-peers/bin")) / "mergekit-pytorch"
_OFFLINE = {"HF_HUB_OFFLINE": "1"}
_GETS = [(8 * _MIB, 4), (16 * _MIB, 2), (16 * _MIB, 4), (32 * _MIB, 4)]


def roberta(layers: int, hidden: int, vocabulary: int) -> dict[str, tuple[int, ...]]:
    """Shapes as in a RoBERTa encoder."""
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (vocabulary, hidden),
        "embeddings.position_embeddings.weight": (514, hidden),
        "embeddings.LayerNorm.weight": (hidden,),
        "embeddings.LayerNorm.bias": (hidden,),
    }
    for layer in range(layers):
        prefix = f"encoder.layer.{layer}."
        square = ("query", "key", "value", "attention.output")
        sizes = dict.fromkeys(square, (hidden, hidden))
        sizes |= {"intermediate": (4 * hidden, hidden), "output": (hidden, 4 * hidden)}
        for name, size in sizes.items():
            shapes[f"{prefix}{name}.weight"] = size
            shapes[f"{prefix}{name}.bias"] = size[:1]
    return shapes


def upload_models(
    store: Store, shapes: dict[str, tuple[int, ...]], number: int
) -> list[FileRecord]:
    """The base model and ``number`` deltas of distinct random numbers."""
    files = []
    for seed in range(number + 1):
        generator = np.random.default_rng(seed)
        scale = np.float32(0.001 if seed else 0.05)
        tensors = {
            name: generator.standard_normal(shape, np.float32) * scale
            for name, shape in shapes.items()
        }
        files.append(store.put_stream(f"bench/model-{seed}", [save(tensors)]))
    return files


def get_all(files: list[FileRecord], part_bytes: int, threads: int) -> None:
    """Read every byte once."""
    store = Store.open(load_settings())
    jobs = [
        (file, offset)
        for offset in range(0, files[0].num_bytes, part_bytes)
        for file in files
        if offset < file.num_bytes
    ]

    def read(job: tuple[FileRecord, int]) -> None:
        file, offset = job
        store.read_range(file.key, offset, min(part_bytes, file.num_bytes - offset))

    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(read, jobs):
            pass


def put_one(num_bytes: int) -> None:
    """Write as many bytes as a model has, from memory."""
    piece = memoryview(os.urandom(_MIB))
    sizes = [min(_MIB, num_bytes - start) for start in range(0, num_bytes, _MIB)]
    Store.open(load_settings()).put_stream(_OUTPUT, (piece[:size] for size in sizes))


def get_and_put(files: list[FileRecord], part_bytes: int, threads: int) -> None:
    """Both at the same time."""
    with ThreadPoolExecutor(1) as pool:
        putting = pool.submit(put_one, files[0].num_bytes)
        get_all(files, part_bytes, threads)
        putting.result()


def fuse(
    files: list[FileRecord],
    number: int,
    method: str = "mean",
    is_weighted: bool = False,
    is_digested: bool = False,
) -> None:
    """The engine, from the store to the store; contributions are used several times if need be.

    Args:
        files: the base model and deltas.
        number: how many contributions are fused.
        method: with the policy's defaults.
        is_weighted: weights as of contributions with a staleness of 0, 1, 2 and so on.
        is_digested: verify all digests, as if no contribution had been inspected.
    """
    settings = load_settings()
    weights = [(1 + index) ** -0.5 if is_weighted else 1.0 for index in range(number)]
    store = Store.open(settings)
    base, deltas = files[0], files[1:]
    inputs = [
        _input(
            store, f"c{index:03}", deltas[index % len(deltas)], weight / sum(weights), is_digested
        )
        for index, weight in enumerate(weights)
    ]
    chosen = make_method(method, {})
    num_outputs = 1 if chosen.decay is None else 2
    with (
        store.open_upload(_STATE, num_at_once=num_outputs) as state,
        store.open_upload(_OUTPUT, num_at_once=num_outputs) as model,
    ):
        # The base model is as long as a state, and to be read a second time.
        before = FusionState(state.write, ObjectSource(store, base), base.digest)
        for part in fuse_stream(
            ObjectSource(store, base),
            base.digest,
            inputs,
            chunk_bytes=settings.fusion_chunk_bytes,
            read_ahead_bytes=settings.fusion_read_ahead_bytes,
            threads=settings.fusion_threads,
            method=chosen,
            state=None if chosen.decay is None else before,
        ):
            model.write(part)
        model.finish()
        if chosen.decay is not None:
            state.finish()


def _input(
    store: Store, name: str, file: FileRecord, coefficient: float, is_digested: bool
) -> FusionInput:
    found = None if is_digested else store.stat(file.key)
    return FusionInput(
        contribution_id=name,
        source=ObjectSource(store, file, found.stamp if found else None),
        digest=file.digest if is_digested else None,
        form="delta",
        coefficient=coefficient,
    )


def inspect(files: list[FileRecord]) -> None:
    """Look contributions over, four at a time; the base model is read along with the first."""
    store, base = Store.open(load_settings()), files[0]

    def look(file: FileRecord, base_norm: float | None) -> float:
        item = _input(store, "c", file, 1.0, is_digested=True)
        source = ObjectSource(store, base)
        facts = inspect_update(item, source, base.digest, base_norm=base_norm, chunk_bytes=9 * _MIB)
        return facts.base_norm

    base_norm = look(files[1], None)
    with ThreadPoolExecutor(4) as pool:
        for _ in pool.map(lambda file: look(file, base_norm), files[2:]):
            pass


def fuse_with_mergekit(files: list[FileRecord]) -> None:
    """The peer's own program on files of this machine; it adds up models, not deltas."""
    store = Store.open(load_settings())
    with tempfile.TemporaryDirectory() as directory:
        paths = [Path(directory) / f"{index}.safetensors" for index in range(1, len(files))]
        for file, path in zip(files[1:], paths, strict=True):
            store.download(file, path)
        models = [{"model": str(path), "parameters": {"weight": 1.0}} for path in paths]
        merge = {"merge_method": "linear", "models": models, "dtype": "float32"}
        config, output = Path(directory) / "merge.yaml", Path(directory) / "output"
        config.write_text(json.dumps(merge), encoding="utf-8")  # which is YAML too
        command = [str(MERGEKIT), str(config), str(output), "--lazy-unpickle"]
        subprocess.run(command, check=True, capture_output=True, env=_OFFLINE | os.environ)
        (fused,) = output.glob("*.safetensors")
        store.put_file(_OUTPUT, fused)


def fuse_with_torch(files: list[FileRecord]) -> None:
    """What one would write in a hurry: everything on disk, then everything in memory."""
    import torch
    from safetensors.torch import load_file, save_file

    store = Store.open(load_settings())
    with tempfile.TemporaryDirectory() as directory:
        paths = [Path(directory) / f"{index}.safetensors" for index in range(len(files))]
        for file, path in zip(files, paths, strict=True):
            store.download(file, path)
        base, *deltas = [load_file(path) for path in paths]
        fused = {
            name: tensor + torch.stack([delta[name] for delta in deltas]).mean(0)
            for name, tensor in base.items()
        }
        save_file(fused, Path(directory) / "fused.safetensors")
        store.put_file(_OUTPUT, Path(directory) / "fused.safetensors")


def run(files: list[FileRecord], repetitions: int, *, methods: bool) -> dict[str, Any]:
    """Measure every part, in turn; report the fastest and all of them."""
    number = len(files) - 1
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
            "fuse": measure(fuse, files, number),
            "many": measure(fuse, files, 4 * number),
            "digest": measure(fuse, files, number, "mean", False, True),
            "inspect": measure(inspect, files),
            "torch": measure(fuse_with_torch, files),
        }
        if MERGEKIT.exists():
            found["mergekit"] = measure(fuse_with_mergekit, files)
        _add(repetition, parts, found)
        if methods:
            _add(repetition, by_method, measure_methods(files, number))
    return (
        _figures(parts)
        | (_method_figures(by_method) if methods else {})
        | {"best_gets": [{"bytes": size, "threads": threads} for size, threads in best_gets]}
    )


def measure_methods(files: list[FileRecord], number: int) -> dict[str, Measured]:
    """A fusion by every method; those that sort, with unequal weights too."""
    found = {name: measure(fuse, files, number, name) for name in METHODS}
    for name in ("median", "trimmed_mean"):
        found[f"{name}_unequal_weights"] = measure(fuse, files, number, name, True)
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
        figures = run(files, options.repetitions, methods=not options.no_methods)
    print_report(
        "fusion",
        ("numpy", "minio", "torch", "safetensors"),
        **figures,
        contributions=options.contributions,
        parameters=sum(int(np.prod(shape)) for shape in shapes.values()),
        repetitions=options.repetitions,
        chunk_bytes=settings.fusion_chunk_bytes,
        read_ahead_bytes=settings.fusion_read_ahead_bytes,
        threads=settings.fusion_threads,
    )


if __name__ == "__main__":
    main()
