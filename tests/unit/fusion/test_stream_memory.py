"""What a fusion reads, when, and how much of it is alive at a time."""

from __future__ import annotations

import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from coldfusion_queue.fusion.methods import make_method
from coldfusion_queue.fusion.stream import FusionInput, FusionState, fuse_stream

from .files import MemorySource, contribution, digest_of, file_of, fuse, fuse_bytes, with_header

CHUNK = 1 << 16
NUM_CHUNKS = 40


class CountedBytes(bytes):
    """Bytes that know when nobody holds them any more."""

    ledger: Ledger

    def __del__(self) -> None:
        self.ledger.add(-len(self))


class Ledger:
    """Bytes that were read and are still held, over all files."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.held = 0
        self.most = 0

    def add(self, num_bytes: int) -> None:
        with self._lock:
            self.held += num_bytes
            self.most = max(self.most, self.held)


class CountedSource(MemorySource):
    """A file whose bytes are counted for as long as somebody holds them."""

    ledger: Ledger

    def read(self, offset: int, num_bytes: int) -> bytes:
        data = CountedBytes(super().read(offset, num_bytes))
        data.ledger = self.ledger
        self.ledger.add(len(data))
        return data


def counted(source: MemorySource, ledger: Ledger) -> CountedSource:
    again = CountedSource(source.name, source.data)
    again.ledger = ledger
    return again


def counted_inputs(
    data: bytes, ledger: Ledger, number: int, form: Literal["delta", "full"]
) -> list[FusionInput]:
    return [
        FusionInput(
            f"c{index}",
            counted(MemorySource(f"c{index}", data), ledger),
            digest_of(data),
            form,
            1 / number,
        )
        for index in range(number)
    ]


def a_model(value: float, dtype: str = "float32") -> bytes:
    """Forty chunks of data; a hundred elements of it in tensors of their own."""
    size = NUM_CHUNKS * CHUNK // 4
    small = {f"small.{index}": np.full(1, value, dtype) for index in range(100)}
    return file_of(small | {"large": np.full(size - 100, value, dtype)})


@pytest.mark.parametrize("num_inputs", [1, 4, 16])
def test_at_most_two_chunks_of_each_file_are_held_whatever_the_size_of_the_model(
    num_inputs: int,
) -> None:
    ledger = Ledger()
    headers = 20_000 * (num_inputs + 1)
    data = a_model(1.0)
    base = counted(MemorySource("base", data), ledger)
    inputs = counted_inputs(data, ledger, num_inputs, "full")

    for _ in fuse_stream(base, digest_of(data), inputs, chunk_bytes=CHUNK, threads=4):
        time.sleep(0.001)  # a slow consumer: reading ahead must not run away

    assert ledger.most <= 2 * CHUNK * (num_inputs + 1) + headers
    assert ledger.most >= CHUNK * (num_inputs + 1), "what is held was not counted"
    assert ledger.held == 0


@pytest.mark.parametrize("num_inputs", [1, 4, 16])
def test_what_all_files_hold_together_does_not_grow_with_their_number(num_inputs: int) -> None:
    ledger = Ledger()
    data = a_model(1.0)
    headers = 20_000 * (num_inputs + 1)
    limit = 8 * CHUNK
    inputs = counted_inputs(data, ledger, num_inputs, "delta")
    base = counted(MemorySource("base", data), ledger)

    parts = fuse_stream(
        base,
        digest_of(data),
        inputs,
        chunk_bytes=100 * CHUNK,
        read_ahead_bytes=limit,
        threads=4,
    )
    fused = b"".join(parts)

    assert limit / 2 < ledger.most <= limit + headers
    assert fused == fuse_bytes(data, inputs, CHUNK)


@pytest.mark.parametrize("name", ["geometric_median", "ties"])
def test_a_survey_holds_no_more_than_the_fusion_itself(name: str) -> None:
    ledger = Ledger()
    data = a_model(1.0)
    inputs = counted_inputs(data, ledger, 4, "full")
    base = counted(MemorySource("base", data), ledger)
    method = make_method(name, {})
    most_ahead = 2 * CHUNK * 5 + 100_000

    parts = fuse_stream(base, digest_of(data), inputs, chunk_bytes=CHUNK, threads=4, method=method)
    next(parts)  # what comes first comes after all surveys

    assert CHUNK * 5 <= ledger.most <= most_ahead
    assert sum(map(len, parts)) > 0
    assert ledger.most <= most_ahead
    assert ledger.held == 0


def test_a_state_is_one_more_file_and_is_written_as_the_model_is() -> None:
    ledger = Ledger()
    data = a_model(1.0)
    files = 1 + 4 + 1
    headers = 20_000 * files
    base, before = (counted(MemorySource(name, data), ledger) for name in ("base", "state"))
    num_written: list[int] = []
    state = FusionState(lambda part: num_written.append(len(part)), before, digest_of(data))
    parts = fuse_stream(
        base,
        digest_of(data),
        counted_inputs(data, ledger, 4, "full"),
        chunk_bytes=100 * CHUNK,
        read_ahead_bytes=2 * CHUNK * files,
        threads=4,
        method=make_method("nesterov", {}),
        state=state,
    )

    num_read = 0
    for part in parts:
        time.sleep(0.001)  # a slow consumer
        num_read += len(part)
        assert sum(num_written) == num_read, "one of the files is held back"

    assert CHUNK * files <= ledger.most <= 2 * CHUNK * files + headers
    assert ledger.held == 0
    assert num_read == len(data)


@contextmanager
def traced() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("dtype", "num_chunks_to_compute"), [("float32", 4), ("float16", 4)])
def test_memory_of_everything_together_is_what_is_documented(
    tmp_path: Path, dtype: str, num_chunks_to_compute: int
) -> None:
    class FileSource(MemorySource):
        @property
        def num_bytes(self) -> int:
            return path.stat().st_size

        def read(self, offset: int, num_bytes: int) -> bytes:
            with path.open("rb") as file:
                file.seek(offset)
                return file.read(num_bytes)

    path = tmp_path / "model.safetensors"
    chunk_bytes = 1 << 20
    path.write_bytes(file_of({"w": np.ones(20 * chunk_bytes // np.dtype(dtype).itemsize, dtype)}))
    digest = digest_of(path.read_bytes())
    inputs = [
        FusionInput(f"c{index}", FileSource(f"c{index}", b""), digest, "full", 0.25)
        for index in range(4)
    ]

    with traced():
        base = FileSource("base", b"")
        for _ in fuse_stream(base, digest, inputs, chunk_bytes=chunk_bytes, threads=2):
            pass
        _, peak = tracemalloc.get_traced_memory()

    assert peak < (2 * 5 + num_chunks_to_compute) * chunk_bytes + 200_000


def test_the_headers_of_contributions_are_not_kept() -> None:
    text = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    data = with_header(text.ljust(1 << 20), bytes(4))
    base = MemorySource("base", data)
    inputs = [contribution(f"c{index}", data) for index in range(8)]

    with traced():
        parts = fuse_stream(base, digest_of(data), inputs, chunk_bytes=CHUNK, threads=1)
        held, _ = tracemalloc.get_traced_memory()
        parts.close()

    assert held < 1.5 * (1 << 20), "more than the base model's header is held"


def test_every_file_in_the_base_models_order_is_read_once_from_beginning_to_end() -> None:
    data = a_model(1.0)
    old = MemorySource("old", data)
    inputs = [contribution(f"c{index}", data, 0.1, "full", old) for index in range(3)]

    fuse_bytes(data, inputs, CHUNK)

    for source in [inputs[0].source, inputs[2].source, old]:
        assert isinstance(source, MemorySource)
        ends = [0, *(end for _, end in source.reads)]
        assert [start for start, _ in source.reads] == ends[:-1]
        assert ends[-1] == len(data)


def test_the_base_model_named_as_own_base_is_not_read_again() -> None:
    data = a_model(1.0)
    base = MemorySource("base", data)
    inputs = [contribution("c", a_model(2.0), 1.0, "full", base)]

    for _ in fuse_stream(base, digest_of(data), inputs, chunk_bytes=CHUNK, threads=2):
        pass

    assert sum(end - start for start, end in base.reads) == len(data)


def test_files_are_read_at_the_same_time() -> None:
    barrier = threading.Barrier(3, timeout=20)

    class Meeting(MemorySource):
        def read(self, offset: int, num_bytes: int) -> bytes:
            if num_bytes == 400:
                barrier.wait()
            return super().read(offset, num_bytes)

    data = file_of({"w": np.ones(100, np.float32)})
    inputs = [
        FusionInput(f"c{index}", Meeting(f"c{index}", data), digest_of(data), "delta", 1.0)
        for index in range(2)
    ]
    base = Meeting("base", data)

    parts = fuse_stream(base, digest_of(data), inputs, chunk_bytes=400, threads=3)

    assert len(b"".join(parts)) == len(data)


def test_the_next_chunk_is_read_while_one_is_being_worked_on() -> None:
    taken = threading.Event()
    in_time: list[bool] = []

    class Waiting(MemorySource):
        def read(self, offset: int, num_bytes: int) -> bytes:
            if offset == self.num_bytes - 400:
                in_time.append(taken.wait(20))
            return super().read(offset, num_bytes)

    data = file_of({"w": np.ones(200, np.float32)})
    base = Waiting("base", data)
    inputs = [contribution("c", data)]

    parts = fuse_stream(base, digest_of(data), inputs, chunk_bytes=400, threads=2)
    next(parts)
    next(parts)
    taken.set()

    assert len(list(parts)) == 1
    assert in_time == [True]


def test_ten_thousand_tensors_of_one_element_are_fused_quickly() -> None:
    def many(value: float) -> bytes:
        return file_of({f"t{index}": np.full(1, value, np.float32) for index in range(10_000)})

    base, delta = many(1.0), many(2.0)
    inputs = [contribution(f"c{index}", delta, 0.125) for index in range(8)]

    start = time.perf_counter()
    fused = fuse(base, inputs, 1 << 20)
    seconds = time.perf_counter() - start

    assert all(tensor.item() == 3.0 for tensor in fused.values())
    assert seconds < 10


def fuse_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("fuse")]


def test_closing_the_iterator_early_ends_its_threads() -> None:
    data = a_model(1.0)
    base = MemorySource("base", data)
    inputs = [contribution("c", data)]
    parts = fuse_stream(base, digest_of(data), inputs, chunk_bytes=CHUNK, threads=3)
    next(parts)
    next(parts)
    assert fuse_threads()

    parts.close()

    assert not fuse_threads()
    assert base.reads[-1][1] < len(data)


def test_an_iterator_that_was_never_started_has_no_threads_and_read_no_data() -> None:
    data = a_model(1.0)
    base = MemorySource("base", data)

    parts = fuse_stream(
        base, digest_of(data), [contribution("c", data)], chunk_bytes=CHUNK, threads=3
    )

    assert not fuse_threads()
    assert len(base.reads) == 2
    parts.close()


def test_an_error_ends_the_threads() -> None:
    data = a_model(1.0)
    base = MemorySource("base", data)
    parts = fuse_stream(base, "0" * 64, [contribution("c", data)], chunk_bytes=CHUNK, threads=3)
    with pytest.raises(Exception, match="sha256"):
        b"".join(parts)
    assert not fuse_threads()
