"""Low-rank contributions in memory, written without the code that is tested."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from coldfusion_queue.fusion.inspection import UpdateFacts, inspect_update
from coldfusion_queue.fusion.stream import ModelFiles

from .files import MemorySource, contribution, digest_of, file_of, fuse_bytes, model, pack

#: Matrices with and without factors, between tensors that can have none.
SHAPES = {
    "embed": (37, 11),
    "norm": (9,),
    "none": (0, 4),
    "query": (12, 12),
    "wide": (5, 64),
    "cube": (3, 5, 11),
    "scale": (),
}
BUFFER = np.arange(6, dtype=np.int64)
RANKS = {"embed": 3, "query": 2, "wide": 4}

Entry = tuple[str, tuple[int, ...], bytes]


def base_arrays() -> dict[str, np.ndarray]:
    """A base model with integers between its floats."""
    arrays = model(0, SHAPES)
    return {"embed": arrays.pop("embed"), "positions": BUFFER, **arrays}


def pairs(seed: int, scale: float = 0.1) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    generator = np.random.default_rng(seed)

    def factor(*shape: int) -> np.ndarray:
        return (scale * generator.standard_normal(shape)).astype(np.float32)

    return {
        name: (factor(SHAPES[name][0], rank), factor(rank, SHAPES[name][1]))
        for name, rank in RANKS.items()
    }


def entry(array: np.ndarray) -> Entry:
    names = {"float32": "F32", "float16": "F16", "float64": "F64", "int32": "I32"}
    return names[str(array.dtype)], array.shape, array.tobytes()


def entries(factors: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, Entry]:
    return {
        f"{name}/{mark}": entry(array)
        for name, pair in factors.items()
        for mark, array in zip("BA", pair, strict=True)
    }


def low_rank(tensors: Mapping[str, Entry]) -> bytes:
    return pack(tensors, {"low_rank": "factors/1"})


def meant_by(factors: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, np.ndarray]:
    """The delta of every float tensor, in float64."""
    deltas = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    for name, (left, right) in factors.items():
        deltas[name] = left.astype(np.float64) @ right.astype(np.float64)
    return deltas


def as_delta(factors: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> bytes:
    """The same delta as a float32 file, added up as the format says."""
    arrays = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    for name, (left, right) in factors.items():
        for index in range(len(right)):
            arrays[name] += left[:, index : index + 1] * right[index]
    return file_of({**arrays, "positions": BUFFER})


BASE = file_of(base_arrays())
GOOD = low_rank(entries(pairs(1)))


def fuse_low_rank(data: bytes, base: bytes = BASE, chunk_bytes: int = 64) -> bytes:
    return fuse_bytes(base, [contribution("a", data, 0.5, "low_rank")], chunk_bytes)


def inspected(data: bytes, form: str, chunk_bytes: int) -> UpdateFacts:
    base = ModelFiles.single(MemorySource("base", BASE), digest_of(BASE))
    item = contribution("a", data, 1.0, form)
    return inspect_update(item, base, base_norm=1.0, chunk_bytes=chunk_bytes)
