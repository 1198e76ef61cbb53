"""Base models of several files: the same numbers as in one file, whoever fuses which of them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from safetensors.numpy import load

from coldfusion_queue.errors import (
    DigestMismatchError,
    IncompatibleModelError,
    InvalidTensorFileError,
)
from coldfusion_queue.fusion.inspection import inspect_update
from coldfusion_queue.fusion.methods.method import Survey
from coldfusion_queue.fusion.momentum import FusionState
from coldfusion_queue.fusion.quantised import encode_groups
from coldfusion_queue.fusion.quantised_file import quantised_header
from coldfusion_queue.fusion.stream import ContributionFault, Fusion, FusionInput, ModelFiles

from .files import MemorySource, contribution, digest_of, file_of, fuse_bytes, model
from .methods_oracle import NAMES, a_method

SHARDS: list[dict[str, tuple[int, ...]]] = [
    {"a": (7, 5), "empty": (0, 3), "b": (11,)},
    {},
    {"c": (4, 3, 2)},
    {"d": (3,), "e": (130,)},
]
SHAPES = {name: shape for shard in SHARDS for name, shape in shard.items()}
STEPS = {"steps": np.arange(5)}
BASE = model(0, SHAPES) | STEPS
WEIGHTS = (0.5, 0.3, 0.2)


def shards_of(arrays: Mapping[str, np.ndarray]) -> list[bytes]:
    """The model cut as ``SHARDS`` is; a buffer of integers goes into the third file."""
    names: list[list[str]] = [[*shard] for shard in SHARDS]
    names[2].insert(0, "steps")
    return [file_of({name: arrays[name] for name in each}) for each in names]


def whole(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The same tensors in one file, in the same order."""
    order = [*SHARDS[0], "steps", *SHARDS[2], *SHARDS[3]]
    return file_of({name: arrays[name] for name in order})


def files_of(arrays: Mapping[str, np.ndarray], name: str = "base") -> ModelFiles:
    shards = shards_of(arrays)
    sources = tuple(MemorySource(f"{name}{index}", data) for index, data in enumerate(shards))
    return ModelFiles(sources, tuple(map(digest_of, shards)))


def deltas(scale: float = 1.0) -> list[bytes]:
    found = [model(seed, SHAPES) for seed in (1, 2, 3)]
    return [whole({n: scale * v for n, v in each.items()} | STEPS) for each in found]


def inputs_of(files: list[bytes], digest: str | None = "") -> list[FusionInput]:
    """Contributions; ``None`` for a digest as of those that were inspected."""
    return [
        FusionInput(
            f"c{index}",
            MemorySource(f"c{index}", data),
            digest_of(data) if digest == "" else digest,
            "delta",
            weight,
        )
        for index, (data, weight) in enumerate(zip(files, WEIGHTS, strict=True))
    ]


def fusion_of(
    inputs: list[FusionInput],
    base: ModelFiles | None = None,
    name: str = "mean",
    chunk_bytes: int = 64,
) -> Fusion:
    return Fusion(
        base or files_of(BASE), inputs, method=a_method(name), chunk_bytes=chunk_bytes, threads=2
    )


def fused(fusion: Fusion, **states: FusionState) -> list[bytes]:
    """All files, each by an iterator of its own, after one survey of all."""
    combination = fusion.combination()
    return [
        b"".join(fusion.fuse(file, states.get(f"state{file}"), combination))
        for file in range(fusion.num_files)
    ]


def tensors_of(files: list[bytes]) -> dict[str, np.ndarray]:
    return {name: tensor for data in files for name, tensor in load(data).items()}


def assert_same(got: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    assert got.keys() == expected.keys()
    for name, tensor in got.items():
        assert tensor.tobytes() == expected[name].tobytes(), name


# --- what one file gives ----------------------------------------------------------------------


@pytest.mark.parametrize("chunk_bytes", [8, 100, 1 << 20])
@pytest.mark.parametrize("name", [name for name in NAMES if name != "nesterov"])
def test_shards_fuse_to_what_one_file_does(name: str, chunk_bytes: int) -> None:
    files = fused(fusion_of(inputs_of(deltas()), name=name, chunk_bytes=chunk_bytes))

    assert_same(
        tensors_of(files),
        load(fuse_bytes(whole(BASE), inputs_of(deltas()), method=a_method(name))),
    )
    headers = [data[: 8 + int.from_bytes(data[:8], "little")] for data in shards_of(BASE)]
    assert all(data.startswith(header) for data, header in zip(files, headers, strict=True))


@pytest.mark.parametrize("name", ["mean", "ties", "geometric_median", "dare"])
def test_processes_that_share_the_files_make_the_bits_of_one(name: str) -> None:
    def process() -> Fusion:
        return fusion_of(inputs_of(deltas(), None), name=name)

    step = process().first_step
    num_surveys = 0
    while isinstance(step, Survey):
        counts = [process().survey(step, file) for file in reversed(range(4))]
        step = step.result([np.array(each.tolist(), each.dtype) for each in reversed(counts)])
        num_surveys += 1
    shared = [b"".join(process().fuse(file, None, step)) for file in range(4)]

    assert shared == fused(fusion_of(inputs_of(deltas(), None), name=name))
    assert num_surveys == {"mean": 0, "ties": 2, "geometric_median": 1, "dare": 0}[name]


def test_momentum_has_a_state_for_each_file() -> None:
    states = [bytearray() for _ in SHARDS]
    writing = {f"state{index}": FusionState(state.extend) for index, state in enumerate(states)}
    first = fused(fusion_of(inputs_of(deltas()), name="nesterov"), **writing)
    expected_state = bytearray()
    expected = fuse_bytes(
        whole(BASE),
        inputs_of(deltas()),
        method=a_method("nesterov"),
        state=FusionState(expected_state.extend),
    )
    assert_same(tensors_of(first), load(expected))
    assert_same(tensors_of([bytes(state) for state in states]), load(bytes(expected_state)))

    going_on = {
        f"state{index}": FusionState(len, MemorySource("state", bytes(state)), digest_of(state))
        for index, state in enumerate(states)
    }
    base = ModelFiles(
        tuple(MemorySource(f"base{index}", data) for index, data in enumerate(first)),
        tuple(map(digest_of, first)),
    )
    second = fused(fusion_of(inputs_of(deltas(0.5)), base, "nesterov"), **going_on)
    before = FusionState(len, MemorySource("state", bytes(expected_state)), None)
    assert_same(
        tensors_of(second),
        load(
            fuse_bytes(expected, inputs_of(deltas(0.5)), method=a_method("nesterov"), state=before)
        ),
    )


def test_full_ones_are_relative_to_the_shards_that_they_came_from() -> None:
    old = model(9, SHAPES) | STEPS
    finetuned = model(10, SHAPES) | STEPS
    other = contribution("z", whole(model(11, SHAPES) | STEPS), 0.5)
    stale = FusionInput(
        "a",
        MemorySource("a", whole(finetuned)),
        digest_of(whole(finetuned)),
        "full",
        0.5,
        files_of(old, "old"),
    )
    in_one = contribution("a", whole(finetuned), 0.5, "full", MemorySource("old", whole(old)))

    assert_same(
        tensors_of(fused(fusion_of([stale, other]))),
        load(fuse_bytes(whole(BASE), [in_one, other])),
    )


def test_quantised_ones_count_the_elements_of_all_shards() -> None:
    numbers = np.random.default_rng(4).standard_normal(203).astype(np.float32)
    data = quantised_header(len(numbers)) + encode_groups(numbers).tobytes()
    item = contribution("a", data, 1.0, "quantised")

    assert sum(np.prod(shape) for shape in SHAPES.values()) == len(numbers)
    assert_same(tensors_of(fused(fusion_of([item]))), load(fuse_bytes(whole(BASE), [item])))


def test_an_inspection_goes_over_all_shards() -> None:
    data = deltas()[0]

    one = ModelFiles.single(MemorySource("base", whole(BASE)), digest_of(whole(BASE)))
    got, expected = (
        inspect_update(contribution("a", data), base, base_norm=None, chunk_bytes=64)
        for base in (files_of(BASE), one)
    )

    assert got.norm == pytest.approx(expected.norm, rel=1e-12)
    assert got.base_norm == pytest.approx(expected.base_norm, rel=1e-12)
    assert got.sketch == pytest.approx(expected.sketch, rel=1e-5)


# --- what is read, and verified ---------------------------------------------------------------


def test_one_file_of_many_costs_its_own_bytes_alone() -> None:
    inputs = inputs_of(deltas(), None)
    base = files_of(BASE)
    fusion = fusion_of(inputs, base)
    sources = [*base.sources, *(item.source for item in inputs)]
    for source in sources:
        source.reads.clear()  # type: ignore[attr-defined]

    for _ in fusion.fuse(2):
        pass

    data = [sum(end - start for start, end in source.reads) for source in sources]  # type: ignore[attr-defined]
    assert data[:4] == [0, 0, 24 * 4 + 5 * 8, 0]
    assert data[4:] == [24 * 4 + 5 * 8] * 3


@pytest.mark.parametrize("file", [0, 2, 3])
def test_a_shard_that_is_not_the_recorded_one_is_told_by_name(file: int) -> None:
    base = files_of(BASE)
    digests = [digest if index != file else "0" * 64 for index, digest in enumerate(base.digests)]
    fusion = fusion_of(inputs_of(deltas()), ModelFiles(base.sources, tuple(digests)))

    with pytest.raises(DigestMismatchError, match=f"base{file}: sha256"):
        fused(fusion)
    good = (file + 2) % 4 if file != 3 else 0
    assert b"".join(fusion.fuse(good))


def test_a_contribution_is_verified_before_a_part_of_it_is_used() -> None:
    inputs = inputs_of(deltas())
    damaged = bytearray(deltas()[1])
    damaged[-1] ^= 1  # in the last file, while the first is fused
    inputs[1] = contribution("c1", bytes(damaged), digest=digest_of(deltas()[1]))

    with pytest.raises(ContributionFault) as caught:
        next(fusion_of(inputs).fuse(0))

    assert caught.value.contribution_id == "c1"
    assert isinstance(caught.value.cause, DigestMismatchError)


def test_an_own_base_that_is_cut_in_another_way_is_its_contributions_fault() -> None:
    data = whole(BASE)
    for old in (
        ModelFiles.single(MemorySource("old", data), None),
        ModelFiles(files_of(BASE).sources[::-1], (None,) * 4),
    ):
        item = FusionInput("c7", MemorySource("c7", data), None, "full", 1.0, old)
        with pytest.raises(ContributionFault) as caught:
            fusion_of([item])
        assert caught.value.contribution_id == "c7"
        assert isinstance(caught.value.cause, IncompatibleModelError)


def test_a_tensor_in_two_shards_is_refused() -> None:
    sources = tuple(MemorySource(name, file_of({"w": np.ones(3)})) for name in ("one", "two"))

    with pytest.raises(InvalidTensorFileError, match=r"two.*'w' is in another shard"):
        fusion_of(inputs_of(deltas()), ModelFiles(sources, (None, None)))
