"""Paths of private data: within the site's directory, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from coldfusion_queue.cli.submit_site import parse_site
from coldfusion_queue.errors import InvalidDatasetError, UsageError
from coldfusion_queue.sites.paths import check_path, find_data


@pytest.mark.parametrize(
    ("path", "taken"),
    [("notes.csv", "notes.csv"), ("2024/notes/", "2024/notes"), ("a b/ü.jsonl", "a b/ü.jsonl")],
)
def test_a_path_within_a_directory_is_taken(path: str, taken: str) -> None:
    assert check_path(path) == taken


@pytest.mark.parametrize(
    "path",
    [
        *("", "/", ".", "..", "/etc/passwd", "../secret", "a/../../secret", "a//b", "a/./b"),
        *("a\\..\\b", "a\0b", "a\nb", "x" * 501),
    ],
)
def test_any_other_path_is_refused_when_it_is_submitted_and_at_the_site(
    path: str, tmp_path: Path
) -> None:
    for refuse in (lambda: check_path(path), lambda: find_data(tmp_path, path)):
        with pytest.raises(UsageError, match="path of site data"):
            refuse()


def test_what_is_in_the_directory_is_found_with_links_resolved(tmp_path: Path) -> None:
    (tmp_path / "data" / "sub").mkdir(parents=True)
    (tmp_path / "data" / "sub" / "train.csv").touch()
    (tmp_path / "data" / "newest").symlink_to("sub")
    (tmp_path / "mounted").symlink_to("data")

    found = find_data(tmp_path / "mounted", "newest/train.csv")

    assert found == (tmp_path / "data" / "sub" / "train.csv").resolve()
    assert find_data(tmp_path / "data", "nothing.csv") == (tmp_path / "data/nothing.csv").resolve()


@pytest.mark.parametrize("path", ["file.csv", "up", "up/secret.csv", "folder", "mixed"])
def test_a_link_that_leads_out_of_the_directory_is_refused_and_not_said_where_to(
    path: str, tmp_path: Path
) -> None:
    outside, data = tmp_path / "outside", tmp_path / "data"
    for directory in (outside, data / "mixed"):
        directory.mkdir(parents=True)
    (outside / "secret.csv").touch()
    (data / "file.csv").symlink_to(outside / "secret.csv")
    (data / "up").symlink_to("..")
    (data / "folder").symlink_to(outside)
    (data / "mixed" / "train.csv").symlink_to(outside / "secret.csv")

    with pytest.raises(InvalidDatasetError, match="leads out of the site's data dir") as caught:
        find_data(data, path)

    assert str(caught.value).startswith(f"dataset site:{path}: ")
    assert str(tmp_path) not in str(caught.value)


def test_site_and_path_are_read_from_the_arguments() -> None:
    assert parse_site("site:a/b/", "x-1") == {"site": "x-1", "path": "a/b"}
    assert parse_site("./site:a", None) is None


@pytest.mark.parametrize(
    ("data", "site", "says"),
    [
        pytest.param("site:notes.csv", None, r"--site 'nothing with site:notes.csv'", id="alone"),
        pytest.param("notes.csv", "a", r"'a with notes.csv'.*site:PATH", id="other-data"),
        pytest.param("site:notes.csv", "A", r"site name 'A'", id="upper-case"),
        pytest.param("site:notes.csv", "a.b", r"site name 'a.b'", id="dot"),
        pytest.param("site:notes.csv", "a b", r"site name 'a b'", id="space"),
        pytest.param("site:notes.csv", "", r"site name ''", id="empty"),
        pytest.param("site:../notes.csv", "a", r"path of site data '../notes.csv'", id="upwards"),
    ],
)
def test_arguments_that_do_not_name_private_data_are_refused(
    data: str, site: str | None, says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        parse_site(data, site)
