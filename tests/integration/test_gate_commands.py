"""Commands around evaluations and the gate, on the real store and broker, without workers."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import CliRunner, Result

from coldfusion_queue.cli.main import cli
from coldfusion_queue.errors import BrokerUnavailableError, NotFoundError, UsageError
from coldfusion_queue.evaluating import run_evaluation
from coldfusion_queue.records import Policy
from coldfusion_queue.repository.collecting import collect_garbage
from coldfusion_queue.repository.datasets import dataset_names, find_dataset
from coldfusion_queue.repository.fusing import fuse_once
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.settings import Settings
from tests.integration.conftest import Contribute
from tests.integration.deliveries import messages
from tests.integration.probing import harmed_by, probe_wanted
from tests.rows import rows, write_rows

Run = Callable[..., Any]


@pytest.fixture
def policy() -> Policy:
    return Policy(min_contributions=1)


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(each) for each in arguments])


@pytest.fixture
def run(repository: Repository) -> Run:
    """Run a command that has to succeed, and read its one JSON document."""
    del repository

    def command(*arguments: object) -> Any:
        done = invoke(*arguments, "--json")
        assert done.exit_code == 0, done.output or done.exception
        return json.loads(done.stdout)

    return command


@pytest.fixture
def held_out(run: Run, tmp_path: Path) -> str:
    """Id of a dataset that never contributes, of contributor ``reviews``."""
    data = write_rows(tmp_path / "reviews.jsonl", rows("single", 60))
    return str(run("submit", data, "--held-out")["dataset"])


def test_a_held_out_dataset_is_uploaded_and_nobody_finetunes_on_it(
    repository: Repository, held_out: str, client: redis.Redis
) -> None:
    assert messages(client, "finetune") == []
    assert list(repository.submissions.open()) == []
    (submission,) = repository.submissions.all()
    assert (submission.kind, submission.dataset_id) == ("held_out", held_out)
    assert repository.submissions.status(submission).next_turn is None
    assert find_dataset(repository, "reviews") == find_dataset(repository, held_out) == held_out
    assert dataset_names(repository) == {held_out: "reviews"}
    assert collect_garbage(repository, 0) == ()


@pytest.mark.parametrize(
    "option", [("--wait",), ("--turns", "3"), ("--set", "epochs=2"), ("--site", "a")]
)
@pytest.mark.usefixtures("repository")
def test_held_out_goes_with_nothing_that_is_about_finetunes(
    tmp_path: Path, option: tuple[str, ...]
) -> None:
    data = write_rows(tmp_path / "reviews.jsonl", rows("single"))

    assert isinstance(invoke("submit", data, "--held-out", *option).exception, UsageError)


def test_an_evaluation_is_asked_for_once_and_shown_when_it_is_done(
    repository: Repository, settings: Settings, run: Run, held_out: str, client: redis.Redis
) -> None:
    command = ("evaluate", "--dataset", "reviews", "--kind", "frozen", "--kind", "finetuned")
    several = (*command, "--seeds", 2, "--set", "epochs=1", "--set", "max_length=16")

    first = run(*several)
    again = run(*several)

    assert [(item["kind"], item["seed"], item["state"]) for item in first] == [
        ("frozen", 0, "waiting"),
        ("finetuned", 0, "waiting"),
        ("finetuned", 1, "waiting"),
    ]
    assert again == first
    assert len(messages(client, "evaluate")) == 3
    for name in list(repository.evaluations.wanted()):
        request = repository.evaluations.request(name)
        assert request is not None
        assert request.spec.dataset_id == held_out
        run_evaluation(repository, settings, request)
    done = run(*several, "--wait")
    assert {item["state"] for item in done} == {"done"}
    assert all(item["interval"][0] <= item["score"] <= item["interval"][1] for item in done)
    table = invoke(*several)
    assert "accuracy on" in table.output


@pytest.mark.parametrize(
    "arguments",
    [(), ("--gate", "--dataset", "reviews"), ("--gate",)],
    ids=["neither", "both", "gate-without-one"],
)
@pytest.mark.usefixtures("held_out")
def test_what_is_to_be_measured_has_to_be_said(arguments: tuple[str, ...]) -> None:
    assert isinstance(invoke("evaluate", *arguments).exception, UsageError)


@pytest.mark.usefixtures("repository")
def test_a_gate_of_unknown_datasets_is_refused(repository: Repository) -> None:
    done = invoke("policy", "--set", "gate_datasets=nobody")

    assert isinstance(done.exception, NotFoundError)
    assert repository.ledger.newest().sequence == 0


def test_a_gate_is_set_by_name_and_taken_away(
    repository: Repository, run: Run, held_out: str
) -> None:
    assert run("policy", "--set", "gate_datasets=reviews, reviews")["gate_datasets"] == [held_out]
    assert run("policy", "--set", "gate_datasets=none")["gate_datasets"] == []
    assert repository.ledger.newest().after.policy.gate_datasets == ()


def test_status_and_fuse_say_that_a_candidate_waits(
    repository: Repository,
    run: Run,
    held_out: str,
    contribute: Contribute,
    client: redis.Redis,
    settings: Settings,
) -> None:
    run("policy", "--set", "gate_datasets=reviews")
    contribute("a")

    assert "base version 1 is fused and waits for 2 probes" in invoke("fuse").output

    assert len(messages(client, "evaluate")) == 2
    waits = run("status")["candidate"]
    assert (waits["version"], waits["probes"], waits["missing"]) == (1, 2, 2)
    assert "2 of 2 probes are missing" in " ".join(invoke("status").output.split())
    probe_wanted(repository, harmed_by({"a"}))
    fuse_once(repository, settings)
    assert run("status")["candidate"] is None
    assert "withheld: gate 0.3000" in invoke("history").output
    assert held_out in run("evaluate", 0, "--gate")[0]["dataset"]


def test_the_doctor_sees_what_keeps_the_gate_shut(
    repository: Repository, run: Run, held_out: str
) -> None:
    def finding() -> str:
        lines = invoke("doctor").output.splitlines()
        return next(line for line in lines if "gate" in line)

    assert "none is set" in finding()
    run("policy", "--set", "gate_datasets=reviews")
    assert "no worker serves evaluate" in finding()
    run("evaluate", "--gate")
    probe_wanted(repository, lambda _: None)
    assert "out of memory" in finding()
    repository.store.delete([repository.keys.dataset(held_out)])
    assert "gate dataset" in finding()


def test_the_doctor_asks_no_workers_by_way_of_a_broker_that_is_silent(
    repository: Repository, run: Run, held_out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("policy", "--set", "gate_datasets=reviews")
    monkeypatch.setenv("COLDFUSION_BROKER_CONNECT_TIMEOUT_SECONDS", "1")
    with socket.create_server(("127.0.0.1", 0)) as silent:  # as one whose process is stopped
        port = silent.getsockname()[1]
        monkeypatch.setenv("COLDFUSION_BROKER_URL", f"redis://127.0.0.1:{port}/0")
        done = invoke("doctor", "--json")

    found = {item["check"]: item for item in json.loads(done.stdout)}
    assert found["broker"]["exit_code"] == BrokerUnavailableError.exit_code
    assert found["gate"]["state"] == "ok"
    assert "workers" not in found


def test_init_cannot_set_a_gate(settings: Settings, tiny_model_dir: Path) -> None:
    del settings
    done = invoke("init", "--base", tiny_model_dir, "--set", f"gate_datasets={'0' * 32}")

    assert isinstance(done.exception, UsageError)
