"""Private data made ready: what a finetune is told of it, and what a refusal says."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from coldfusion_queue.errors import InvalidDatasetError, NotFoundError
from coldfusion_queue.intake.examples import load_examples
from coldfusion_queue.records import DatasetRecord, Objective, SiteData
from coldfusion_queue.settings import Settings, load_settings
from coldfusion_queue.sites.preparing import SiteDataset, prepared_data
from tests.rows import rows, write_rows

CANARY = "zqxzqx"
Write = Callable[[Path], object]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "data").mkdir()
    return load_settings(site="a", site_data_dir=tmp_path / "data", home=tmp_path / "home")


def prepare(settings: Settings, path: str, turn: int = 1, **fields: object) -> SiteDataset:
    data = SiteData.model_validate({"site": "a", "path": path, **fields})
    with prepared_data(settings, data, "s", turn) as found:
        return found


def data_dir(settings: Settings) -> Path:
    assert settings.site_data_dir is not None
    return settings.site_data_dir


def test_a_finetune_is_told_the_number_of_classes_and_not_their_names(settings: Settings) -> None:
    write_rows(data_dir(settings) / "notes.csv", rows("pair"))
    data = SiteData(site="a", path="notes.csv")
    with prepared_data(settings, data, "s", 1) as found:
        examples = load_examples(found.splits["train"])
        path = found.splits["train"]

    assert (found.record.objective, found.record.is_pair) == (Objective.CLASSIFICATION, True)
    assert found.record.labels == ("0", "1", "2")
    assert examples.labels == [0, 1, 2] * 8
    assert path.is_relative_to(settings.site_scratch_dir)
    assert not path.exists()


def test_the_id_says_where_the_data_is_and_nothing_of_what_it_holds(settings: Settings) -> None:
    records: list[DatasetRecord] = []
    for seed in (1, 2):
        write_rows(data_dir(settings) / "notes.csv", rows("single", seed=seed))
        records.append(prepare(settings, "notes.csv").record)

    first, second = records
    assert first.splits["train"].file.digest != second.splits["train"].file.digest
    assert first.dataset_id == second.dataset_id == "site:a/notes.csv"


def test_other_classes_than_at_the_turn_before_are_noticed(settings: Settings) -> None:
    path = data_dir(settings) / "notes.jsonl"
    examples = rows("single")
    write_rows(path, examples)
    assert not prepare(settings, "notes.jsonl", 1).has_other_labels
    assert not prepare(settings, "notes.jsonl", 2).has_other_labels

    renamed = [{**row, "label": str(row["label"]).replace("label2", "other")} for row in examples]
    write_rows(path, renamed)

    assert prepare(settings, "notes.jsonl", 3).has_other_labels
    # The same turn once more, as after a crash: the head of turn 2 fits no better.
    assert prepare(settings, "notes.jsonl", 3).has_other_labels
    assert not prepare(settings, "notes.jsonl", 4).has_other_labels


@pytest.mark.parametrize("site", [None, "b"])
def test_a_worker_of_another_site_has_no_data_of_this_one(
    site: str | None, settings: Settings
) -> None:
    directory = None if site is None else data_dir(settings)
    other = load_settings(site=site, site_data_dir=directory)

    with pytest.raises(NotFoundError, match=r"the data of site 'a' .*COLDFUSION_SITE=a"):
        prepare(other, "notes.csv")


def text(content: str) -> Write:
    return lambda path: path.write_text(content, encoding="utf-8")


def folder(*names: str) -> Write:
    def write(path: Path) -> None:
        path.mkdir()
        for name in names:
            write_rows(path / name, rows("single"))

    return write


@pytest.mark.parametrize(
    ("path", "write", "fields", "says"),
    [
        pytest.param(
            "n.csv",
            text(f"{CANARY} a,{CANARY}-b\n" * 9),
            {},
            "site:n.csv: none of its columns is known as a text column: 2 names that stay at",
            id="no-header",
        ),
        pytest.param(
            "n.csv",
            text(f"text,{CANARY}\n" * 9),
            {"text": "text"},
            "as a label column: 'text' and 1 more that stay at the site",
            id="no-label",
        ),
        pytest.param(
            "n.csv",
            text(f"text,{CANARY}label\n" * 9),
            {"label": "zqxzqxlabe"},
            "no column 'zqxzqxlabe', only 2 names that stay .*; name one of them with --label",
            id="close-to-a-column",
        ),
        pytest.param(
            "n.csv",
            text(f"{CANARY},{CANARY}\na,b\n"),
            {},
            "its header names 1 names that stay at the site more than once",
            id="doubled",
        ),
        pytest.param(
            "n.jsonl",
            text(f'{{"text": "{CANARY}", "label": "{CANARY}"\n'),
            {},
            "line 1 is not valid JSON",
            id="broken-json",
        ),
        pytest.param(
            "n.jsonl",
            text(f'{{"text": "{CANARY}", "label": "{CANARY}"}}\n' * 3),
            {},
            "all of its 3 rows have the same label",
            id="one-label",
        ),
        pytest.param(
            "n.jsonl",
            text(f'{{"Text": 3, "{CANARY}": "{CANARY}"}}\n' * 3),
            {"label": CANARY},
            r"column <a name that stays at the site> is no text in 3 rows \(lines 1, 2, 3\)",
            id="no-text",
        ),
        pytest.param(
            "n",
            folder(f"{CANARY}1.jsonl", f"{CANARY}2.jsonl"),
            {},
            "site:n: it has no split 'train', only 2 names that stay at the site",
            id="files",
        ),
        pytest.param(
            "n",
            folder(f"{CANARY}-00000-of-00003.jsonl", f"{CANARY}-00001-of-00003.jsonl"),
            {},
            "2 names that stay at the site are not exactly the parts of one split",
            id="parts",
        ),
        pytest.param(
            "n",
            lambda path: (path.mkdir(), (path / f"{CANARY}.csv").write_text("a,b\n1,2\n3\n")),
            {"text": "a", "label": "b"},
            "site:n/<a name that stays at the site>: line 3 has 1 fields, expected 2",
            id="file-of-a-folder",
        ),
        pytest.param(
            "n",
            lambda path: (path.mkdir(), (path / "train.csv").write_text("a,b\n1,2\n3\n")),
            {"text": "a", "label": "b"},
            "site:n/train.csv: line 3 has 1 fields",
            id="split-file-of-a-folder",
        ),
        pytest.param("n.csv", lambda path: None, {}, "site:n.csv: there is no such", id="nothing"),
        pytest.param(
            "n.parquet",
            text(CANARY * 9),
            {},
            "site:n.parquet: it is not a Parquet file or damaged",
            id="not-parquet",
        ),
    ],
)
def test_a_refusal_names_nothing_that_the_submission_did_not_name(
    path: str, write: Write, fields: dict[str, object], says: str, settings: Settings
) -> None:
    write(data_dir(settings) / path)

    with pytest.raises(InvalidDatasetError, match=says) as caught:
        prepare(settings, path, **fields)

    given = str(fields.get("label", ""))
    message = str(caught.value).replace(f"'{given}'", "")
    assert CANARY not in message
    assert str(settings.site_data_dir) not in message
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    assert list(settings.site_scratch_dir.iterdir()) == []


def test_beside_a_site_all_names_are_shown_as_ever(settings: Settings, tmp_path: Path) -> None:
    from coldfusion_queue.intake.prepare import prepare_dataset

    write_rows(data_dir(settings) / "notes.csv", rows("single"))
    prepare(settings, "notes.csv")
    bad = tmp_path / "bad.csv"
    bad.write_text("one,two\na,b\n")

    with pytest.raises(InvalidDatasetError, match=re.escape("text column: 'one', 'two'")):
        prepare_dataset(str(bad), work_dir=tmp_path)


def test_where_a_link_leads_is_not_told(settings: Settings) -> None:
    (data_dir(settings) / f"notes.{CANARY}").write_text("text,label\n", encoding="utf-8")
    (data_dir(settings) / "notes").symlink_to(f"notes.{CANARY}")

    with pytest.raises(InvalidDatasetError, match=r"site:notes: its extension is") as caught:
        prepare(settings, "notes")

    assert CANARY not in str(caught.value)
