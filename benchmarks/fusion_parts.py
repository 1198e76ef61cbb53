"""What ``benchmarks.fusion`` measures: each function is run in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from coldfusion_queue.fusion.inspection import inspect_update
from coldfusion_queue.fusion.methods import make_method
from coldfusion_queue.fusion.model_reader import ModelFiles
from coldfusion_queue.fusion.momentum import FusionState
from coldfusion_queue.fusion.stream import Fusion, FusionInput
from coldfusion_queue.records import ContributionForm, FileRecord
from coldfusion_queue.repository.source import ObjectSource
from coldfusion_queue.settings import load_settings
from coldfusion_queue.store import Store

__all__ = [
    "MERGEKIT",
    "contribution_sizes",
    "fuse",
    "fuse_with_mergekit",
    "fuse_with_torch",
    "get_all",
    "get_and_put",
    "inspect",
    "put_one",
    "roberta",
    "upload_models",
    "upload_shards",
]

_MIB = 2**20
_OUTPUT = "bench/output"
_STATE = "bench/state"
#: Where ``make bench-peers`` installs it.
MERGEKIT = Path(os.environ.get("PEERS_BIN", ".venv-peers/bin")) / "mergekit-pytorch"
_OFFLINE = {"HF_HUB_OFFLINE": "1"}


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
    return [
        store.put_stream(f"bench/model-{seed}", [save(_tensors(shapes, seed))])
        for seed in range(number + 1)
    ]


def upload_shards(
    store: Store, shapes: dict[str, tuple[int, ...]], number: int
) -> list[FileRecord]:
    """The base model in ``number`` files at most, which follow the order of its one file."""
    tensors = dict(sorted(_tensors(shapes, 0).items()))
    shards: list[dict[str, NDArray[np.float32]]] = [{} for _ in range(number)]
    num_bytes, begin = sum(tensor.nbytes for tensor in tensors.values()), 0
    for name, tensor in tensors.items():
        shards[begin * number // num_bytes][name] = tensor
        begin += tensor.nbytes
    return [
        store.put_stream(f"bench/shard-{index}", [save(shard)])
        for index, shard in enumerate(shards)
        if shard
    ]


def _tensors(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, NDArray[np.float32]]:
    """A base model of seed 0, and of every other seed a delta to it."""
    generator = np.random.default_rng(seed)
    scale = np.float32(0.001 if seed else 0.05)
    return {
        name: generator.standard_normal(shape, np.float32) * scale for name, shape in shapes.items()
    }


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
    base: list[FileRecord],
    deltas: list[FileRecord],
    number: int,
    method: str = "mean",
    is_weighted: bool = False,
    is_digested: bool = False,
    form: ContributionForm = "delta",
) -> None:
    """The engine, from the store to the store; contributions are used several times if need be.

    Args:
        base: the files of the base model.
        deltas: of contributions.
        number: how many contributions are fused.
        method: with the policy's defaults.
        is_weighted: weights as of contributions with a staleness of 0, 1, 2 and so on.
        is_digested: verify all digests, as if no contribution had been inspected.
        form: of the contributions.
    """
    settings = load_settings()
    weights = [(1 + index) ** -0.5 if is_weighted else 1.0 for index in range(number)]
    store = Store.open(settings)
    inputs = [
        _input(
            store,
            f"c{index:03}",
            deltas[index % len(deltas)],
            weight / sum(weights),
            is_digested,
            form,
        )
        for index, weight in enumerate(weights)
    ]
    chosen = make_method(method, {})
    sources = tuple(ObjectSource(store, file) for file in base)
    fusion = Fusion(
        ModelFiles(sources, tuple(file.digest for file in base)),
        inputs,
        chunk_bytes=settings.fusion_chunk_bytes,
        read_ahead_bytes=settings.fusion_read_ahead_bytes,
        threads=settings.fusion_threads,
        method=chosen,
    )
    combination = fusion.combination()
    num_outputs = 1 if chosen.decay is None else 2
    for index, file in enumerate(base):
        with (
            store.open_upload(f"{_STATE}-{index}", num_at_once=num_outputs) as state,
            store.open_upload(f"{_OUTPUT}-{index}", num_at_once=num_outputs) as model,
        ):
            # The base model is as long as a state, and to be read a second time.
            before = FusionState(state.write, sources[index], file.digest)
            last = None if chosen.decay is None else before
            for part in fusion.fuse(index, last, combination):
                model.write(part)
            model.finish()
            if last is not None:
                state.finish()


def _input(
    store: Store,
    name: str,
    file: FileRecord,
    coefficient: float,
    is_digested: bool,
    form: ContributionForm = "delta",
) -> FusionInput:
    found = None if is_digested else store.stat(file.key)
    return FusionInput(
        contribution_id=name,
        source=ObjectSource(store, file, found.stamp if found else None),
        digest=file.digest if is_digested else None,
        form=form,
        coefficient=coefficient,
    )


def inspect(files: list[FileRecord]) -> None:
    """Look contributions over, four at a time; the base model is read along with the first."""
    store, base = Store.open(load_settings()), files[0]

    def look(file: FileRecord, base_norm: float | None) -> float:
        item = _input(store, "c", file, 1.0, is_digested=True)
        model = ModelFiles.single(ObjectSource(store, base), base.digest)
        facts = inspect_update(item, model, base_norm=base_norm, chunk_bytes=8 * _MIB)
        return facts.base_norm

    base_norm = look(files[1], None)
    with ThreadPoolExecutor(4) as pool:
        for _ in pool.map(lambda file: look(file, base_norm), files[2:]):
            pass


def contribution_sizes(shapes: dict[str, tuple[int, ...]]) -> dict[str, int]:
    """Bytes of what a worker writes for a model of these shapes, by ``contribution_dtype``."""
    from safetensors.torch import save_file
    from torch import zeros

    from coldfusion_queue.finetune.files import save_shared
    from coldfusion_queue.finetune.quantising import save_quantised

    with tempfile.TemporaryDirectory() as name:
        base_dir, path = Path(name) / "base", Path(name) / "shared"
        base_dir.mkdir()
        parameters = {key: zeros(shape) for key, shape in shapes.items()}
        save_file(parameters, base_dir / "model.safetensors")
        sizes = {"full": (base_dir / "model.safetensors").stat().st_size}
        for dtype in ("float32", "bfloat16", "float16"):
            save_shared(parameters, base_dir, "delta", path, dtype=dtype)
            sizes[dtype] = path.stat().st_size
        save_quantised(parameters, base_dir, path)
        return sizes | {"quantised": path.stat().st_size}


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
