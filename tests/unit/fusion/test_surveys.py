"""Methods that look at all deltas before they combine them, and what the engine does for that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.numpy import load

from coldfusion_queue.errors import DigestMismatchError, IncompatibleModelError, UsageError
from coldfusion_queue.fusion.methods import gram, make_method
from coldfusion_queue.fusion.methods.gram import GramSurvey, WeightedSum
from coldfusion_queue.fusion.methods.method import Combination, Method, Survey, Tally
from coldfusion_queue.fusion.methods.top import TopSurvey
from coldfusion_queue.fusion.stream import (
    ContributionFault,
    FusionInput,
    ModelFiles,
    fuse_stream,
)

from .files import MemorySource, contribution, digest_of, file_of, fuse_bytes, model
from .methods_oracle import CLIP, FACTORED, NAMES, a_method, combined, weights_of

SURVEYED = (*FACTORED, "ties")
SIZE = 300


def deltas_of(number: int, size: int = SIZE) -> list[np.ndarray]:
    generator = np.random.default_rng(number)
    return [generator.normal(0.05, 1.0 + index % 2, size) for index in range(number)]


def inputs_of(
    deltas: Sequence[np.ndarray], coefficients: Sequence[float] | None = None
) -> list[FusionInput]:
    shares = coefficients or [1 / len(deltas)] * len(deltas)
    return [
        contribution(f"c{index}", file_of({"w": delta}), share)
        for index, (delta, share) in enumerate(zip(deltas, shares, strict=True))
    ]


# --- norms and distances ------------------------------------------------------------------------


@pytest.mark.parametrize("name", FACTORED)
@pytest.mark.parametrize("number", [4, 7])
def test_an_outlier_moves_the_result_no_further_than_the_honest_ones_are_long(
    name: str, number: int
) -> None:
    honest = deltas_of(number)
    outlier = np.full(SIZE, 1e12)
    longest = max(np.linalg.norm(delta) for delta in honest)

    result = combined(a_method(name), [*honest, outlier], weights_of("equal", number + 1, 1.0))

    assert np.linalg.norm(result) <= CLIP * longest


def test_the_geometric_median_is_nearer_to_all_deltas_than_any_point_beside_it() -> None:
    deltas, weights = deltas_of(6), weights_of("distinct", 6, 1.0)
    result = combined(a_method("geometric_median"), deltas, weights)

    def cost(point: np.ndarray) -> float:
        return sum(w * np.linalg.norm(d - point) for w, d in zip(weights, deltas, strict=True))

    generator = np.random.default_rng(0)
    for length in (0.03, 0.3, 3.0):
        for _ in range(20):
            step = generator.normal(size=SIZE)
            assert cost(result) < cost(result + length * step / np.linalg.norm(step))


def test_a_majority_in_one_place_is_the_geometric_median() -> None:
    same, *others = deltas_of(3)
    result = combined(
        a_method("geometric_median"), [others[0], same, same, same, others[1]], [0.2] * 5
    )
    np.testing.assert_allclose(result, same, atol=1e-4)


def test_one_iteration_of_centered_clipping_is_the_clipped_mean() -> None:
    deltas, coefficients = deltas_of(5), weights_of("distinct", 5, 0.7)
    once = make_method("centered_clip", {"clip_iterations": 1})

    result = combined(once, deltas, coefficients)

    expected = combined(make_method("clipped_mean", {}), deltas, coefficients)
    assert result.tobytes() == expected.tobytes()


def test_a_limit_that_nothing_reaches_leaves_the_mean() -> None:
    deltas, coefficients = deltas_of(5), weights_of("distinct", 5, 0.7)
    expected = combined(a_method("mean"), deltas, coefficients)
    for name in ("clipped_mean", "centered_clip"):
        result = combined(make_method(name, {"clip_factor": 100.0}), deltas, coefficients)
        np.testing.assert_allclose(result, expected, rtol=1e-6, atol=1e-6)


def test_copies_beside_others_cancel_without_a_trace() -> None:
    # ||Delta_1 - Delta_2||^2 is a difference of equal numbers, which rounding may leave below 0
    (delta,) = deltas_of(1)
    for name in FACTORED:
        result = combined(a_method(name), [delta * 1e6] * 7, weights_of("distinct", 7, 1.0))
        np.testing.assert_allclose(result, delta * 1e6, rtol=1e-6)


def test_inner_products_of_several_segments_and_files_are_added_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gram, "_BLOCKS_PER_SEGMENT", 2)
    block = GramSurvey.block_elements
    deltas = np.stack(deltas_of(3, 5 * block + 7))

    survey = GramSurvey(["a", "b", "c"], lambda found: WeightedSum(tuple(found.ravel())))

    def counted(part: np.ndarray) -> np.ndarray:
        tally = survey.begin()
        for first in range(0, part.shape[1], block):
            tally.observe(part[:, first : first + block])
        return tally.counts()

    expected = (deltas @ deltas.T).ravel()
    for parts in ([deltas], [deltas[:, : 3 * block + 9], deltas[:, 3 * block + 9 :]]):
        result = survey.result([counted(part) for part in parts])
        assert isinstance(result, WeightedSum)
        np.testing.assert_allclose(result.factors, expected, rtol=1e-13)


@pytest.mark.parametrize("name", FACTORED)
def test_a_norm_beyond_float64_refuses_its_contribution(name: str) -> None:
    deltas = [np.ones(3), np.full(3, 1e200), np.ones(3)]

    with pytest.raises(ContributionFault) as caught:
        fuse_bytes(file_of({"w": np.zeros(3)}), inputs_of(deltas), method=a_method(name))

    assert caught.value.contribution_id == "c1"
    assert isinstance(caught.value.cause, IncompatibleModelError)
    assert "norm" in str(caught.value)


# --- the largest numbers ------------------------------------------------------------------------


class Thresholds(Combination):
    """What a survey of the largest numbers found."""

    def __init__(self, found: Sequence[np.float32]) -> None:
        self.found = np.array(found)

    def combine(self, block: object) -> np.ndarray:
        raise AssertionError(block)


def thresholds_of(rows: np.ndarray, share: float) -> np.ndarray:
    step: Survey | Combination = TopSurvey(len(rows), share, Thresholds)
    while isinstance(step, Survey):
        first, second = step.begin(), step.begin()
        for start in range(0, rows.shape[1], 7):
            (first if start < 21 else second).observe(rows[:, start : start + 7])
        step = step.result([first.counts(), second.counts()])
    assert isinstance(step, Thresholds)
    return step.found


numbers = st.one_of(
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 1.0000001, 1e-45, -3.4e38]),
)


@settings(deadline=None)
@given(
    arrays(np.float32, st.tuples(st.integers(1, 3), st.integers(1, 40)), elements=numbers),
    st.floats(0.001, 1.0),
)
def test_the_threshold_is_the_number_of_its_rank(rows: np.ndarray, share: float) -> None:
    kept = max(1, round(share * rows.shape[1]))

    found = thresholds_of(rows, share)

    expected = -np.sort(-np.abs(rows), axis=1)[:, kept - 1]
    assert found.tobytes() == expected.tobytes()


def test_ties_by_hand() -> None:
    # Given the two largest numbers of each; 2 and -3 are opposed, 5 and 4 agree
    deltas = [
        np.array([2.0, 5.0, 1.0, 1.0, 0.5]),
        np.array([-3.0, 1.0, 1.0, 4.0, 0.5]),
        np.array([0.1, 4.0, 0.1, 0.1, 8.0]),
    ]
    method = make_method("ties", {"ties_density": 0.4})

    result = combined(method, deltas, [0.25, 0.5, 0.25])

    assert result.tolist() == [-3.0, 4.5, 0.0, 4.0, 8.0]


def test_numbers_as_large_as_the_smallest_that_is_kept_are_kept() -> None:
    delta = np.array([3.0, -2.0, 2.0, 2.0, 1.0])
    result = combined(make_method("ties", {"ties_density": 0.4}), [delta], [1.0])
    assert result.tolist() == [3.0, -2.0, 2.0, 2.0, 0.0]


def test_opposed_numbers_of_the_same_weight_give_nothing() -> None:
    deltas = [np.array([2.0, 1.0]), np.array([-2.0, 1.0])]
    result = combined(make_method("ties", {"ties_density": 1.0}), deltas, [0.5, 0.5])
    assert result.tolist() == [0.0, 1.0]


def test_float64_numbers_are_ranked_beyond_the_range_of_float32_too() -> None:
    base = {"a": np.zeros(2, np.float32), "b": np.zeros(2)}
    delta = {"a": np.array([1.0, 3e38], np.float32), "b": np.array([1e60, 2.0])}

    inputs = [contribution("c", file_of(delta))]
    method = make_method("ties", {"ties_density": 0.25})
    fused = load(fuse_bytes(file_of(base), inputs, method=method))

    assert fused["a"].tolist() == [0.0, 0.0]
    assert fused["b"].tolist() == [1e60, 0.0]


# --- dropping at random -------------------------------------------------------------------------


@pytest.mark.parametrize("drop", [0.0, 0.25, 0.9])
def test_so_many_numbers_are_dropped_and_the_mean_stays(drop: float) -> None:
    size = 40_000
    result = combined(make_method("dare", {"dare_drop": drop}), [np.ones(size)], [1.0])

    assert (result == 0).mean() == pytest.approx(drop, abs=0.01)
    assert result.mean() == pytest.approx(1.0, abs=0.1)
    assert np.unique(result[result > 0]).tolist() == pytest.approx([1 / (1 - drop)])


def test_a_contribution_drops_the_same_numbers_whatever_it_is_fused_with() -> None:
    method = make_method("dare", {"dare_drop": 0.5})
    one, zero = np.ones(SIZE), np.zeros(SIZE)

    alone = combined(method, [one], [1.0], ["me"])
    beside = combined(method, [zero, one], [0.5, 1.0], ["a", "me"])

    assert alone.tobytes() == beside.tobytes()


def test_the_place_of_a_number_is_counted_without_buffers() -> None:
    ones, method = np.ones(9, np.float32), make_method("dare", {"dare_drop": 0.5})
    without = {"a": ones, "b": ones}
    beside = {"a": ones, "n": np.arange(3), "b": ones}

    one, other = (
        load(fuse_bytes(data, [contribution("c", data)], 8, method=method))
        for data in (file_of(without), file_of(beside))
    )

    assert one["b"].tolist() == other["b"].tolist()


def test_contributions_drop_numbers_independently() -> None:
    method = make_method("dare", {"dare_drop": 0.5})
    one, size = np.ones(40_000), 40_000
    both = combined(method, [one, one], [0.25, 0.25], ["a", "b"])
    assert [float((both == value).sum() / size) for value in (0.0, 0.5, 1.0)] == pytest.approx(
        [0.25, 0.5, 0.25], abs=0.01
    )


# --- the engine ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_model_fused_with_itself_stays_as_it_is(name: str) -> None:
    data = file_of(model(0, {"w": (50,)}))
    inputs = [contribution(f"c{index}", data, 1 / 3, "full") for index in range(3)]
    assert fuse_bytes(data, inputs, method=a_method(name)) == data


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("arrays", [{}, {"n": np.arange(4)}, {"none": np.zeros(0, np.float32)}])
def test_a_model_without_numbers_to_fuse_stays_as_it_is(
    name: str, arrays: dict[str, np.ndarray]
) -> None:
    data = file_of(arrays)
    assert fuse_bytes(data, [contribution("c", data)], method=a_method(name)) == data


@pytest.mark.parametrize("name", NAMES)
def test_sixty_four_contributions_are_fused(name: str) -> None:
    base = np.zeros(100, np.float32)
    inputs = inputs_of([delta.astype(np.float32) for delta in deltas_of(64, 100)])
    fused = load(fuse_bytes(file_of({"w": base}), inputs, 128, method=a_method(name)))
    assert np.abs(fused["w"]).max() > 0


@dataclass(frozen=True)
class Recording(Method):
    """Writes down what its survey is shown."""

    seen: list[np.ndarray] = field(default_factory=list)

    def begin(self, ids: Sequence[str], coefficients: Sequence[float]) -> Survey:
        del ids
        return _Recorder(self.seen, tuple(coefficients))


class _Recorder(Survey, Tally):
    block_elements = 16
    dtype = np.dtype(np.float64)

    def __init__(self, seen: list[np.ndarray], factors: tuple[float, ...]) -> None:
        self.seen = seen
        self.factors = factors

    def begin(self) -> Tally:
        return self

    def observe(self, deltas: np.ndarray) -> None:
        self.seen.append(deltas.copy())

    def counts(self) -> np.ndarray:
        return np.zeros(0)

    def result(self, counts: Sequence[np.ndarray]) -> Combination:
        return WeightedSum(self.factors)


@pytest.mark.parametrize("chunk_bytes", [8, 36, 1 << 10])
def test_a_survey_is_shown_the_same_blocks_whatever_the_chunks(chunk_bytes: int) -> None:
    base = model(0, {"a": (30,), "b": (9,)}) | {"n": np.arange(3)} | model(1, {"c": (20,)})
    models = [model(seed, {"a": (30,), "b": (9,), "c": (20,)}) for seed in (2, 3)]
    inputs = [
        contribution(f"c{index}", file_of({**each, "n": np.arange(3)}), 0.5)
        for index, each in enumerate(models)
    ]
    method = Recording()

    fuse_bytes(file_of(base), inputs, chunk_bytes, method=method)

    assert [block.shape for block in method.seen] == [(2, 16)] * 3 + [(2, 11)]
    expected = [np.concatenate([each[name] for name in "abc"]) for each in models]
    assert np.hstack(method.seen).tolist() == np.stack(expected).tolist()


@pytest.mark.parametrize("name", SURVEYED)
def test_nothing_comes_before_all_deltas_were_looked_at(name: str) -> None:
    data = file_of({"w": np.ones(100, np.float32)})
    broken = file_of({"w": np.append(np.ones(99), np.nan).astype(np.float32)})
    inputs = [contribution("c1", data), contribution("c2", broken)]
    base = MemorySource("base", data)
    parts = fuse_stream(
        base, digest_of(data), inputs, chunk_bytes=40, threads=2, method=a_method(name)
    )

    with pytest.raises(ContributionFault, match="c2"):
        next(parts)

    assert len(base.reads) == 2, "more than the header of the base model was read"


@pytest.mark.parametrize("name", SURVEYED)
def test_each_survey_reads_every_file_of_deltas_once(name: str) -> None:
    data = file_of(model(0, {"w": (100,)}))
    base, old = MemorySource("base", data), MemorySource("old", data)
    own = [MemorySource(f"c{index}", data) for index in range(2)]
    inputs = [
        FusionInput("c0", own[0], digest_of(data), "delta", 0.5),
        FusionInput(
            "c1", own[1], digest_of(data), "full", 0.5, ModelFiles.single(old, digest_of(data))
        ),
    ]

    for _ in fuse_stream(
        base, digest_of(data), inputs, chunk_bytes=40, threads=2, method=a_method(name)
    ):
        pass

    passes = 3 if name == "ties" else 2
    for source in (*own, old):
        assert sum(end - start for start, end in source.reads[2:]) == passes * 400
    assert sum(end - start for start, end in base.reads[2:]) == 400


class ChangingSource(MemorySource):
    """A file whose data is another one after so many reads."""

    remaining = 0

    def read(self, offset: int, num_bytes: int) -> bytes:
        self.remaining -= 1
        data = super().read(offset, num_bytes)
        return data if self.remaining >= 0 else bytes(len(data))


@pytest.mark.parametrize("name", SURVEYED)
@pytest.mark.parametrize("good_passes", [0, 1])
def test_a_file_that_changes_between_two_passes_is_refused(name: str, good_passes: int) -> None:
    data = file_of(model(0, {"w": (100,)}))
    source = ChangingSource("c1", data)
    source.remaining = 2 + 10 * good_passes
    inputs = [contribution("c0", data), FusionInput("c1", source, digest_of(data), "delta", 1.0)]

    with pytest.raises(ContributionFault) as caught:
        fuse_bytes(data, inputs, 40, method=a_method(name))

    assert caught.value.contribution_id == "c1"
    assert isinstance(caught.value.cause, DigestMismatchError)


@pytest.mark.parametrize("name", SURVEYED)
def test_coefficients_without_a_meaning_are_refused_before_anything_is_read(name: str) -> None:
    data = file_of(model(0, {"w": (3,)}))
    base = MemorySource("base", data)
    with pytest.raises(UsageError, match="coefficients"):
        fuse_stream(
            base,
            digest_of(data),
            [contribution("c", data, -1.0)],
            chunk_bytes=64,
            threads=1,
            method=a_method(name),
        )
    assert base.reads == []


def test_the_digest_of_what_is_random_or_ranked_is_the_same_on_every_machine() -> None:
    base = file_of({"w": np.arange(1000, dtype=np.float32) / 7})
    inputs = [
        contribution(f"c{seed}", file_of({"w": np.arange(1000, dtype=np.float32) % seed}), 1 / 3)
        for seed in (3, 11, 13)
    ]
    found = {
        name: digest_of(fuse_bytes(base, inputs, method=make_method(name, {})))[:16]
        for name in ("ties", "dare")
    }
    assert found == {"ties": "3a63dba4a9cf4b2f", "dare": "4ae5785253245676"}


@pytest.mark.parametrize("name", FACTORED)
@pytest.mark.parametrize("weights", ["equal", "distinct"])
def test_inner_products_in_another_order_give_the_same_bits(
    name: str, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = file_of({"w": np.ones(5000)})  # float64, where every bit of a factor shows
    inputs = inputs_of(deltas_of(7, 5000), weights_of(weights, 7, 1.0))
    expected = fuse_bytes(base, inputs, 1 << 12, method=a_method(name))
    observe = gram._GramTally.observe
    monkeypatch.setattr(
        gram._GramTally, "observe", lambda self, block: observe(self, np.array(block[:, ::-1]))
    )

    assert fuse_bytes(base, inputs, 1 << 12, method=a_method(name)) == expected
