"""Tensor files in memory, written without the code that is tested."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from safetensors.numpy import load

from coldfusion_queue.fusion.methods import Method, make_method
from coldfusion_queue.fusion.stream import FusionInput, FusionState, ModelFiles, fuse_stream

NAMES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "int64": "I64",
    "int32": "I32",
    "uint8": "U8",
    "bool": "BOOL",
}


@dataclass
class MemorySource:
    """A file in memory that notes what was read of it."""

    name: str
    data: bytes
    reads: list[tuple[int, int]] = field(default_factory=list)

    @property
    def num_bytes(self) -> int:
        return len(self.data)

    def read(self, offset: int, num_bytes: int) -> bytes:
        self.reads.append((offset, offset + num_bytes))
        return self.data[offset : offset + num_bytes]


def with_header(fields: object, data: bytes = b"") -> bytes:
    """A file with any header at all."""
    text = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    return len(text).to_bytes(8, "little") + text + data


def pack(tensors: Mapping[str, tuple[str, Sequence[int], bytes]], metadata: object = None) -> bytes:
    """A file with tensors in the order given, from (dtype, shape, bytes)."""
    fields: dict[str, object] = {} if metadata is None else {"__metadata__": metadata}
    data = b""
    for name, (dtype, shape, content) in tensors.items():
        offsets = [len(data), len(data) + len(content)]
        fields[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": offsets}
        data += content
    return with_header(fields, data)


def file_of(arrays: Mapping[str, np.ndarray]) -> bytes:
    """A file with arrays in the order given."""
    return pack(
        {
            name: (NAMES[str(array.dtype)], array.shape, array.tobytes())
            for name, array in arrays.items()
        }
    )


def bfloat16(values: np.ndarray) -> tuple[str, Sequence[int], bytes]:
    """Numbers that bfloat16 can hold, for ``pack``."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    assert not (bits & 0xFFFF).any(), "not exact in bfloat16"
    return "BF16", values.shape, (bits >> 16).astype(np.uint16).tobytes()


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def contribution(
    contribution_id: str,
    data: bytes,
    coefficient: float = 1.0,
    form: str = "delta",
    own_base: MemorySource | None = None,
    digest: str | None = None,
) -> FusionInput:
    return FusionInput(
        contribution_id,
        MemorySource(f"{contribution_id}.safetensors", data),
        digest or digest_of(data),
        form,  # type: ignore[arg-type]
        coefficient,
        None if own_base is None else ModelFiles.single(own_base, None),
    )


_MEAN = make_method("mean", {})


def fuse_bytes(
    base: bytes,
    inputs: Sequence[FusionInput],
    chunk_bytes: int = 64,
    threads: int = 2,
    method: Method = _MEAN,
    read_ahead_bytes: int | None = None,
    state: FusionState | None = None,
) -> bytes:
    if state is None and method.decay is not None:
        state = FusionState(len)  # nobody keeps it
    source = MemorySource("base.safetensors", base)
    return b"".join(
        fuse_stream(
            source,
            digest_of(base),
            inputs,
            chunk_bytes=chunk_bytes,
            read_ahead_bytes=read_ahead_bytes,
            threads=threads,
            method=method,
            state=state,
        )
    )


def fuse(
    base: bytes, inputs: Sequence[FusionInput], chunk_bytes: int = 64, threads: int = 2
) -> dict[str, np.ndarray]:
    """The fused tensors, read by the safetensors package."""
    return load(fuse_bytes(base, inputs, chunk_bytes, threads))


def model(seed: int, shapes: Mapping[str, Sequence[int]], dtype: str = "float32") -> dict:
    """Distinct numbers around 1 for each shape."""
    generator = np.random.default_rng(seed)
    return {
        name: np.asarray(generator.normal(1.0, 0.5, tuple(shape))).astype(dtype)
        for name, shape in shapes.items()
    }


def expected_mean(
    base: Mapping[str, np.ndarray],
    terms: Sequence[tuple[float, Mapping[str, np.ndarray], Mapping[str, np.ndarray] | None]],
) -> dict[str, np.ndarray]:
    """The oracle: base + sum of coefficient * (values - reference), all in float64."""
    fused = {name: tensor.astype(np.float64) for name, tensor in base.items()}
    for coefficient, values, reference in terms:
        for name in fused:
            delta = values[name].astype(np.float64)
            if reference is not None:
                delta = delta - reference[name].astype(np.float64)
            fused[name] = fused[name] + coefficient * delta
    return fused
