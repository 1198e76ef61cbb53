"""Data and arguments that are wrong: one clear sentence, an exit code, no trace."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from tests.acceptance.refusals import GIB, Write, check, good, lines, run, traces
from tests.acceptance.world import World
from tests.rows import rows


@pytest.fixture
def world(untouched_world: World) -> World:
    """A repository that must be left as it was."""
    return untouched_world


# --- data -------------------------------------------------------------------------------------

SINGLE = rows("single")


@pytest.mark.parametrize(
    ("name", "write", "options", "says"),
    [
        pytest.param(
            "missing.jsonl",
            lambda path: None,
            (),
            ("missing.jsonl", "there is no such file or folder", "check the path"),
            id="missing-file",
        ),
        pytest.param(
            "empty.jsonl",
            lambda path: path.touch(),
            (),
            ("empty.jsonl", "is empty, expected labelled examples", "write one"),
            id="empty-file",
        ),
        pytest.param(
            "empty.csv",
            lambda path: path.touch(),
            (),
            ("empty.csv", "is empty, expected labelled examples"),
            id="empty-csv",
        ),
        pytest.param(
            "empty.parquet", lambda path: path.touch(), (), ("empty.parquet",), id="empty-parquet"
        ),
        pytest.param(
            "column.jsonl",
            good,
            ("--label", "labl"),
            ("no column 'labl'", "only 'text', 'label'", "did you mean --label 'label'?"),
            id="wrong-column",
        ),
        pytest.param(
            "columns.jsonl",
            lines({"a": "x", "b": "y"}),
            (),
            ("text column", "'a', 'b'", "--text"),
            id="no-known-column",
        ),
        pytest.param(
            "one.jsonl",
            lines(*({**row, "label": "same"} for row in SINGLE)),
            (),
            ("all of its 24 rows have the same label", "expected at least 2", "add examples"),
            id="one-label-only",
        ),
        pytest.param(
            "gaps.jsonl",
            lines(*SINGLE[:5], {"text": "no label"}, *SINGLE[5:], {"text": "none", "label": None}),
            (),
            ("labels are missing in", "lines 6", "26", "label these rows, or remove them"),
            id="labels-missing-in-some-rows",
        ),
        pytest.param(
            "latin.csv",
            lambda path: path.write_bytes("text,label\ncafé,a\nthé,b\n".encode("latin-1")),
            (),
            ("latin.csv", "line 2 is not UTF-8 at byte 14", "save the file as UTF-8"),
            id="not-utf-8",
        ),
        pytest.param(
            "broken.jsonl",
            lambda path: path.write_text('{"text": "a", "label": "b"}\n{"text": \n', "utf-8"),
            (),
            ("broken.jsonl", "line 2"),
            id="broken-json",
        ),
        pytest.param(
            "notes.docx", good, (), ("notes.docx", ".jsonl", ".csv", ".parquet"), id="other-format"
        ),
    ],
)
def test_data_that_cannot_be_finetuned_on(
    world: World, name: str, write: Write, options: tuple[str, ...], says: tuple[str, ...]
) -> None:
    path = world.data / name
    write(path)

    check(world.run("coldfusion-submit", path, *options), 3, *says)


def test_two_gigabytes_of_one_line_are_refused_in_little_memory(world: World) -> None:
    path = world.data / "line.jsonl"
    with path.open("wb") as file:
        file.truncate(2 * GIB)  # of nothing, on disks that know how

    started = time.monotonic()
    done = world.run("coldfusion-submit", path, prefix=limited("RLIMIT_DATA", GIB))

    check(done, 3, "line.jsonl", "line 1 is longer than 16 MiB", "write one example a line")
    assert time.monotonic() - started < 10
    path.unlink()


def limited(resource: str, limit: int) -> list[str]:
    """A prefix that runs a command under a limit of its own."""
    code = (
        f"import os,resource as r,sys;r.setrlimit(r.{resource},({limit},{limit}));"
        "os.execv(sys.argv[1],sys.argv[1:])"
    )
    return [sys.executable, "-I", "-S", "-c", code]


def test_a_file_that_was_bad_can_be_submitted_once_it_is_good(idle_world: World) -> None:
    path = idle_world.data / "mended.jsonl"
    arguments = ("coldfusion-submit", path, "--name", "mended", "--json")
    before = traces(idle_world)
    for write in (lambda path: path.touch(), lines(SINGLE[0], {"text": "no label"})):
        write(path)
        check(idle_world.run(*arguments), 3)
        assert traces(idle_world) == before

    good(path)

    answer = idle_world.run(*arguments).json()
    assert idle_world.state(answer["submission"])["state"] == "open"


# --- names and paths --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "says"),
    [
        pytest.param(
            ("submit", "{data}", "--name", "../other"), ("'../other'", "'..'"), id="dots-in-name"
        ),
        pytest.param(("submit", "{data}", "--name", "two words"), ("'two words'",), id="space"),
        pytest.param(("submit", "{data}", "--name", "a/b"), ("'a/b'",), id="slash"),
        pytest.param(("submit", "{data}", "--name", ""), ("''",), id="empty-name"),
        pytest.param(
            ("submit", "s3://coldfusion/../secret.csv"), ("s3://BUCKET/KEY",), id="dots-in-s3-key"
        ),
        pytest.param(("submit", "hub:../secret"), ("hub:NAME",), id="dots-in-hub-name"),
        pytest.param(("submit", "ftp://host/x.csv"), (".jsonl",), id="unknown-scheme"),
        pytest.param(("submit", "{data}", "--set", "epoch=3"), ("did you mean epochs?",), id="set"),
        pytest.param(("submit", "{data}", "--set", "epochs=-1"), ("epochs=-1",), id="set-range"),
        pytest.param(
            ("submit", "{data}", "--turns", "forever", "--wait"), ("--wait",), id="wait-forever"
        ),
        pytest.param(("submit", "site:notes.csv"), ("--site", "site:notes.csv"), id="no-site"),
        pytest.param(("submit", "{data}", "--site", "a"), ("--site", "site:PATH"), id="site"),
        pytest.param(
            ("submit", "site:notes.csv", "--site", "A b"), ("site name 'A b'",), id="site-name"
        ),
        pytest.param(
            ("submit", "site:../notes.csv", "--site", "a"), ("'../notes.csv'",), id="site-path"
        ),
        pytest.param(
            ("contribute", "{model}", "--base-version", "0", "--name", "a b"),
            ("'a b'", "lower-case letters"),
            id="contribute-name",
        ),
        pytest.param(("pull", "newest", "{new}"), ("'newest'", "a number"), id="pull-version"),
    ],
)
def test_arguments_that_cannot_be_taken(
    world: World, command: tuple[str, ...], says: tuple[str, ...], tmp_path: Path
) -> None:
    done = run(world, command, tmp_path)

    check(done, 2, "cannot be taken: expected", *says)


@pytest.mark.parametrize(
    ("command", "says"),
    [
        pytest.param(("pull", "99", "{new}"), ("base version '99'", "newest is 0"), id="version"),
        pytest.param(("show", "nobody"), ("'nobody'",), id="show"),
        pytest.param(("show", "../../etc"), ("'../../etc'",), id="show-dots"),
        pytest.param(("cancel", "nobody"), ("'nobody'",), id="cancel"),
        pytest.param(("cancel", "../x y"), ("'../x y'",), id="cancel-dots"),
        pytest.param(("cancel", ""), ("''",), id="cancel-nothing"),
    ],
)
def test_what_is_not_there_is_named(
    world: World, command: tuple[str, ...], says: tuple[str, ...], tmp_path: Path
) -> None:
    done = run(world, command, tmp_path)

    check(done, 8, "does not exist", *says)
    assert list(tmp_path.iterdir()) == []


def test_pull_writes_over_nothing(world: World, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")

    check(world.run("coldfusion", "pull", tmp_path), 9, "already exists", "an empty one")

    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
