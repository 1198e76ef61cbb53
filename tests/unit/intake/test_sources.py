from __future__ import annotations

from pathlib import Path

import pytest

from coldfusion_queue.errors import UsageError
from coldfusion_queue.intake.sources import (
    HubSource,
    LocalSource,
    S3Source,
    Source,
    parse_source,
    suggest_name,
)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param("a.csv", LocalSource(Path("a.csv")), id="file"),
        pytest.param("../x/../a.csv", LocalSource(Path("../x/../a.csv")), id="path with .."),
        pytest.param("./hub:a", LocalSource(Path("hub:a")), id="file named like a hub dataset"),
        pytest.param("my data (1).csv", LocalSource(Path("my data (1).csv")), id="spaces"),
        pytest.param("hub:imdb", HubSource("imdb", None), id="name"),
        pytest.param("hub:glue:sst2", HubSource("glue", "sst2"), id="name and configuration"),
        pytest.param("hub:a/b:c.d", HubSource("a/b", "c.d"), id="owner, name and configuration"),
        pytest.param("hub:a/b/c", HubSource("a/b", "c"), id="three parts"),
        pytest.param("hub:a/b", HubSource("a/b", None, HubSource("a", "b")), id="two parts"),
        pytest.param("s3://data/x/a.csv", S3Source("data", "x/a.csv"), id="object"),
        pytest.param("s3://data/x/", S3Source("data", "x/"), id="prefix"),
        pytest.param("s3://data", S3Source("data", ""), id="bucket"),
    ],
)
def test_data_is_parsed(data: str, expected: Source) -> None:
    assert parse_source(data) == expected


@pytest.mark.parametrize(
    "data",
    [
        "",
        "  ",
        "a\0b.csv",
        "https://example.org/a.csv",
        "~nobody-of-this-name/a.csv",
        "hub:",
        "hub:a b",
        "hub:a/../b",
        "hub:../../etc",
        "hub:a..b",
        "hub:/a",
        "hub:a/",
        "hub:a:",
        "hub:a:b:c",
        "hub:a/b/c:d",
        "hub:a/b/c/d",
        "s3:a",
        "s3:/a/b",
        "s3://",
        "s3:///key.csv",
        "s3://Bucket/a.csv",
        "s3://a/b.csv",
        "s3://data/../secret.csv",
        "s3://data/x/..",
        "s3://data/./a.csv",
        "s3://data//a.csv",
        "s3://data/a\n.csv",
    ],
)
def test_data_of_no_known_form_is_refused_with_what_was_got_and_expected(data: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_source(data)
    message = str(caught.value)
    assert caught.value.exit_code == 2
    assert message.startswith(f"dataset {data!r} cannot be taken: expected ")
    assert message.isprintable()


def test_tilde_is_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse_source("~/a.csv") == LocalSource(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param("x/Movie Reviews (2024).csv", "movie-reviews-2024", id="stem"),
        pytest.param("x/movies/train.csv", "movies", id="folder of train"),
        pytest.param("x/movies/Data.csv", "movies", id="folder of data"),
        pytest.param("x/movies/dev.csv", "movies", id="folder of dev"),
        pytest.param("/train.csv", "train", id="no folder"),
        pytest.param("hub:nyu-mll/glue:sst2", "glue-sst2", id="hub with configuration"),
        pytest.param("hub:imdb", "imdb", id="hub"),
        pytest.param("s3://data/movies/test.csv", "movies", id="folder of object"),
        pytest.param("s3://data/x/movies.csv", "movies", id="object"),
        pytest.param("s3://data/movies/", "movies", id="prefix"),
        pytest.param("s3://data", "data", id="bucket"),
    ],
)
def test_name_is_suggested_from_what_says_most(data: str, expected: str) -> None:
    assert suggest_name(parse_source(data)) == expected


def test_name_of_the_current_directory_is_suggested_for_a_dot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "my-notes.v2"
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert suggest_name(parse_source(".")) == "my-notes-v2"
