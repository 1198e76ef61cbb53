"""Names and identifiers: everything that becomes part of an object key."""

from __future__ import annotations

import re

import pytest

from coldfusion_queue import names
from coldfusion_queue.errors import UsageError


@pytest.mark.parametrize("name", ["a", "7", "hospital-a", "x" * 63])
def test_check_site_returns_what_it_takes(name: str) -> None:
    assert names.check_site(name) == name


@pytest.mark.parametrize("name", ["", "x" * 64, "A", "a.b", "a_b", "a b", "-a", "a-", "ü", "a\n"])
def test_check_site_refuses_what_makes_no_queue(name: str) -> None:
    with pytest.raises(UsageError, match="1 to 63 lower-case letters") as caught:
        names.check_site(name)
    assert caught.value.what == "site name"


@pytest.mark.parametrize("name", ["a", "7", "wordnet-noun", "a.b_c-d", "x" * 63, "0-9"])
def test_check_name_returns_what_it_takes(name: str) -> None:
    assert names.check_name("contributor", name) == name


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("", id="empty"),
        pytest.param("x" * 64, id="too-long"),
        pytest.param("Upper", id="upper-case"),
        pytest.param("two words", id="space"),
        pytest.param("a/b", id="slash"),
        pytest.param("a\\b", id="backslash"),
        pytest.param("..", id="parent"),
        pytest.param("a..b", id="dots-inside"),
        pytest.param("-a", id="begins-with-dash"),
        pytest.param("a.", id="ends-with-dot"),
        pytest.param("name\n", id="line-end"),
        pytest.param("ü", id="not-ascii"),
        pytest.param("٣", id="digit-of-another-script"),
        pytest.param("a\0", id="nul"),
    ],
)
def test_check_name_refuses_and_says_what_it_expects(name: str) -> None:
    with pytest.raises(UsageError, match="1 to 63 lower-case letters") as caught:
        names.check_name("contributor", name)
    assert caught.value.what == "contributor name"
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("WordNet nouns", "wordnet-nouns"),
        ("train.v2.jsonl", "train-v2-jsonl"),
        ("--a--", "a"),
        ("../../etc/passwd", "etc-passwd"),
        ("日本語", "data"),
        ("", "data"),
        ("x" * 47 + " yz", "x" * 47),
    ],
)
def test_slug_is_always_a_name(text: str, expected: str) -> None:
    assert names.slug(text) == expected
    assert names.check_name("dataset", names.slug(text))


def test_submission_ids_are_unique_and_begin_with_the_contributor() -> None:
    made = {names.new_submission_id("wordnet") for _ in range(1000)}
    assert len(made) == 1000
    assert all(re.fullmatch(r"wordnet-\d{8}t\d{6}-[0-9a-f]{8}", one) for one in made)


def test_contribution_id_is_a_function_that_sorts_by_turn() -> None:
    assert names.contribution_id("s-1", 7) == names.contribution_id("s-1", 7) == "s-1.t00007"
    ids = [names.contribution_id("s-1", turn) for turn in (1, 9, 10, 99, 100, 12345)]
    assert ids == sorted(ids)


def test_attempts_are_unique() -> None:
    made = {names.new_attempt() for _ in range(1000)}
    assert len(made) == 1000
    assert all(re.fullmatch(r"[0-9a-f]{16}", one) for one in made)
