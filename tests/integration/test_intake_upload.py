"""Datasets on a real S3 server: up, down again, and read from ``s3://``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from coldfusion_queue.errors import (
    DigestMismatchError,
    DiskFullError,
    InvalidDatasetError,
    InvalidRecordError,
    NotFoundError,
)
from coldfusion_queue.intake import (
    PreparedDataset,
    download_dataset,
    fetch_s3_with,
    load_examples,
    prepare_dataset,
    read_dataset_record,
    upload_dataset,
)
from coldfusion_queue.keys import ObjectKeys
from coldfusion_queue.settings import Settings
from coldfusion_queue.store import Store


def jsonl(labels: str) -> bytes:
    rows = [{"text": f"text {number}", "label": label} for number, label in enumerate(labels)]
    return "\n".join(json.dumps(row) for row in rows).encode()


@pytest.fixture
def prepared(tmp_path: Path) -> PreparedDataset:
    """A dataset with a training and a test split."""
    folder, work_dir = tmp_path / "notes", tmp_path / "work"
    folder.mkdir()
    work_dir.mkdir()
    (folder / "train.jsonl").write_bytes(jsonl("aabb"))
    (folder / "test.jsonl").write_bytes(jsonl("ab"))
    return prepare_dataset(str(folder), work_dir=work_dir)


def test_uploaded_dataset_comes_back_as_it_was(
    store: Store, keys: ObjectKeys, prepared: PreparedDataset, tmp_path: Path
) -> None:
    uploaded = upload_dataset(store, keys, prepared)
    record = read_dataset_record(store, keys, prepared.dataset_id)
    paths = download_dataset(store, record, tmp_path / "cache" / "new")
    assert record == uploaded
    assert (record.objective, record.is_pair, record.labels) == (
        "classification",
        False,
        ("a", "b"),
    )
    assert paths.keys() == {"train", "test"}
    for name, path in paths.items():
        assert record.splits[name].num_examples == prepared.splits[name].num_examples
        assert load_examples(path) == load_examples(prepared.splits[name].path)


def test_progress_adds_up_to_all_bytes_also_when_nothing_is_sent(
    store: Store, keys: ObjectKeys, prepared: PreparedDataset
) -> None:
    total = sum(split.num_bytes for split in prepared.splits.values())
    for _ in range(2):
        seen: list[int] = []
        upload_dataset(store, keys, prepared, seen.append)
        assert sum(seen) == total


def test_dataset_that_is_there_is_not_uploaded_again(
    store: Store, keys: ObjectKeys, prepared: PreparedDataset
) -> None:
    first = upload_dataset(store, keys, prepared)
    key = first.splits["train"].file.key
    store.put(key, b"a mark")
    assert upload_dataset(store, keys, prepared) == first
    assert store.get(key) == b"a mark"


def test_record_comes_last_and_a_broken_off_upload_is_completed(
    store: Store, keys: ObjectKeys, prepared: PreparedDataset
) -> None:
    # Given an upload that ends when it comes to its second split
    moved = prepared.splits["test"].path.rename(prepared.splits["test"].path.with_suffix(".away"))
    with pytest.raises(FileNotFoundError):
        upload_dataset(store, keys, prepared)
    assert store.stat(keys.dataset_split(prepared.dataset_id, "train")) is not None
    assert store.find(keys.dataset(prepared.dataset_id)) is None

    # When it is repeated, then the dataset is there
    moved.rename(prepared.splits["test"].path)
    record = upload_dataset(store, keys, prepared)
    assert read_dataset_record(store, keys, prepared.dataset_id) == record


def test_file_that_was_changed_since_is_not_committed(
    store: Store, keys: ObjectKeys, prepared: PreparedDataset
) -> None:
    with prepared.splits["train"].path.open("ab") as file:
        file.write(b"more")
    with pytest.raises(DigestMismatchError):
        upload_dataset(store, keys, prepared)
    assert store.find(keys.dataset(prepared.dataset_id)) is None


def test_file_that_is_there_is_not_downloaded_again_unless_it_is_damaged(
    store: Store, keys: ObjectKeys, prepared: PreparedDataset, tmp_path: Path
) -> None:
    record = upload_dataset(store, keys, prepared)
    first = download_dataset(store, record, tmp_path / "cache")
    before = {name: path.stat().st_ino for name, path in first.items()}
    first["test"].write_bytes(b"damaged")
    second = download_dataset(store, record, tmp_path / "cache")
    assert second["train"].stat().st_ino == before["train"]
    assert second["test"].read_bytes() == prepared.splits["test"].path.read_bytes()


def test_damaged_object_is_not_delivered(
    store: Store, keys: ObjectKeys, prepared: PreparedDataset, tmp_path: Path
) -> None:
    record = upload_dataset(store, keys, prepared)
    file = record.splits["train"].file
    store.put(file.key, b"x" * file.num_bytes)
    with pytest.raises(DigestMismatchError):
        download_dataset(store, record, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_full_disk_of_the_cache_names_its_variable(
    store: Store,
    keys: ObjectKeys,
    prepared: PreparedDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    record = upload_dataset(store, keys, prepared)
    monkeypatch.setattr("os.pwrite", full)
    with pytest.raises(DiskFullError, match="point COLDFUSION_HOME at a larger one"):
        download_dataset(store, record, tmp_path / "cache")


@pytest.mark.parametrize(
    "dataset_id", ["0" * 32, "../../elsewhere", ""], ids=["unknown", "a path", "empty"]
)
def test_dataset_that_is_not_there_is_not_found(
    store: Store, keys: ObjectKeys, dataset_id: str
) -> None:
    with pytest.raises(NotFoundError) as caught:
        read_dataset_record(store, keys, dataset_id)
    assert str(caught.value).startswith(f"dataset {dataset_id!r} does not exist; submit it again")


@pytest.mark.parametrize(
    ("splits", "file_of", "record_of"),
    [
        pytest.param(["train"], "train", "0" * 32, id="of another dataset"),
        pytest.param([], "train", None, id="without data"),
        pytest.param(["test"], "test", None, id="without a training split"),
        pytest.param(["train", "../../x"], "../../x", None, id="a path"),
        pytest.param(["train"], "test", None, id="file of another split"),
    ],
)
def test_record_that_is_not_the_datasets_own_is_refused(
    store: Store,
    keys: ObjectKeys,
    prepared: PreparedDataset,
    splits: list[str],
    file_of: str,
    record_of: str | None,
) -> None:
    # Given a record that was tampered with
    record = json.loads(upload_dataset(store, keys, prepared).to_bytes())
    train = record["splits"]["train"]
    last = {
        **train,
        "file": train["file"] | {"key": keys.dataset_split(prepared.dataset_id, file_of)},
    }
    record["splits"] = {name: last if name == splits[-1] else train for name in splits}
    record["dataset_id"] = record_of or prepared.dataset_id
    store.put(keys.dataset(prepared.dataset_id), json.dumps(record).encode())

    # When it is read, then it is refused before any path is made of it
    with pytest.raises(InvalidRecordError):
        read_dataset_record(store, keys, prepared.dataset_id)


def test_object_and_prefix_are_read_from_s3(
    store: Store, settings: Settings, keys: ObjectKeys, prepared: PreparedDataset, tmp_path: Path
) -> None:
    # Given the files of the same dataset in the store
    prefix = f"{keys.repository}/mine/notes/"
    store.put(f"{prefix}train.jsonl", jsonl("aabb"))
    store.put(f"{prefix}test.jsonl", jsonl("ab"))
    store.put(f"{prefix}deeper/train.csv", b"not read")
    work_dir = tmp_path / "from-s3"
    work_dir.mkdir()

    # When the prefix and one object are submitted
    address, fetch = f"s3://{settings.s3_bucket}/{prefix}", fetch_s3_with(settings)
    folder = prepare_dataset(address, work_dir=work_dir, fetch_s3=fetch)
    single = prepare_dataset(f"{address}train.jsonl", work_dir=work_dir, fetch_s3=fetch)

    # Then they are what they are locally, and are named after the folder
    assert folder.dataset_id == prepared.dataset_id
    assert single.splits["train"].digest == prepared.splits["train"].digest
    assert (folder.suggested_name, single.suggested_name) == ("notes", "notes")


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        pytest.param("nothing.csv", "nothing.csv: there is no such object", id="object"),
        pytest.param("nothing/", "there is no data file directly below it", id="prefix"),
        pytest.param(
            "notes.txt", "its extension is '.txt', expected one of .csv, ", id="extension"
        ),
    ],
)
def test_what_is_not_in_s3_is_refused(
    settings: Settings, store: Store, tmp_path: Path, key: str, problem: str
) -> None:
    with pytest.raises(InvalidDatasetError, match="check bucket and key") as caught:
        prepare_dataset(
            f"s3://{store.bucket}/{key}", work_dir=tmp_path, fetch_s3=fetch_s3_with(settings)
        )
    assert problem in str(caught.value)


def test_bucket_that_is_not_there_is_named(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as caught:
        prepare_dataset(
            "s3://no-such-bucket/a.csv", work_dir=tmp_path, fetch_s3=fetch_s3_with(settings)
        )
    expected = "bucket 'no-such-bucket' does not exist; check the name in s3://BUCKET"
    assert str(caught.value) == expected


def test_bad_rows_in_s3_are_named_by_their_address(
    settings: Settings, store: Store, keys: ObjectKeys, tmp_path: Path
) -> None:
    key = f"{keys.repository}/bad.jsonl"
    store.put(key, b"{}\n[]\n")
    address = f"s3://{store.bucket}/{key}"
    with pytest.raises(InvalidDatasetError) as caught:
        prepare_dataset(address, work_dir=tmp_path, fetch_s3=fetch_s3_with(settings))
    assert str(caught.value).startswith(f"dataset {address}: line 2 is a JSON array")
