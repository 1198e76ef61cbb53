"""How large a chunk may be, so that many files fit into memory."""

from __future__ import annotations

import pytest

from coldfusion_queue.fusion.read_ahead import share_of

MIB = 1 << 20


@pytest.mark.parametrize(
    ("read_ahead_bytes", "num_files", "expected"),
    [
        pytest.param(224 * MIB, 9, 12 * MIB, id="whole-pieces-of-the-store"),
        pytest.param(8 * MIB, 1, 4 * MIB, id="one-piece"),
        pytest.param(224 * MIB, 33, 224 * MIB // 66, id="less-than-a-piece"),
        pytest.param(1, 5, 8, id="one-element-at-least"),
    ],
)
def test_a_share_is_what_two_chunks_of_each_file_fit_into(
    read_ahead_bytes: int, num_files: int, expected: int
) -> None:
    assert share_of(read_ahead_bytes, num_files) == expected
