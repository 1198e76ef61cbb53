"""What do low-rank contributions save in bytes, and what do they cost a fusion?

Contributions of RoBERTa-base's tensors (124 M parameters): deltas in float32, and factors of each
matrix of its layers, random numbers, in an embedded S3 server of its own. Each figure is of a fresh
process; all parts are run once for each repetition, one after the other, and the fastest of each
counts:

    float32       a fusion of deltas, as ``benchmarks.fusion`` measures it
    rank <r>      the same of as many contributions of factors

``bytes_ratio.<r>`` is the size of a contribution by that of a float32 delta, ``seconds_ratio.<r>``
and ``cpu_ratio.<r>`` the time of the fusion and the CPU time of its process by those for float32.

    python -m benchmarks.low_rank
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from benchmarks.fusion import settings_with
from benchmarks.fusion_parts import fuse, roberta, upload_models
from benchmarks.isolated import Measured, measure
from benchmarks.reporting import print_report
from coldfusion_queue.fusion.low_rank_file import METADATA, factor_names
from coldfusion_queue.local import embedded_servers
from coldfusion_queue.records import FileRecord
from coldfusion_queue.store import Store


def upload_factors(
    store: Store, shapes: dict[str, tuple[int, ...]], number: int, rank: int
) -> list[FileRecord]:
    """Factors of distinct random numbers for every matrix but the embeddings."""
    found = []
    for seed in range(1, number + 1):
        generator = np.random.default_rng(seed)
        tensors = {}
        for name, shape in shapes.items():
            if len(shape) == 2 and not name.startswith("embeddings"):
                left, right = factor_names(name)
                tensors[left] = generator.standard_normal((shape[0], rank), np.float32) * 0.03
                tensors[right] = generator.standard_normal((rank, shape[1]), np.float32) * 0.03
        data = save(tensors, metadata=dict(METADATA))
        found.append(store.put_stream(f"bench/rank-{rank}-{seed}", [data]))
    return found


def run(files: dict[str, list[FileRecord]], repetitions: int) -> dict[str, list[Measured]]:
    """Measure every fusion, in turn; ``files`` begins with the base model and the deltas."""
    base = files["float32"][:1]
    parts: dict[str, list[Measured]] = {name: [] for name in files}
    for repetition in range(repetitions):
        for name, each in files.items():
            deltas = each[1:] if name == "float32" else each
            form = "delta" if name == "float32" else "low_rank"
            measured = measure(fuse, base, deltas, len(deltas), "mean", False, False, form)
            parts[name].append(measured)
            print(
                f"{repetition} {name:10} {measured.seconds:6.2f} s, "
                f"CPU {measured.cpu_seconds:6.2f} s, {measured.peak_growth_bytes / 2**20:5.0f} MiB",
                file=sys.stderr,
            )
    return parts


def main() -> None:
    """Run and print one line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--contributions", type=int, default=8)
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a model of 2 M parameters")
    options = parser.parse_args()
    shapes = roberta(2, 128, 8_000) if options.quick else roberta(12, 768, 50_265)
    with tempfile.TemporaryDirectory() as name, embedded_servers(Path(name) / "servers") as servers:
        store = Store.open(settings_with(servers, Path(name)))
        store.create_bucket()
        files = {"float32": upload_models(store, shapes, options.contributions)}
        for rank in options.ranks:
            files[str(rank)] = upload_factors(store, shapes, options.contributions, rank)
        parts = run(files, options.repetitions)
    seconds = {name: min(item.seconds for item in each) for name, each in parts.items()}
    cpu = {name: min(item.cpu_seconds for item in each) for name, each in parts.items()}
    size = {name: each[-1].num_bytes for name, each in files.items()}
    ranks = [str(rank) for rank in options.ranks]
    print_report(
        "low_rank",
        ("numpy", "minio"),
        bytes_ratio={rank: round(size[rank] / size["float32"], 4) for rank in ranks},
        seconds_ratio={rank: round(seconds[rank] / seconds["float32"], 3) for rank in ranks},
        cpu_ratio={rank: round(cpu[rank] / cpu["float32"], 3) for rank in ranks},
        seconds={name: [round(item.seconds, 3) for item in each] for name, each in parts.items()},
        peak_rss_growth_mb={
            name: round(max(item.peak_growth_bytes for item in each) / 1e6)
            for name, each in parts.items()
        },
        contributions=options.contributions,
        parameters=sum(int(np.prod(shape)) for shape in shapes.values()),
        repetitions=options.repetitions,
    )


if __name__ == "__main__":
    main()
