"""Factors that a fusion refuses, each with its reason: whatever arrives may be hostile."""

from __future__ import annotations

import numpy as np
import pytest

from coldfusion_queue.errors import (
    DigestMismatchError,
    IncompatibleModelError,
    InvalidTensorFileError,
    NonFiniteTensorError,
)
from coldfusion_queue.fusion.low_rank import MAX_RANK
from coldfusion_queue.fusion.stream import ContributionFault, Fusion, FusionInput, ModelFiles

from .factors import (
    BASE,
    GOOD,
    Entry,
    as_delta,
    entries,
    entry,
    fuse_low_rank,
    inspected,
    low_rank,
    pairs,
)
from .files import (
    MemorySource,
    contribution,
    digest_of,
    file_of,
    fuse_bytes,
    pack,
    with_header,
)
from .methods_oracle import a_method


def fault_of(
    data: bytes, chunk_bytes: int = 64, digest: str | None = None, base: bytes = BASE
) -> ContributionFault:
    bad = contribution("c7", data, 0.5, "low_rank", digest=digest)
    good = contribution("c5", low_rank({}), 0.5, "low_rank")
    with pytest.raises(ContributionFault) as caught:
        fuse_bytes(base, [good, bad], chunk_bytes)
    assert caught.value.contribution_id == "c7"
    return caught.value


def zeros(shape: tuple[int, ...], dtype: str = "float32") -> Entry:
    return entry(np.zeros(shape, dtype))


def changed(**tensors: Entry | None) -> bytes:
    """The good file with other tensors, or without them."""
    found = entries(pairs(1)) | {name.replace("__", "/"): each for name, each in tensors.items()}  # type: ignore[operator]
    return low_rank({name: each for name, each in found.items() if each is not None})


@pytest.mark.parametrize(
    ("data", "words"),
    [
        pytest.param(
            changed(query__B=zeros((11, 2))),
            r"'query/B' is .*\(11, 2\).*\(12, r\)",
            id="fewer rows",
        ),
        pytest.param(changed(query__A=zeros((2, 13))), r"'query/B' is .*\(2, 13\)", id="columns"),
        pytest.param(changed(query__A=zeros((3, 12))), r"'query/B' is .*\(3, 12\)", id="two ranks"),
        pytest.param(
            changed(query__B=zeros((12, 0)), query__A=zeros((0, 12))), "r of 1 or more", id="rank 0"
        ),
        pytest.param(
            changed(query__B=zeros((12, 6)), query__A=zeros((6, 12))),
            r"fewer elements than 144",
            id="as large as the matrix",
        ),
        pytest.param(changed(query__B=zeros((12, 2, 1))), r"\(12, 2, 1\)", id="three dimensions"),
        pytest.param(
            changed(query__B=("F32", (0, *[1 << 62] * 63), b"")), "F32 of shape", id="long shape"
        ),
        pytest.param(changed(query__B=zeros(())), r"of shape \(\) by", id="no dimensions"),
        pytest.param(changed(query__B=zeros((12, 2), "int32")), "I32", id="integers"),
        pytest.param(changed(query__A=None), "'query/B' is without the other", id="B alone"),
        pytest.param(changed(query__B=None), "'query/A' is without the other", id="A alone"),
        pytest.param(
            changed(other__B=zeros((4, 1)), other__A=zeros((1, 4))),
            "'other/B' is present, expected .* matrix of the base model",
            id="no such tensor",
        ),
        pytest.param(
            changed(norm__B=zeros((9, 1)), norm__A=zeros((1, 1))),
            r"not F32 of shape \(9,\)",
            id="vector",
        ),
        pytest.param(
            changed(cube__B=zeros((3, 1)), cube__A=zeros((1, 55))),
            r"not F32 of shape \(3, 5, 11\)",
            id="a tensor that is no matrix",
        ),
        pytest.param(
            changed(none__B=zeros((0, 1)), none__A=zeros((1, 4))),
            "fewer elements than 0",
            id="empty",
        ),
        pytest.param(
            changed(positions__B=zeros((6, 1)), positions__A=zeros((1, 1))), "not I64", id="buffer"
        ),
        pytest.param(changed(query=zeros((12, 12))), "'query' is present", id="plain tensor"),
        pytest.param(
            changed(**{"query__B__B": zeros((12, 2)), "query__B__A": zeros((2, 2))}),
            "'query/B/B' is present",
            id="factors of a factor",
        ),
        pytest.param(
            changed(**{"x" * 100_000 + "__A": zeros((1, 1))}), "x{119}'?\\.\\.\\.", id="long name"
        ),
    ],
)
def test_factors_that_are_no_delta_of_the_base_model_are_refused_with_the_tensor(
    data: bytes, words: str
) -> None:
    fault = fault_of(data)
    assert isinstance(fault.cause, IncompatibleModelError)
    with pytest.raises(IncompatibleModelError, match=rf"(?s)contribution c7.*{words}"):
        raise fault.cause
    assert len(str(fault)) < 800


def test_a_rank_that_takes_too_long_is_refused_though_it_would_save_bytes() -> None:
    side = 4 * MAX_RANK
    base = file_of({"w": np.zeros((side, side), np.float32)})

    def of(rank: int) -> bytes:
        pair = np.zeros((side, rank), np.float32), np.zeros((rank, side), np.float32)
        return low_rank(entries({"w": pair}))

    assert fuse_low_rank(of(MAX_RANK), base, 1 << 20) == base
    fault = fault_of(of(MAX_RANK + 1), 1 << 20, base=base)
    assert f"a rank of at most {MAX_RANK}" in str(fault.cause)


def test_a_header_that_claims_a_huge_rank_is_refused_before_its_data_is_asked_for() -> None:
    huge = 1 << 40
    data = with_header(
        {
            "__metadata__": {"low_rank": "factors/1"},
            "query/B": {"dtype": "F32", "shape": [12, huge], "data_offsets": [0, 48 * huge]},
            "query/A": {
                "dtype": "F32",
                "shape": [huge, 12],
                "data_offsets": [48 * huge, 96 * huge],
            },
        }
    )
    fault = fault_of(data)
    assert isinstance(fault.cause, InvalidTensorFileError)
    assert "its tensors end" in str(fault.cause)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        pytest.param(
            pack(entries(pairs(1)), {"low_rank": "factors/2"}), "factors/2.*knows", id="newer"
        ),
        pytest.param(pack(entries(pairs(1)), {}), "None", id="no scheme"),
        pytest.param(pack({}, {"low_rank": "x" * 100_000}), r"'x{80}'", id="long scheme"),
        pytest.param(as_delta(pairs(1)), "None", id="a plain delta"),
        pytest.param(GOOD[:-1], "its tensors end", id="truncated"),
        pytest.param(GOOD + b"\0", "its tensors end", id="longer"),
        pytest.param(
            GOOD.replace(b'"embed/A"', b'"embed/B"'), "'embed/B' twice", id="a factor twice"
        ),
    ],
)
def test_a_file_that_is_none_is_refused_with_the_reason(data: bytes, words: str) -> None:
    fault = fault_of(data)
    assert isinstance(fault.cause, InvalidTensorFileError)
    with pytest.raises(InvalidTensorFileError, match=rf"(?s)c7.*{words}"):
        raise fault.cause
    assert len(str(fault)) < 500


def spoilt(**values: float) -> bytes:
    """The good file with the last number of some factors replaced."""
    factors = pairs(1)
    for name, value in values.items():
        target, mark = name.split("__")
        factors[target]["BA".index(mark)][-1, -1] = value
    return low_rank(entries(factors))


@pytest.mark.parametrize(
    "values",
    [
        pytest.param({"wide__B": np.nan}, id="NaN in B"),
        pytest.param({"wide__A": np.nan}, id="NaN in A"),
        pytest.param({"wide__B": np.inf}, id="infinity in B"),
        pytest.param({"wide__A": -np.inf}, id="infinity in A"),
        pytest.param({"wide__A": 3e38, "wide__B": 1e3}, id="a product beyond the range"),
    ],
)
@pytest.mark.parametrize("chunk_bytes", [8, 100, 1 << 20])
@pytest.mark.parametrize("name", ["mean", "median", "clipped_mean"])
def test_numbers_that_are_not_finite_are_the_fault_of_whose_factors_they_are(
    values: dict[str, float], chunk_bytes: int, name: str
) -> None:
    inputs = [
        contribution("c5", GOOD, 0.5, "low_rank"),
        contribution("c7", spoilt(**values), 0.5, "low_rank"),
    ]
    with pytest.raises(ContributionFault) as caught:
        fuse_bytes(BASE, inputs, chunk_bytes, method=a_method(name))
    assert caught.value.contribution_id == "c7"
    assert isinstance(caught.value.cause, NonFiniteTensorError)
    assert caught.value.cause.tensor == "wide"


def test_an_inspection_refuses_factors_that_are_not_finite() -> None:
    with pytest.raises(ContributionFault, match="'wide'"):
        inspected(spoilt(wide__A=np.nan), "low_rank", 100)


@pytest.mark.parametrize("chunk_bytes", [8, 64, 1 << 20])
@pytest.mark.parametrize("position", [1, 300, 1200])
def test_a_changed_byte_is_found_wherever_it_is(chunk_bytes: int, position: int) -> None:
    data = bytearray(GOOD)
    data[-position] ^= 1
    fault = fault_of(bytes(data), chunk_bytes, digest=digest_of(GOOD))
    assert isinstance(fault.cause, DigestMismatchError)


def test_a_file_that_is_replaced_by_a_shorter_one_is_its_contributors_fault() -> None:
    source = MemorySource("a", GOOD)
    fusion = Fusion(
        ModelFiles.single(MemorySource("base", BASE), digest_of(BASE)),
        [FusionInput("c7", source, None, "low_rank", 1.0)],
        chunk_bytes=64,
        threads=1,
    )
    source.data = GOOD[:-8]
    with pytest.raises(ContributionFault, match="c7") as caught:
        list(fusion.fuse(0))
    assert isinstance(caught.value.cause, DigestMismatchError)


def test_factors_are_no_plain_delta() -> None:
    with pytest.raises(ContributionFault, match="'embed' is missing"):
        fuse_bytes(BASE, [contribution("c7", GOOD)])
