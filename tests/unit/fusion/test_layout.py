from __future__ import annotations

import json
import pickle
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from coldfusion_queue.errors import InvalidTensorFileError
from coldfusion_queue.fusion.layout import MAX_HEADER_BYTES, TensorInfo, read_layout

from .files import MemorySource, file_of, pack, with_header


def entry(dtype: str, shape: list[Any], start: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def test_layout_of_a_file_written_by_safetensors_has_every_tensor_where_its_bytes_are() -> None:
    arrays = {
        "b.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "a.bias": np.arange(3, dtype=np.float64),
        "steps": np.array(7, dtype=np.int64),
        "nothing": np.zeros((0, 4), dtype=np.float16),
    }
    data = save(arrays, metadata={"format": "pt"})

    layout = read_layout(MemorySource("m", data))

    assert layout.tensors.keys() == arrays.keys()
    assert layout.metadata == {"format": "pt"}
    assert data.startswith(layout.header)
    for name, array in arrays.items():
        tensor = layout.tensors[name]
        assert tensor.shape == array.shape
        assert data[tensor.start : tensor.end] == array.tobytes()


def test_tensors_come_in_the_order_of_their_data_whatever_the_order_in_the_header() -> None:
    fields = {"late": entry("U8", [2], 1, 3), "early": entry("U8", [1], 0, 1)}
    data = with_header(fields, b"abc")

    layout = read_layout(MemorySource("m", data))

    start = len(layout.header)
    assert list(layout.tensors.values()) == [
        TensorInfo("early", "U8", (1,), start, start + 1),
        TensorInfo("late", "U8", (2,), start + 1, start + 3),
    ]


def test_only_the_header_of_a_file_is_read() -> None:
    source = MemorySource("m", file_of({"w": np.ones(1000, np.float32)}))

    layout = read_layout(source)

    assert source.reads == [(0, 8), (8, len(layout.header))]


def test_an_empty_model_has_a_layout_without_tensors() -> None:
    assert read_layout(MemorySource("m", with_header({}))).tensors == {}


def test_a_scalar_has_one_element() -> None:
    layout = read_layout(MemorySource("m", file_of({"s": np.float32(3).reshape(())})))
    assert layout.tensors["s"].shape == ()
    assert layout.tensors["s"].num_elements == 1


GOOD = pack({"a": ("U8", [2], b"xy"), "b": ("F32", [1], b"1234")})

HOSTILE = [
    pytest.param(b"", "0 bytes, too few", id="nothing at all"),
    pytest.param(b"1234567", "7 bytes, too few", id="less than a header length"),
    pytest.param(GOOD[:20], "only 12 follow", id="cut off within the header"),
    pytest.param(GOOD[:-1], "its tensors end at", id="cut off within the data"),
    pytest.param(GOOD + b"!", "its tensors end at", id="bytes after the last tensor"),
    pytest.param(
        (100 << 20).to_bytes(8, "little") + b"{", "more than 16777216", id="100 MB header"
    ),
    pytest.param(b"\xff" * 64, "claims 18446744073709551615", id="largest header length"),
    pytest.param(pickle.dumps({"w": [1.0] * 50}), "pickle", id="pickle renamed"),
    pytest.param(b"PK\x03\x04" + bytes(60), "torch.save archive", id="torch.save archive renamed"),
    pytest.param(with_header(b"not json"), "is not JSON", id="no JSON"),
    pytest.param(with_header(b"\xff\xfe{}"), "is not JSON", id="no UTF-8"),
    pytest.param(with_header(b"[" * 100_000), "is not JSON", id="JSON nested too deeply"),
    pytest.param(with_header(b"1" * 5000), "is not JSON", id="a number of 5000 digits"),
    pytest.param(with_header([]), "no JSON object", id="a JSON list"),
    pytest.param(with_header({"__metadata__": {"a": 1}}), "__metadata__", id="metadata number"),
    pytest.param(with_header({"__metadata__": "x"}), "__metadata__", id="metadata string"),
    pytest.param(with_header({"w": 3}), "tensor 'w' does not have dtype", id="tensor a number"),
    pytest.param(with_header({"w": {"dtype": "F32"}}), "does not have", id="fields missing"),
    pytest.param(
        with_header({"w": entry("F8_E4M3", [1], 0, 1)}, b"x"), "dtype 'F8_E4M3'", id="float8"
    ),
    pytest.param(with_header({"w": entry("C64", [1], 0, 8)}, bytes(8)), "'C64'", id="complex"),
    pytest.param(with_header({"w": entry(["F32"], [1], 0, 4)}, bytes(4)), "dtype", id="dtype list"),  # type: ignore[arg-type]
    pytest.param(with_header({"w": entry("U8", [-1], 0, 1)}, b"x"), "shape", id="negative size"),
    pytest.param(with_header({"w": entry("U8", [1.0], 0, 1)}, b"x"), "shape", id="size 1.0"),
    pytest.param(with_header({"w": entry("U8", [True], 0, 1)}, b"x"), "shape", id="size true"),
    pytest.param(with_header({"w": entry("U8", [1] * 65, 0, 1)}, b"x"), "shape", id="65 dims"),
    pytest.param(with_header({"w": entry("F32", [2], 0, 4)}, bytes(4)), "takes 8", id="too small"),
    pytest.param(with_header({"w": entry("F32", [1], 0, 8)}, bytes(8)), "takes 4", id="too large"),
    pytest.param(
        with_header({"w": entry("F32", [2**62] * 64, 0, 4)}, bytes(4)), "has 4 bytes", id="overflow"
    ),
    pytest.param(with_header({"w": entry("U8", [1], 1, 0)}, b"x"), "data_offsets", id="backwards"),
    pytest.param(with_header({"w": entry("U8", [1], -1, 0)}, b"x"), "data_offsets", id="negative"),
    pytest.param(
        with_header({"w": entry("U8", [4], 0, 4)}, b"x"), "its tensors end at", id="out of range"
    ),
    pytest.param(
        with_header({"a": entry("U8", [2], 0, 2), "b": entry("U8", [2], 1, 3)}, b"xyz"),
        "tensor 'b' overlaps",
        id="overlap",
    ),
    pytest.param(
        with_header({"a": entry("U8", [2], 0, 2), "b": entry("U8", [2], 0, 2)}, b"xy"),
        "tensor 'b' overlaps",
        id="two names for the same bytes",
    ),
    pytest.param(
        with_header({"a": entry("U8", [1], 0, 1), "b": entry("U8", [1], 2, 3)}, b"xyz"),
        "tensor 'b' leaves a gap",
        id="hole",
    ),
    pytest.param(
        with_header({"a": entry("U8", [1], 1, 2)}, b"xy"), "leaves a gap", id="hole at the start"
    ),
    pytest.param(
        with_header(
            b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
            b'"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
            b"x",
        ),
        "'a' twice",
        id="duplicate name",
    ),
    pytest.param(
        with_header({"\ud800": entry("U8", [1], 0, 1)}, b"x"), "not printable", id="half surrogate"
    ),
    pytest.param(
        with_header({"a\nb": entry("U8", [1], 0, 1)}, b"x"), "not printable", id="line break"
    ),
]


@pytest.mark.parametrize(("data", "problem"), HOSTILE)
def test_a_file_that_does_not_hold_together_is_refused(data: bytes, problem: str) -> None:
    with pytest.raises(InvalidTensorFileError) as caught:
        read_layout(MemorySource("suspect.safetensors", data))

    assert problem in str(caught.value)
    assert "suspect.safetensors" in str(caught.value)
    assert len(str(caught.value)) < 4000


@pytest.mark.parametrize("data", [case.values[0] for case in HOSTILE])
def test_refusing_a_file_reads_no_more_than_a_header(data: Any) -> None:
    source = MemorySource("m", data)

    with pytest.raises(InvalidTensorFileError):
        read_layout(source)

    assert all(end <= 8 + MAX_HEADER_BYTES for _, end in source.reads)


def test_a_source_that_gives_fewer_bytes_than_it_announced_is_refused() -> None:
    class Short(MemorySource):
        @property
        def num_bytes(self) -> int:
            return len(self.data) + 1000

    for length in (4, 20):
        with pytest.raises(InvalidTensorFileError, match="ended after"):
            read_layout(Short("m", GOOD[:length]))


def test_a_long_name_does_not_make_a_long_message() -> None:
    data = with_header({"w" * 100_000: 3})
    with pytest.raises(InvalidTensorFileError) as caught:
        read_layout(MemorySource("m", data))
    assert len(str(caught.value)) < 400


def test_a_header_padded_with_blanks_is_kept_as_it_is() -> None:
    text = json.dumps({"w": entry("U8", [1], 0, 1)}).encode().ljust(256)
    layout = read_layout(MemorySource("m", with_header(text, b"x")))
    assert layout.header == len(text).to_bytes(8, "little") + text
