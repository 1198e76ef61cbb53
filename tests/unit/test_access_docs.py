"""The pages about rights say what the files say that the servers are given."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.access import ACL_FILES, POLICIES

DOCS = Path(__file__).parents[2] / "docs"
ACCESS, SITES = ((DOCS / name).read_text("utf-8") for name in ("access.md", "sites.md"))

#: A managed policy of AWS has at most so many characters; names take the place of ours.
MOST_CHARACTERS = 6144


def table_row(heading: str, first: str) -> list[set[str]]:
    """What the cells of a row name, in the table whose head begins so."""
    table = ACCESS[ACCESS.index(f"| role | {heading}") :].partition("\n\n")[0]
    (row,) = [line for line in table.splitlines() if line.startswith(f"| `{first}` |")]
    return [set(re.findall(r"`([^`]+)`", cell)) for cell in row.split("|")[2:-1]]


def statements(role: str) -> dict[str, dict[str, Any]]:
    found = json.loads(POLICIES[role].read_text("utf-8"))["Statement"]
    return {statement["Sid"]: statement for statement in found}


def keys(statement: dict[str, Any] | None) -> set[str]:
    return {_below(name) for name in statement["Resource"]} if statement else set()


def listed(statement: dict[str, Any]) -> set[str]:
    return {_below(name) for name in statement["Condition"]["StringLike"]["s3:prefix"]}


def _below(name: str) -> str:
    return name.removeprefix("arn:aws:s3:::BUCKET/").removeprefix("REPOSITORY/")


@pytest.mark.parametrize("role", POLICIES)
def test_the_page_says_which_objects_a_role_reads_writes_deletes_and_lists(role: str) -> None:
    of = statements(role)
    rights = [keys(of.get(name)) for name in ("Read", "Write", "Delete")]

    assert table_row("reads | writes | deletes", role) == [
        *rights,
        listed(of["List"]) - keys(of["Read"]),
    ]
    assert keys(of["Read"]) <= listed(of["List"])


@pytest.mark.parametrize("role", ACL_FILES)
def test_the_page_says_which_keys_a_role_reads_and_writes_at_the_broker(role: str) -> None:
    rules = ACL_FILES[role].read_text("utf-8").split()
    own = [rule for rule in rules if not re.search(r"_kombu|pidbox|\[", rule)]
    rights = []
    for mark in ("~", "%R~", "%W~"):
        found = {rule.removeprefix(mark) for rule in own if rule.startswith(mark)}
        rights.append({key.replace("coldfusion:REPOSITORY:", ":") for key in found})

    assert table_row("reads and writes", role) == rights


def test_the_page_about_sites_has_the_policy_and_the_rules_of_a_site() -> None:
    of = statements("site")
    for right, name in (("GetObject", "Read"), ("PutObject", "Write"), ("DeleteObject", "Delete")):
        (row,) = [line for line in SITES.splitlines() if line.startswith(f"| `{right}`")]
        assert set(re.findall(r"`([^`]+)`", row.split("|")[2])) == keys(of[name])
    assert listed(of["List"]) == keys(of["Read"])
    (shown,) = re.findall(r"^user hospital-a on >PASSWORD\n(.*?)^```", SITES, re.M | re.S)
    assert shown.split() == ACL_FILES["site"].read_text("utf-8").split()


@pytest.mark.parametrize("role", POLICIES)
def test_a_policy_only_allows_and_has_the_size_that_aws_takes(role: str) -> None:
    text = POLICIES[role].read_text("utf-8")
    num_names = text.count("BUCKET") + text.count("REPOSITORY")

    assert {statement["Effect"] for statement in statements(role).values()} == {"Allow"}
    # With a bucket and a repository of the longest names.
    assert len("".join(text.split())) + 57 * num_names <= MOST_CHARACTERS


@pytest.mark.parametrize("role", ACL_FILES)
def test_the_rules_of_a_user_begin_with_nothing_and_are_one_line(role: str) -> None:
    text = ACL_FILES[role].read_text("utf-8")

    assert text.count("\n") == 1
    assert text.split()[:3] == ["resetkeys", "resetchannels", "-@all"]
    assert not {"~*", "&*", "+@all", "+@admin", "+@dangerous"} & set(text.split())
