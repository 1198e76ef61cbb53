from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coldfusion_queue.errors import UsageError
from coldfusion_queue.fusion.chunks import (
    Chunk,
    Piece,
    Run,
    Span,
    is_in_order,
    plan_chunks,
    plan_read,
)
from coldfusion_queue.fusion.dtypes import DTYPE_BYTES
from coldfusion_queue.fusion.layout import TensorLayout, read_layout

from .files import MemorySource, file_of, pack


def layout_of(arrays: dict[str, np.ndarray]) -> TensorLayout:
    return read_layout(MemorySource("m", file_of(arrays)))


def zeros(**sizes: int) -> dict[str, np.ndarray]:
    return {name: np.zeros(size, np.float32) for name, size in sizes.items()}


def test_a_large_tensor_is_cut_and_small_ones_share_a_chunk() -> None:
    chunks = plan_chunks(layout_of(zeros(a=1, b=5, c=2)), chunk_bytes=16)

    assert chunks == (
        Chunk((Run("F32", (Piece("a", 0, 1), Piece("b", 0, 3))),)),
        Chunk((Run("F32", (Piece("b", 3, 2), Piece("c", 0, 2))),)),
    )


def test_a_change_of_dtype_begins_a_new_run_in_the_same_chunk() -> None:
    arrays = zeros(a=1) | {"n": np.zeros(1, np.int64)} | zeros(b=1)

    (chunk,) = plan_chunks(layout_of(arrays), chunk_bytes=64)

    assert [run.dtype for run in chunk.runs] == ["F32", "I64", "F32"]


def test_empty_tensors_are_in_no_chunk_and_a_model_without_data_has_one_empty_chunk() -> None:
    assert plan_chunks(layout_of(zeros(a=0, b=0)), chunk_bytes=8) == (Chunk(()),)
    (chunk,) = plan_chunks(layout_of(zeros(a=0, b=1, c=0)), chunk_bytes=8)
    assert chunk.runs == (Run("F32", (Piece("b", 0, 1),)),)


def test_a_chunk_size_that_is_filled_exactly_leaves_no_empty_chunk_behind() -> None:
    first, second = plan_chunks(layout_of(zeros(a=3, b=1, c=4)), chunk_bytes=16)
    assert [piece.tensor for piece in first.runs[0].pieces] == ["a", "b"]
    assert [piece.tensor for piece in second.runs[0].pieces] == ["c"]


def test_a_chunk_that_does_not_hold_one_element_is_refused() -> None:
    with pytest.raises(UsageError, match="7"):
        plan_chunks(layout_of(zeros(a=1)), chunk_bytes=7)


def test_a_run_knows_which_tensor_each_element_belongs_to() -> None:
    run = Run("F32", (Piece("a", 4, 2), Piece("b", 0, 1)))
    assert [run.tensor_at(element) for element in range(3)] == ["a", "a", "b"]
    with pytest.raises(UsageError):
        run.tensor_at(3)


def test_a_file_in_the_same_order_is_read_in_one_range_per_chunk() -> None:
    base = layout_of(zeros(a=1, b=5, c=2))
    first, second = plan_chunks(base, chunk_bytes=16)
    start = len(base.header)

    assert plan_read(base, first).ranges == ((start, start + 16),)
    assert plan_read(base, first).spans == ((Span("F32", 0, 4),),)
    assert plan_read(base, second).ranges == ((start + 16, start + 32),)


def test_a_file_in_the_opposite_order_is_still_read_in_one_range_when_it_can_be() -> None:
    base, other = layout_of(zeros(a=1, b=2)), layout_of(zeros(b=2, a=1))
    (chunk,) = plan_chunks(base, chunk_bytes=64)
    start = len(other.header)

    plan = plan_read(other, chunk)

    assert plan.ranges == ((start, start + 12),)
    assert plan.spans == ((Span("F32", 8, 1), Span("F32", 0, 2)),)


def test_bytes_that_lie_apart_are_read_in_separate_ranges() -> None:
    base, other = layout_of(zeros(a=2, b=2, c=2)), layout_of(zeros(a=2, c=2, b=2))
    first = plan_chunks(base, chunk_bytes=16)[0]
    start = len(other.header)

    assert plan_read(other, first).ranges == ((start, start + 8), (start + 16, start + 24))


def test_a_wider_dtype_has_proportionally_longer_ranges() -> None:
    base = layout_of(zeros(a=3))
    wide = layout_of({"a": np.zeros(3, np.float64)})
    second = plan_chunks(base, chunk_bytes=8)[1]
    start = len(wide.header)

    assert plan_read(wide, second).ranges == ((start + 16, start + 24),)


def test_elements_of_different_dtypes_side_by_side_are_told_apart() -> None:
    base = layout_of(zeros(a=2, b=3, c=1))
    mixed = layout_of(
        {
            "a": np.zeros(2, np.float16),
            "b": np.zeros(3, np.float64),
            "c": np.zeros(1, np.float64),
        }
    )
    (chunk,) = plan_chunks(base, chunk_bytes=64)

    assert plan_read(mixed, chunk).spans == ((Span("F16", 0, 2), Span("F64", 4, 4)),)


def test_order_is_judged_without_the_tensors_that_have_no_bytes() -> None:
    base = layout_of(zeros(a=1, nothing=0, b=1))
    assert is_in_order(layout_of(zeros(nothing=0, a=1, b=1)), base)
    assert not is_in_order(layout_of(zeros(b=1, a=1, nothing=0)), base)


tensors = st.lists(
    st.tuples(st.sampled_from(["F64", "F32", "F16", "I64", "U8"]), st.integers(0, 9)), max_size=8
)


@settings(deadline=None)
@given(tensors, st.integers(8, 80), st.randoms())
def test_chunks_of_any_model_read_every_byte_of_any_order_of_it_once(
    shapes: list[tuple[str, int]], chunk_bytes: int, random: object
) -> None:
    content = {
        f"t{index}": (dtype, [size], bytes(size * DTYPE_BYTES[dtype]))
        for index, (dtype, size) in enumerate(shapes)
    }
    names = list(content)
    random.shuffle(names)  # type: ignore[attr-defined]
    base = read_layout(MemorySource("base", pack(content)))
    shuffled = pack({name: content[name] for name in names})
    other = read_layout(MemorySource("other", shuffled))

    chunks = plan_chunks(base, chunk_bytes)
    own = [plan_read(base, chunk) for chunk in chunks]
    plans = [plan_read(other, chunk) for chunk in chunks]

    # Then the base model is read from beginning to end
    end = len(base.header)
    for plan in own:
        assert plan.num_bytes <= chunk_bytes
        for start, stop in plan.ranges:
            assert start == end
            end = stop
        assert all(len(spans) == 1 for spans in plan.spans)
    assert end == len(pack(content))
    # And the other file in ranges that are ascending, apart and together everything
    seen: list[int] = []
    for plan in plans:
        gaps = [after[0] - before[1] for before, after in pairwise(plan.ranges)]
        assert all(gap > 0 for gap in gaps)
        seen += [byte for start, stop in plan.ranges for byte in range(start, stop)]
    assert sorted(seen) == list(range(len(other.header), len(shuffled)))
