from __future__ import annotations

import numpy as np
import pytest

from coldfusion_queue.finetune.development import cut_development, thinned


@pytest.mark.parametrize(
    ("num_examples", "num_trained"),
    [
        pytest.param(250, 226, id="CB"),
        pytest.param(400, 360, id="COPA"),
        pytest.param(554, 498, id="WSC"),
        pytest.param(635, 571, id="WNLI"),
        pytest.param(2490, 2242, id="RTE"),
        pytest.param(3668, 3302, id="MRPC"),
        pytest.param(5428, 4886, id="WIC"),
        pytest.param(8551, 7695, id="CoLA"),
        pytest.param(9427, 8485, id="BoolQ"),
        pytest.param(27_243, 26_243, id="MultiRC"),
        pytest.param(67_349, 66_349, id="SST2"),
        pytest.param(104_743, 103_743, id="QNLI"),
        pytest.param(363_846, 362_846, id="QQP"),
        pytest.param(10_000, 9000, id="the-smallest-large-one"),
    ],
)
def test_the_training_sizes_are_those_of_the_authors(num_examples: int, num_trained: int) -> None:
    kept, cut = cut_development(num_examples)

    assert len(kept) == num_trained
    assert sorted([*kept, *cut]) == list(range(num_examples))
    assert list(kept) == list(range(kept[0], kept[-1] + 1))  # the middle; the ends are cut


@pytest.mark.parametrize("num_examples", [1, 2, 9, 10])
def test_of_a_handful_of_examples_none_is_cut(num_examples: int) -> None:
    kept, cut = cut_development(num_examples)

    assert (list(kept), list(cut)) == (list(range(num_examples)), [])


def test_both_ends_are_cut() -> None:
    assert list(cut_development(40)[1]) == [0, 1, 38, 39]
    assert list(cut_development(20_000)[1][[0, 499, 500, -1]]) == [0, 499, 19_500, 19_999]


def test_thinning_takes_evenly_spaced_ones() -> None:
    assert list(thinned(np.arange(100, 110), 5)) == [100, 102, 104, 106, 108]
    assert list(thinned(np.arange(7), 3)) == [0, 2, 4]
    assert list(thinned(np.arange(3), 3)) == [0, 1, 2]
    assert list(thinned(np.arange(0), 3)) == []
