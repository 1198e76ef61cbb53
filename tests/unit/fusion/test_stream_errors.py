"""Whose fault it is when contributions cannot be fused."""

from __future__ import annotations

import numpy as np
import pytest

from coldfusion_queue.errors import (
    DigestMismatchError,
    IncompatibleModelError,
    InvalidTensorFileError,
    NonFiniteTensorError,
    NotFoundError,
    StoreUnavailableError,
    UsageError,
)
from coldfusion_queue.fusion.methods import make_method
from coldfusion_queue.fusion.stream import ContributionFault, FusionInput, ModelFiles, fuse_stream

from .files import MemorySource, bfloat16, contribution, digest_of, file_of, fuse_bytes, pack

ARRAYS = {"a": np.ones(6, np.float32), "b": np.ones(5, np.float32)}
BASE = file_of(ARRAYS)
GOOD = contribution("c5", BASE)


def with_value(tensor: str, index: int, value: float, dtype: str = "float32") -> bytes:
    arrays = {name: array.astype(dtype) for name, array in ARRAYS.items()}
    arrays[tensor][index] = value
    return file_of(arrays)


def fault_of(*inputs: FusionInput, base: bytes = BASE, chunk_bytes: int = 16) -> ContributionFault:
    with pytest.raises(ContributionFault) as caught:
        fuse_bytes(base, inputs, chunk_bytes)
    return caught.value


# --- values -----------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("form", ["delta", "full"])
@pytest.mark.parametrize("coefficient", [1.0, 0.0])
@pytest.mark.parametrize("chunk_bytes", [16, 1024])
@pytest.mark.parametrize("index", [0, 4])
def test_a_value_that_is_not_finite_is_the_fault_of_its_contribution_and_tensor(
    value: float, form: str, coefficient: float, chunk_bytes: int, index: int
) -> None:
    bad = contribution("c7", with_value("b", index, value), coefficient, form)

    fault = fault_of(GOOD, bad, contribution("c9", BASE), chunk_bytes=chunk_bytes)

    assert fault.contribution_id == "c7"
    assert isinstance(fault.cause, NonFiniteTensorError)
    assert fault.cause.tensor == "b"


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_nan_is_found_in_every_dtype(dtype: str) -> None:
    fault = fault_of(contribution("c7", with_value("a", 3, np.nan, dtype)))
    assert isinstance(fault.cause, NonFiniteTensorError)


def test_nan_is_found_in_bfloat16() -> None:
    nan = pack({"w": ("BF16", [1], b"\xff\x7f")})
    fault = fault_of(contribution("c7", nan), base=pack({"w": bfloat16(np.ones(1))}))
    assert isinstance(fault.cause, NonFiniteTensorError)


def test_infinities_of_two_contributions_do_not_cancel() -> None:
    plus = contribution("c1", with_value("a", 0, np.inf))
    minus = contribution("c2", with_value("a", 0, -np.inf))
    assert fault_of(plus, minus).contribution_id == "c1"


def test_a_float64_value_beyond_the_range_of_float32_counts_as_infinite() -> None:
    fault = fault_of(contribution("c7", with_value("a", 0, 1e300, "float64")))
    assert isinstance(fault.cause, NonFiniteTensorError)


def test_finite_values_that_leave_the_base_models_range_are_the_largest_ones_fault() -> None:
    base = file_of({"w": np.full(3, 60_000, np.float16)})
    small = contribution("c1", file_of({"w": np.array([9, 9, 9], np.float32)}))
    large = contribution("c2", file_of({"w": np.array([0, 6000, 0], np.float32)}))

    fault = fault_of(small, large, base=base)

    assert fault.contribution_id == "c2"
    assert isinstance(fault.cause, IncompatibleModelError)
    assert "F16" in str(fault)


@pytest.mark.parametrize("form", ["delta", "full"])
@pytest.mark.parametrize("method", ["mean", "median", "ties"])
def test_nobody_is_blamed_for_a_base_model_that_is_not_finite(form: str, method: str) -> None:
    base = with_value("b", 1, np.nan)
    inputs = [contribution("c1", BASE, 0.5, form), contribution("c2", BASE, 0.5, form)]
    with pytest.raises(InvalidTensorFileError, match=r"base\.safetensors: tensor 'b'"):
        fuse_bytes(base, inputs, method=make_method(method, {}))


# --- headers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        pytest.param(BASE[:-1], InvalidTensorFileError, id="truncated"),
        pytest.param(b"\x80\x04 pickle", InvalidTensorFileError, id="pickle renamed"),
        pytest.param(pack({"a": ("F8_E5M2", [6], bytes(6))}), InvalidTensorFileError, id="float8"),
        pytest.param(file_of({"a": ARRAYS["a"]}), IncompatibleModelError, id="missing tensor"),
        pytest.param(
            file_of(ARRAYS | {"c": ARRAYS["a"]}), IncompatibleModelError, id="extra tensor"
        ),
        pytest.param(
            file_of(ARRAYS | {"b": np.ones((5, 1), np.float32)}),
            IncompatibleModelError,
            id="wrong shape",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_refused_before_any_data_is_read(
    data: bytes, cause: type[Exception]
) -> None:
    base = MemorySource("base", BASE)
    good = MemorySource("good", BASE)
    inputs = [
        FusionInput("c5", good, digest_of(BASE), "delta", 1.0),
        contribution("c7", data),
    ]

    with pytest.raises(ContributionFault) as caught:
        fuse_stream(base, digest_of(BASE), inputs, chunk_bytes=16, threads=2)

    assert caught.value.contribution_id == "c7"
    assert isinstance(caught.value.cause, cause)
    assert len(base.reads) == len(good.reads) == 2


def test_an_own_base_that_does_not_fit_is_the_fault_of_its_contribution() -> None:
    other = MemorySource("old", file_of({"z": ARRAYS["a"]}))
    fault = fault_of(GOOD, contribution("c7", BASE, 1.0, "full", other))
    assert fault.contribution_id == "c7"


def test_the_first_of_several_faults_is_reported_by_id() -> None:
    inputs = [contribution(name, b"") for name in ("c9", "c3", "c6")]
    assert fault_of(*inputs, GOOD).contribution_id == "c3"


# --- digests ----------------------------------------------------------------------------------


def test_bytes_that_are_not_the_recorded_ones_are_the_contributions_fault() -> None:
    damaged = contribution("c7", with_value("b", 4, 1.5), digest=digest_of(BASE))

    fault = fault_of(GOOD, damaged)

    assert fault.contribution_id == "c7"
    assert isinstance(fault.cause, DigestMismatchError)
    assert fault.cause.expected == digest_of(BASE)
    assert fault.cause.got == digest_of(with_value("b", 4, 1.5))


def test_a_header_that_is_not_the_recorded_one_is_found() -> None:
    tensors = {"w": ("F32", [1], bytes(4))}
    replaced = contribution("c7", pack(tensors, {"a": "b"}), digest=digest_of(pack(tensors)))
    fault = fault_of(replaced, base=pack(tensors))
    assert isinstance(fault.cause, DigestMismatchError)


def test_the_last_part_does_not_come_when_a_digest_is_wrong() -> None:
    damaged = contribution("c7", with_value("a", 0, 1.5), digest=digest_of(BASE))
    base = MemorySource("base", BASE)
    received: list[bytes] = []
    parts = fuse_stream(base, digest_of(BASE), [damaged], chunk_bytes=16, threads=2)

    with pytest.raises(ContributionFault):
        received.extend(parts)

    assert 0 < len(b"".join(received)) < len(BASE)


def test_a_file_in_another_order_is_verified_before_anything_comes() -> None:
    data = file_of(dict(reversed(ARRAYS.items())))
    assert fuse_bytes(BASE, [contribution("c7", data, 0.0)]) == BASE
    damaged = contribution("c7", data, digest="0" * 64)
    base = MemorySource("base", BASE)
    parts = fuse_stream(base, digest_of(BASE), [damaged], chunk_bytes=16, threads=2)

    with pytest.raises(ContributionFault) as caught:
        next(parts)

    assert isinstance(caught.value.cause, DigestMismatchError)
    assert caught.value.cause.got == digest_of(data)


def test_an_own_base_is_verified_when_its_digest_is_given() -> None:
    old = MemorySource("old", BASE)

    def fused(digest: str | None) -> bytes:
        stale = FusionInput(
            "c7",
            MemorySource("c7", BASE),
            digest_of(BASE),
            "full",
            1.0,
            ModelFiles.single(old, digest),
        )
        return fuse_bytes(BASE, [stale])

    assert fused(digest_of(BASE)) == fused(None) == BASE
    with pytest.raises(ContributionFault) as caught:
        fused("0" * 64)
    assert isinstance(caught.value.cause, DigestMismatchError)


def test_nobody_is_blamed_for_a_base_model_with_another_digest() -> None:
    parts = fuse_stream(MemorySource("base", BASE), "0" * 64, [GOOD], chunk_bytes=16, threads=2)
    with pytest.raises(DigestMismatchError, match="base: sha256"):
        b"".join(parts)


# --- the store --------------------------------------------------------------------------------


class FailingSource(MemorySource):
    """A file whose data cannot be read, or only in part."""

    error: Exception | None = None

    def read(self, offset: int, num_bytes: int) -> bytes:
        if self.error is not None and offset >= self.fails_from:
            raise self.error
        return super().read(offset, num_bytes)[: None if offset < self.fails_from else -1]

    fails_from = 10_000


def failing(error: Exception | None, fails_from: int) -> FusionInput:
    source = FailingSource("c7.safetensors", BASE)
    source.error, source.fails_from = error, fails_from
    return FusionInput("c7", source, digest_of(BASE), "delta", 1.0)


@pytest.mark.parametrize("fails_from", [0, 8, 100])
def test_an_outage_of_the_store_is_nobodys_fault(fails_from: int) -> None:
    error = StoreUnavailableError("http://s3", "read", "k", "connection reset")
    with pytest.raises(StoreUnavailableError) as caught:
        fuse_bytes(BASE, [GOOD, failing(error, fails_from)])
    assert caught.value is error


@pytest.mark.parametrize("fails_from", [0, 100])
def test_a_file_that_is_gone_is_its_contributions_fault(fails_from: int) -> None:
    error = NotFoundError("object", "k", "it was deleted")
    fault = fault_of(GOOD, failing(error, fails_from))
    assert fault.contribution_id == "c7"
    assert fault.cause is error


def test_a_source_that_gives_too_few_bytes_is_its_contributions_fault() -> None:
    fault = fault_of(GOOD, failing(None, 100))
    assert fault.contribution_id == "c7"
    assert isinstance(fault.cause, DigestMismatchError)


# --- arguments --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "chunk_bytes", "threads", "message"),
    [
        pytest.param([], 64, 1, "one or more", id="nothing to fuse"),
        pytest.param([GOOD, GOOD], 64, 1, "c5, c5", id="a contribution twice"),
        pytest.param([contribution("c1", BASE, np.nan)], 64, 1, "c1 'nan'", id="coefficient nan"),
        pytest.param([contribution("c1", BASE, np.inf)], 64, 1, "c1 'inf'", id="coefficient inf"),
        pytest.param([GOOD], 7, 1, "8 bytes or more", id="chunk smaller than an element"),
        pytest.param([GOOD], 64, 0, "1 or more", id="no threads"),
    ],
)
def test_arguments_that_cannot_be_taken_are_refused_at_once(
    inputs: list[FusionInput], chunk_bytes: int, threads: int, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        fuse_stream(
            MemorySource("base", BASE),
            digest_of(BASE),
            inputs,
            chunk_bytes=chunk_bytes,
            threads=threads,
        )
