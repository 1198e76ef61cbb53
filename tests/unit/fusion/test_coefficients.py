from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coldfusion_queue.errors import UsageError
from coldfusion_queue.fusion.coefficients import coefficients, importance, staleness_factor
from coldfusion_queue.records import Contribution, FileRecord, Policy


def contribution(
    base_version: int, num_examples: int = 1, contributor: str = "someone"
) -> Contribution:
    return Contribution(
        contribution_id=f"c{base_version}-{num_examples}",
        submission_id="s",
        contributor_id=contributor,
        dataset_id=None,
        turn=1,
        attempt="a",
        base_version=base_version,
        base_digest="0" * 64,
        form="delta",
        shared=FileRecord(key="k", digest="0" * 64, num_bytes=1),
        head=None,
        num_examples=num_examples,
        metrics={},
        created_at=datetime(2024, 1, 1, tzinfo=UTC),
        created_by="test",
    )


@pytest.mark.parametrize(
    ("shape", "exponent", "grace", "staleness", "expected"),
    [
        pytest.param("constant", 0.5, 4, 0, 1.0, id="constant, fresh"),
        pytest.param("constant", 0.5, 4, 99, 1.0, id="constant, old"),
        pytest.param("polynomial", 0.5, 4, 0, 1.0, id="polynomial, fresh counts fully, not half"),
        pytest.param("polynomial", 0.5, 4, 3, 0.5, id="polynomial, 4^-0.5"),
        pytest.param("polynomial", 0.5, 4, 8, 1 / 3, id="polynomial, 9^-0.5"),
        pytest.param("polynomial", 1.0, 4, 3, 0.25, id="polynomial, 4^-1"),
        pytest.param("polynomial", 0.0, 4, 7, 1.0, id="polynomial, exponent 0 is constant"),
        pytest.param("hinge", 10.0, 4, 0, 1.0, id="hinge, fresh"),
        pytest.param("hinge", 10.0, 4, 4, 1.0, id="hinge, last of the grace"),
        pytest.param("hinge", 10.0, 4, 5, 1 / 11, id="hinge, 1 / (10 * 1 + 1)"),
        pytest.param("hinge", 0.5, 4, 6, 0.5, id="hinge, 1 / (0.5 * 2 + 1)"),
        pytest.param("hinge", 1.0, 0, 3, 0.25, id="hinge without grace, 1 / (3 + 1)"),
    ],
)
def test_staleness_factor_has_the_value_computed_by_hand(
    shape: Any, exponent: float, grace: int, staleness: int, expected: float
) -> None:
    policy = Policy(staleness=shape, staleness_exponent=exponent, staleness_grace=grace)
    assert staleness_factor(policy, staleness) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("shape", ["constant", "polynomial", "hinge"])
def test_staleness_factor_falls_from_exactly_one_and_never_reaches_zero(shape: Any) -> None:
    policy = Policy(staleness=shape, staleness_exponent=300)
    factors = [staleness_factor(policy, staleness) for staleness in range(200)]
    assert factors[0] == 1.0
    assert factors == sorted(factors, reverse=True)
    assert factors[-1] > 0


@pytest.mark.parametrize("shape", ["constant", "polynomial", "hinge"])
def test_a_contribution_to_a_version_that_does_not_exist_yet_is_refused(shape: Any) -> None:
    with pytest.raises(UsageError, match="-1"):
        staleness_factor(Policy(staleness=shape), -1)


@pytest.mark.parametrize(
    ("kind", "num_examples", "expected"),
    [
        pytest.param("uniform", 5000, 1, id="uniform counts everybody once"),
        pytest.param("uniform", 0, 1, id="uniform, unknown size"),
        pytest.param("examples", 5000, 5000, id="examples counts examples"),
        pytest.param("examples", 0, 1, id="examples, unknown size counts as 1"),
        pytest.param("examples", 10**400, 2**63, id="examples, a count that cannot be"),
        pytest.param("capped", 999, 999, id="capped, below the cap"),
        pytest.param("capped", 1001, 1000, id="capped, above the cap"),
        pytest.param("capped", 0, 1, id="capped, unknown size counts as 1"),
    ],
)
def test_importance_has_the_value_computed_by_hand(
    kind: Any, num_examples: int, expected: float
) -> None:
    policy = Policy(importance=kind, importance_cap=1000)
    assert importance(policy, num_examples) == expected


def test_default_policy_on_fresh_contributions_is_the_papers_mean() -> None:
    fresh = [contribution(7, num_examples) for num_examples in (10, 20, 30, 40)]
    assert coefficients(Policy(), 7, fresh) == [0.25] * 4


def test_coefficients_combine_staleness_importance_and_server_learning_rate() -> None:
    # Given w = 100 * 1, 300 * 4^-0.5 and 50 * 1, that is 100, 150 and 50 of 300
    policy = Policy(importance="examples", server_learning_rate=0.6)
    given_contributions = [contribution(9, 100), contribution(6, 300), contribution(9, 50)]

    found = coefficients(policy, 9, given_contributions)

    assert found == pytest.approx([0.2, 0.3, 0.1], rel=1e-15)


def test_where_contributors_count_alike_absence_is_made_up_for_and_what_is_double_shared() -> None:
    # Given version 9 as the base: fast was in it twice over, medium in 7, slow in 2, new in none;
    # b is 1 / 2 twice, 3, and at most 6 for slow's 8 and for new
    policy = Policy(balance="contributors", balance_limit=6, server_learning_rate=0.5)
    names = ["fast", "medium", "fast", "slow", "new"]
    given_contributions = [contribution(9, contributor=name) for name in names]

    found = coefficients(policy, 9, given_contributions, {"fast": 9, "medium": 7, "slow": 2})

    expected = [0.5 * share / 16 for share in (0.5, 3, 0.5, 6, 6)]
    assert found == pytest.approx(expected, rel=1e-15)


def test_who_was_never_there_counts_for_the_versions_that_there_were() -> None:
    policy = Policy(balance="contributors")
    given_contributions = [contribution(2, contributor=name) for name in ("old", "new")]

    found = coefficients(policy, 2, given_contributions, {"old": 2})

    assert found == pytest.approx([1 / 4, 3 / 4], rel=1e-15)


def test_balance_goes_with_staleness_and_importance() -> None:
    # Given w = 100 * 1 * 1 and 300 * 4^-0.5 * 4, that is 100 and 600 of 700
    policy = Policy(importance="examples", balance="contributors")
    given_contributions = [contribution(9, 100, "fast"), contribution(6, 300, "slow")]

    found = coefficients(policy, 9, given_contributions, {"fast": 9, "slow": 6})

    assert found == pytest.approx([1 / 7, 6 / 7], rel=1e-15)


def test_without_balance_it_does_not_matter_who_was_there() -> None:
    given_contributions = [contribution(9, contributor=name) for name in ("fast", "slow")]
    assert coefficients(Policy(), 9, given_contributions, {"fast": 9}) == [0.5, 0.5]


def test_no_contributions_have_no_coefficients() -> None:
    assert coefficients(Policy(), 3, []) == []


def test_coefficients_refuse_a_contribution_to_a_newer_version() -> None:
    with pytest.raises(UsageError):
        coefficients(Policy(), 3, [contribution(3), contribution(4)])


policies = st.builds(
    Policy,
    staleness=st.sampled_from(["constant", "polynomial", "hinge"]),
    staleness_exponent=st.floats(0, 1e4),
    staleness_grace=st.integers(0, 10),
    importance=st.sampled_from(["uniform", "examples", "capped"]),
    importance_cap=st.integers(1, 10**6),
    balance=st.sampled_from(["contributions", "contributors"]),
    balance_limit=st.integers(1, 60),
    server_learning_rate=st.floats(1e-3, 10),
)
names = st.sampled_from("abcd")
members = st.lists(
    st.builds(contribution, st.integers(0, 50), st.integers(0, 10**9), names),
    min_size=1,
    max_size=20,
)
histories = st.dictionaries(names, st.integers(1, 50))


@settings(deadline=None)
@given(policies, members, histories)
def test_coefficients_sum_to_the_server_learning_rate(
    policy: Policy, contributions: list[Contribution], served: dict[str, int]
) -> None:
    found = coefficients(policy, 50, contributions, served)
    assert all(coefficient >= 0 for coefficient in found)
    assert math.fsum(found) == pytest.approx(policy.server_learning_rate, rel=1e-12)


@settings(deadline=None)
@given(policies, members, histories, st.randoms())
def test_coefficients_do_not_depend_on_the_order(
    policy: Policy, contributions: list[Contribution], served: dict[str, int], random: Any
) -> None:
    order = list(range(len(contributions)))
    random.shuffle(order)
    found = coefficients(policy, 50, contributions, served)

    shuffled = coefficients(policy, 50, [contributions[index] for index in order], served)

    assert shuffled == [found[index] for index in order]
