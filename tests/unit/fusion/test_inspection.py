"""What is found out about a contribution before it may be fused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from coldfusion_queue.errors import (
    DigestMismatchError,
    IncompatibleModelError,
    InvalidTensorFileError,
    NonFiniteTensorError,
    StoreUnavailableError,
)
from coldfusion_queue.fusion.faults import ContributionFault
from coldfusion_queue.fusion.inputs import FusionInput
from coldfusion_queue.fusion.inspection import UpdateFacts, inspect_update
from coldfusion_queue.fusion.model_reader import ModelFiles
from coldfusion_queue.fusion.sketch import SKETCH_SIZE

from .files import MemorySource, bfloat16, contribution, digest_of, file_of, pack
from .test_sketch import sketch_of

GENERATOR = np.random.default_rng(0)
ARRAYS: dict[str, np.ndarray] = {
    "a": GENERATOR.standard_normal((70, 90)).astype(np.float32),
    "steps": np.arange(3, dtype=np.int64),
    "b": GENERATOR.standard_normal(11).astype(np.float64),
    "c": GENERATOR.standard_normal((5, 7)).astype(np.float16),
}
BASE = file_of(ARRAYS)
DELTA: dict[str, np.ndarray] = {
    name: value
    if value.dtype.kind == "i"
    else (0.01 * GENERATOR.standard_normal(value.shape)).astype(value.dtype)
    for name, value in ARRAYS.items()
}


def look(
    item: FusionInput,
    base: bytes = BASE,
    base_norm: float | None = None,
    chunk_bytes: int = 512,
    source: MemorySource | None = None,
) -> UpdateFacts:
    return inspect_update(
        item,
        ModelFiles.single(source or MemorySource("base.safetensors", base), digest_of(base)),
        base_norm=base_norm,
        chunk_bytes=chunk_bytes,
    )


def floats(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """All float elements of a model in file order, in float64."""
    parts = [
        value.astype(np.float64).ravel() for value in arrays.values() if value.dtype.kind == "f"
    ]
    return np.concatenate(parts)


def fault_of(item: FusionInput, **options: Any) -> Exception:
    with pytest.raises(ContributionFault) as caught:
        look(item, **options)
    assert caught.value.contribution_id == item.contribution_id
    return caught.value.cause


# --- numbers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_bytes", [8, 512, 1 << 20])
def test_norms_and_sketch_are_those_of_all_float_elements(chunk_bytes: int) -> None:
    facts = look(contribution("c1", file_of(DELTA)), chunk_bytes=chunk_bytes)

    assert facts.norm == pytest.approx(np.linalg.norm(floats(DELTA)), rel=1e-6)
    assert facts.base_norm == pytest.approx(np.linalg.norm(floats(ARRAYS)), rel=1e-6)
    np.testing.assert_allclose(facts.sketch, sketch_of(floats(DELTA)), rtol=0, atol=1e-6)
    assert facts.sketch.shape == (SKETCH_SIZE,)


def test_a_full_model_is_looked_at_relative_to_its_base_version() -> None:
    full = {
        name: value if value.dtype.kind == "i" else (value + DELTA[name]).astype(value.dtype)
        for name, value in ARRAYS.items()
    }

    facts = look(contribution("c1", file_of(full), form="full"))

    expected = floats(full) - floats(ARRAYS)
    assert facts.norm == pytest.approx(np.linalg.norm(expected), rel=1e-5)
    np.testing.assert_allclose(facts.sketch, sketch_of(expected), rtol=0, atol=1e-5)


def test_tensors_in_another_order_and_dtype_give_the_same_sketch() -> None:
    base = {"a": np.arange(6, dtype=np.float32), "b": np.ones(3, np.float32)}
    delta = {
        "a": np.array([1, 2, -3, 4, 0.5, 8], np.float32),
        "b": np.array([1, -2, 4], np.float32),
    }
    other = pack({"b": bfloat16(delta["b"]), "a": bfloat16(delta["a"])})

    facts = look(contribution("c1", other), base=file_of(base))

    np.testing.assert_array_equal(facts.sketch, sketch_of(floats(delta)).astype(np.float32))


def test_the_data_of_a_base_version_whose_norm_is_known_is_not_read_again() -> None:
    source = MemorySource("base.safetensors", BASE)

    facts = look(contribution("c1", file_of(DELTA)), base_norm=3.0, source=source)

    header_bytes = 8 + int.from_bytes(BASE[:8], "little")
    assert max(end for _, end in source.reads) == header_bytes
    assert facts.base_norm == 3.0


def test_a_delta_that_is_nothing_has_norm_zero() -> None:
    nothing = {name: np.zeros_like(value) for name, value in DELTA.items()}

    assert look(contribution("c1", file_of(nothing))).norm == 0.0


def test_an_enormous_delta_has_a_norm_that_is_a_number() -> None:
    base = {"a": np.ones(4, np.float64)}
    enormous = {"a": np.full(4, 1e300)}

    facts = look(contribution("c1", file_of(enormous)), base=file_of(base))

    assert np.isfinite(facts.norm)
    assert facts.norm > 1e300
    assert not facts.sketch.any()


# --- faults -----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["delta", "full"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_found_with_its_tensor(form: str, value: float) -> None:
    bad = {**DELTA, "c": DELTA["c"].copy()}
    bad["c"][3, 3] = value

    cause = fault_of(contribution("c1", file_of(bad), form=form))

    assert isinstance(cause, NonFiniteTensorError)
    assert cause.tensor == "c"


def test_a_damaged_byte_is_found() -> None:
    data = file_of(DELTA)
    damaged = data[:-1] + bytes([data[-1] ^ 1])

    cause = fault_of(contribution("c1", damaged, digest=digest_of(data)))

    assert isinstance(cause, DigestMismatchError)


def test_a_damaged_byte_is_found_in_another_order_too() -> None:
    data = file_of(dict(reversed(DELTA.items())))
    damaged = data[:-1] + bytes([data[-1] ^ 1])

    cause = fault_of(contribution("c1", damaged, digest=digest_of(data)))

    assert isinstance(cause, DigestMismatchError)


def test_another_model_is_refused_before_its_data_is_read() -> None:
    item = contribution("c1", file_of({**DELTA, "head": np.ones(1000, np.float32)}))

    cause = fault_of(item)

    assert isinstance(cause, IncompatibleModelError)
    assert isinstance(item.source, MemorySource)
    assert sum(end - start for start, end in item.source.reads) < 1000


def test_a_file_of_another_kind_is_refused() -> None:
    assert isinstance(fault_of(contribution("c1", b"PK\x03\x04 a pickle")), InvalidTensorFileError)


# --- what is nobody's fault -------------------------------------------------------------------


@pytest.mark.parametrize("form", ["delta", "full"])
def test_a_base_version_that_is_not_finite_is_nobodys_fault(form: str) -> None:
    base = {**ARRAYS, "b": np.full(11, np.nan)}

    with pytest.raises(InvalidTensorFileError, match="'b' holds NaN"):
        look(contribution("c1", file_of(DELTA), form=form), base=file_of(base))


def test_a_base_version_with_another_digest_is_nobodys_fault() -> None:
    damaged = BASE[:-1] + bytes([BASE[-1] ^ 1])
    source = MemorySource("base.safetensors", damaged)

    with pytest.raises(DigestMismatchError):
        look(contribution("c1", file_of(DELTA)), source=source)


def test_an_outage_of_the_store_passes_unchanged() -> None:
    class Away(MemorySource):
        def read(self, offset: int, num_bytes: int) -> bytes:
            if offset:
                raise StoreUnavailableError("http://store", "read", self.name, "away")
            return super().read(offset, num_bytes)

    item = contribution("c1", file_of(DELTA))
    away = FusionInput("c1", Away("c1", file_of(DELTA)), item.digest, "delta", 1.0)

    with pytest.raises(StoreUnavailableError):
        look(away)
