"""The header of a safetensors file: made, and parsed and checked before the rest is believed.

A file is 8 bytes of header length (little-endian), that many bytes of JSON, then the tensors'
data without gaps. Nothing here trusts the file: it may be truncated, lie, or be something else.
Source: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Protocol

from coldfusion_queue.errors import InvalidTensorFileError
from coldfusion_queue.fusion.dtypes import DTYPE_BYTES, FLOAT_DTYPES

__all__ = [
    "MAX_HEADER_BYTES",
    "ByteSource",
    "TensorInfo",
    "TensorLayout",
    "make_header",
    "read_layout",
]

#: Largest header that is read; one of a model with 100,000 tensors has about 10 MiB.
MAX_HEADER_BYTES = 16 << 20

_LENGTH_BYTES = 8
_ALIGNMENT = 8
_MAX_DIMENSIONS = 64
_METADATA = "__metadata__"


class ByteSource(Protocol):
    """A file whose bytes are read by position: an object in the store, or a local file.

    ``read`` is called from several threads. It returns exactly the bytes that were asked for.
    """

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def num_bytes(self) -> int:
        """Size of the whole file in bytes."""

    def read(self, offset: int, num_bytes: int) -> bytes:
        """The ``num_bytes`` bytes from ``offset``."""


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a file."""

    name: str
    dtype: str
    """A key of ``dtypes.DTYPE_BYTES``."""
    shape: tuple[int, ...]
    start: int
    """Offset of its first byte in the file."""
    end: int
    """Offset after its last byte."""

    @property
    def num_elements(self) -> int:
        """Product of the shape; 1 without dimensions."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class TensorLayout:
    """Where everything is in a file."""

    tensors: Mapping[str, TensorInfo]
    """Name to place, in the order of the data in the file."""
    header: bytes
    """The file's first bytes as they are: length and JSON."""
    metadata: dict[str, str]
    """What the writer noted."""

    @cached_property
    def float_starts(self) -> Mapping[str, int]:
        """Where each float tensor begins among the float elements of all, in the file's order."""
        starts, first = {}, 0
        for tensor in self.tensors.values():
            if tensor.dtype in FLOAT_DTYPES:
                starts[tensor.name] = first
                first += tensor.num_elements
        return MappingProxyType(starts)

    @property
    def num_floats(self) -> int:
        """Elements of all float tensors."""
        return sum(self.tensors[name].num_elements for name in self.float_starts)


def make_header(
    tensors: Iterable[tuple[str, str, Sequence[int]]], metadata: Mapping[str, str]
) -> bytes:
    """What comes before the data of a file, whose tensors follow each other as they are given.

    The safetensors package would sort them by dtype and name; for tensors in that order the bytes
    are the package's.

    Args:
        tensors: name, dtype (a key of ``dtypes.DTYPE_BYTES``) and shape of each.
        metadata: what the writer notes.
    """
    fields: dict[str, object] = {_METADATA: metadata}
    end = 0
    for name, dtype, shape in tensors:
        start, end = end, end + math.prod(shape) * DTYPE_BYTES[dtype]
        fields[name] = {"dtype": dtype, "shape": [*shape], "data_offsets": [start, end]}
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text


def read_layout(source: ByteSource) -> TensorLayout:
    """Read and check the header of a safetensors file; its data is not read.

    Args:
        source: any file, also a hostile one. At most ``MAX_HEADER_BYTES`` of it are read.

    Returns:
        A layout in which every tensor lies within the file, has the size that its shape and
        dtype say, and follows on the one before it without a gap or an overlap.

    Raises:
        InvalidTensorFileError: the file is no such file; says what is wrong with it.
    """
    header = _read_header(source)
    try:
        fields = _parse(header[_LENGTH_BYTES:])
        metadata = _metadata(fields.pop(_METADATA, {}))
        found = [_tensor(name, entry, len(header)) for name, entry in fields.items()]
        found.sort(key=lambda tensor: (tensor.start, tensor.end))
        _check_gapless(found, len(header), source.num_bytes)
    except _HeaderError as error:
        raise InvalidTensorFileError(source.name, str(error)) from error
    tensors = MappingProxyType({tensor.name: tensor for tensor in found})
    return TensorLayout(tensors, header, metadata)


class _HeaderError(ValueError):
    """What is wrong with a header, in words for the message."""


def _read_header(source: ByteSource) -> bytes:
    if source.num_bytes < _LENGTH_BYTES:
        problem = f"it has {source.num_bytes} bytes, too few for a header"
        raise InvalidTensorFileError(source.name, problem)
    prefix = source.read(0, _LENGTH_BYTES)
    num_bytes = int.from_bytes(prefix, "little")
    refused = _length_problem(prefix, num_bytes, source.num_bytes - _LENGTH_BYTES)
    if refused is not None:
        raise InvalidTensorFileError(source.name, refused)
    text = source.read(_LENGTH_BYTES, num_bytes)
    if len(text) != num_bytes:
        problem = f"its header ended after {len(text)} of {num_bytes} bytes"
        raise InvalidTensorFileError(source.name, problem)
    return prefix + text


def _length_problem(prefix: bytes, num_bytes: int, available: int) -> str | None:
    if len(prefix) != _LENGTH_BYTES:
        return f"it ended after {len(prefix)} bytes"
    if prefix.startswith((b"PK\x03\x04", b"\x80")) and num_bytes > MAX_HEADER_BYTES:
        return "it looks like a pickle or a torch.save archive, which is never opened"
    if num_bytes > MAX_HEADER_BYTES:
        return f"its header claims {num_bytes} bytes, more than {MAX_HEADER_BYTES}"
    if num_bytes > available:
        return f"its header claims {num_bytes} bytes, but only {available} follow"
    return None


def _parse(text: bytes) -> dict[str, object]:
    try:
        fields = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    except _HeaderError:
        raise
    except (ValueError, RecursionError) as error:
        raise _HeaderError("its header is not JSON") from error
    if not isinstance(fields, dict):
        raise _HeaderError("its header is no JSON object")
    return fields


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    # json.loads would keep the last of two equal names, another reader might keep the first.
    fields: dict[str, object] = {}
    for name, value in pairs:
        if name in fields:
            raise _HeaderError(f"its header holds {_shown(name)} twice")
        fields[name] = value
    return fields


def _metadata(entry: object) -> dict[str, str]:
    if not isinstance(entry, dict) or not all(isinstance(text, str) for text in entry.values()):
        raise _HeaderError(f"its {_METADATA} does not map names to strings")
    return entry


def _tensor(name: str, entry: object, data_start: int) -> TensorInfo:
    if not name.isprintable():  # also catches half surrogate pairs, which cannot be encoded
        raise _HeaderError(f"the tensor name {_shown(name)} is not printable")
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise _HeaderError(f"tensor {_shown(name)} does not have dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        known = ", ".join(DTYPE_BYTES)
        raise _HeaderError(f"tensor {_shown(name)} has dtype {_shown(dtype)}, not one of {known}")
    if not _are_sizes(shape) or len(shape) > _MAX_DIMENSIONS:
        raise _HeaderError(f"tensor {_shown(name)} has shape {_shown(shape)}")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _HeaderError(f"tensor {_shown(name)} has data_offsets {_shown(offsets)}")
    start, end = (data_start + offset for offset in offsets)
    tensor = TensorInfo(name, dtype, tuple(shape), start, end)
    _check_size(tensor)
    return tensor


def _check_size(tensor: TensorInfo) -> None:
    got = tensor.end - tensor.start
    expected = tensor.num_elements * DTYPE_BYTES[tensor.dtype]
    if got != expected:
        what = f"{tensor.dtype} of shape {tensor.shape}"
        problem = f"tensor {_shown(tensor.name)} has {got} bytes, but {what} takes "
        raise _HeaderError(problem + _shown(expected))


def _check_gapless(tensors: Sequence[TensorInfo], data_start: int, num_bytes: int) -> None:
    expected = data_start
    for tensor in tensors:
        if tensor.start != expected:
            relation = "overlaps" if tensor.start < expected else "leaves a gap after"
            raise _HeaderError(f"tensor {_shown(tensor.name)} {relation} what lies before it")
        expected = tensor.end
    if expected != num_bytes:
        raise _HeaderError(f"it has {num_bytes} bytes, but its tensors end at {expected}")


def _are_sizes(values: object) -> bool:
    """Whether this is a list of whole numbers from 0 up to what a file can hold."""
    return isinstance(values, list) and all(
        type(value) is int and 0 <= value < 1 << 63 for value in values
    )


def _shown(value: object) -> str:
    """The value as messages show it; a hostile one may be megabytes long."""
    text = ascii(value) if not isinstance(value, str) or not value.isprintable() else repr(value)
    return text if len(text) <= 120 else f"{text[:120]}..."
