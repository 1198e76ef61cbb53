"""Hub datasets, without the hub: the library's own errors, and datasets built in memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from coldfusion_queue.errors import DiskFullError
from coldfusion_queue.intake.examples import load_examples
from coldfusion_queue.intake.prepare import PreparedDataset, prepare_dataset

Prepare = Callable[..., PreparedDataset]
Refusal = Callable[..., str]


def in_memory(**splits: Mapping[str, Any]) -> Any:
    """A ``datasets.DatasetDict`` whose labels are the classes neg and pos."""
    import datasets

    features = datasets.Features(
        {
            "idx": datasets.Value("int32"),
            "sentence": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["neg", "pos"]),
        }
    )
    made = {}
    for name, labels in splits.items():
        texts = [f"sentence {number}" for number in range(len(labels))]
        columns = {"idx": range(len(labels)), "sentence": texts, "label": labels}
        made[name] = datasets.Dataset.from_dict(columns, features)
    return datasets.DatasetDict(made)


def raising(error: Exception) -> Callable[[str, str | None], Any]:
    def load(name: str, config: str | None) -> Any:
        raise error

    return load


def test_classes_and_splits_of_a_hub_dataset_are_taken(prepare: Prepare) -> None:
    asked = []

    def load(name: str, config: str | None) -> Any:
        asked.append((name, config))
        return in_memory(train=[1, 0, 1], validation=[0, 0], test=[-1, -1])

    prepared = prepare("hub:nyu-mll/glue:sst2", load_hub=load)
    assert asked == [("nyu-mll/glue", "sst2")]
    assert prepared.labels == ("neg", "pos")
    assert prepared.suggested_name == "glue-sst2"
    assert load_examples(prepared.splits["train"].path).labels == [1, 0, 1]
    assert load_examples(prepared.splits["validation"].path).texts == ["sentence 0", "sentence 1"]
    assert "test" not in prepared.splits
    assert prepared.notes == ("left out: split 'test', which has no labels",)


def test_label_without_a_name_in_the_training_split_is_missing(refusal: Refusal) -> None:
    message = refusal("hub:a", load_hub=lambda *_: in_memory(train=[1, 0, -1]))
    assert "hub:a split train: labels are missing in 1 row (row 3) of 3" in message


def test_another_split_can_be_trained_on(prepare: Prepare) -> None:
    load = lambda *_: in_memory(train=[1, 0], validation=[0, 1, 0])  # noqa: E731
    prepared = prepare("hub:a", split="validation", load_hub=load)
    assert prepared.splits["train"].num_examples == 3
    assert prepared.notes == ("left out: splits 'train'",)


def test_unknown_split_is_refused_with_those_there_are(refusal: Refusal) -> None:
    message = refusal("hub:a", split="dev", load_hub=lambda *_: in_memory(train=[1, 0]))
    assert "hub:a: it has no split 'dev', only 'train'; name one of them with --split" in message


def test_two_parts_are_a_name_and_a_configuration_if_the_hub_has_no_such_dataset(
    prepare: Prepare,
) -> None:
    from datasets.exceptions import DatasetNotFoundError

    def load(name: str, config: str | None) -> Any:
        if (name, config) != ("glue", "sst2"):
            raise DatasetNotFoundError(name)
        return in_memory(train=[1, 0])

    assert prepare("hub:glue/sst2", load_hub=load).splits["train"].num_examples == 2


def test_dataset_that_is_not_there_is_refused(refusal: Refusal) -> None:
    from datasets.exceptions import DatasetNotFoundError

    message = refusal("hub:a/b", load_hub=raising(DatasetNotFoundError("gone")))
    assert "hub:a/b: the hub has no such dataset for you; check its spelling" in message


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(ConnectionError("no"), id="connection"),
        pytest.param(TimeoutError("no"), id="timeout"),
        pytest.param(type("ReadTimeout", (Exception,), {"__module__": "httpx"})(), id="client"),
    ],
)
def test_hub_that_does_not_answer_is_named(refusal: Refusal, error: Exception) -> None:
    message = refusal("hub:a", load_hub=raising(error))
    assert "hub:a: the Hugging Face hub cannot be reached; check the network and" in message


def test_missing_configuration_is_refused_with_those_there_are(refusal: Refusal) -> None:
    error = ValueError("Config name is missing.\nPlease pick one among: ['sst2', 'mnli']")
    message = refusal("hub:glue", load_hub=raising(error))
    assert "pick one among: ['sst2', 'mnli']); name one as hub:NAME:CONFIG" in message


def test_data_that_the_library_cannot_read_are_refused_without_its_message(
    refusal: Refusal, canary: str
) -> None:
    # Given a reader that quotes the row it stumbled over, as pyarrow's does
    error = ValueError(f"CSV parse error: Expected 2 columns, got 3: {canary},a,b")
    message = refusal("hub:a", load_hub=raising(error))
    assert "the library 'datasets' cannot load it (ValueError); download it" in message


def test_full_disk_of_the_librarys_cache_is_named(work_dir: Path) -> None:
    error = RuntimeError("generation failed")
    error.__cause__ = OSError(28, "No space left on device")
    with pytest.raises(DiskFullError, match="point HF_HOME at a larger one"):
        prepare_dataset("hub:a", work_dir=work_dir, load_hub=raising(error))


def test_format_of_the_library_is_no_dataset_of_the_hub(
    refusal: Refusal, write_jsonl: Callable[..., Path], rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a directory with data, which load_dataset("json") would read
    monkeypatch.chdir(write_jsonl(rows, "here/train.jsonl").parent)
    assert "the hub has no such dataset for you" in refusal("hub:json")


def test_folder_that_is_named_like_the_dataset_is_not_read(
    refusal: Refusal, write_jsonl: Callable[..., Path], rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(write_jsonl(rows, "org/data/train.jsonl").parent.parent.parent)
    message = refusal("hub:org/data")
    assert "the folder 'org/data' of the current directory stands in the way" in message


def test_offline_hub_is_refused_by_the_real_library(tmp_path: Path) -> None:
    # Given a process that may not use the network, and an empty cache
    program = (
        "import sys, pathlib\n"
        "from coldfusion_queue.errors import ColdFusionError\n"
        "from coldfusion_queue.intake import prepare_dataset\n"
        "try:\n"
        "    prepare_dataset('hub:nyu-mll/glue:sst2', work_dir=pathlib.Path(sys.argv[1]))\n"
        "except ColdFusionError as error:\n"
        "    print(error)\n"
        "    sys.exit(error.exit_code)\n"
    )
    variables = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf"), "HOME": str(tmp_path)}

    # When a hub dataset is asked for
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        env=variables,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )

    # Then one sentence says so
    assert done.returncode == 3
    assert done.stdout.startswith("dataset hub:nyu-mll/glue:sst2: the Hugging Face hub cannot be")
    assert "HF_HUB_OFFLINE" in done.stdout
    assert "Traceback" not in done.stderr
