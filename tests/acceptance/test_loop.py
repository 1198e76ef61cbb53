"""The whole loop with real processes: data in at the command line, a better base model out."""

from __future__ import annotations

import json
import os
import pty
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, load_file
from safetensors.torch import load as load_torch

from tests.acceptance.conftest import MakeWorld
from tests.acceptance.world import World, eventually
from tests.rows import rows, write_rows

QUICK = (
    *("--set", "epochs=2", "--set", "batch_size=8"),
    *("--set", "max_length=16", "--set", "learning_rate=1e-3"),
)
#: Long enough for people to watch.
SLOW = ("--set", "epochs=60", "--set", "batch_size=8", "--set", "max_length=16")


@pytest.fixture(scope="module")
def world(make_empty_world: MakeWorld, tiny_model_dir: Path) -> Iterator[World]:
    """A repository made by ``init``, with two finetune workers, a fusion worker and beat."""
    quick = {
        "COLDFUSION_FUSION_INTERVAL_SECONDS": "1",
        "COLDFUSION_RECONCILE_INTERVAL_SECONDS": "2",
        "COLDFUSION_PROGRESS_INTERVAL_SECONDS": "0.1",
        "COLDFUSION_DUTY_CYCLE": "0.3",
    }
    with make_empty_world(**quick) as opened:
        opened.start_all(finetune_workers=2)
        # One dataset is handed in under several names, which makes copies.
        policy = ("--set", "min_contributions=2", "--set", "max_copy_cosine=none")
        done = opened.run("coldfusion", "init", "--base", tiny_model_dir, *policy)
        assert done.code == 0, done.err
        assert "base version 0" in done.out
        yield opened


@dataclass(frozen=True)
class Standing:
    """A standing contributor that was cancelled."""

    submission: str
    cancelled_after: int
    """Committed turns, as ``cancel`` counted them."""


@pytest.fixture(scope="module")
def standing(world: World) -> Standing:
    """At least three turns, of which one was fused with staleness, then ``cancel``."""
    data = write_rows(world.data / "standing.jsonl", rows("single"))
    submission = world.submit(data, *QUICK, "--turns", "forever")

    def has_stale_fusion() -> bool:
        stale = [
            item
            for item in world.decisions()
            if item.contribution_id.startswith(submission)
            and item.outcome == "fused"
            and item.numbers["staleness"] >= 1
        ]
        return bool(stale) and world.state(submission)["committed_turns"] >= 3

    eventually(has_stale_fusion, 60)
    done = world.run("coldfusion", "cancel", submission)
    assert done.code == 0, done.err
    found = re.search(r"cancelled after (\d+) committed turns", done.out)
    assert found is not None
    return Standing(submission, int(found[1]))


@pytest.mark.parametrize(
    ("kind", "extension", "options"),
    [
        pytest.param("single", "jsonl", (), id="single-jsonl"),
        pytest.param("pair", "csv", (), id="pair-csv"),
        pytest.param("regression", "parquet", (), id="regression-parquet"),
    ],
)
def test_submit_waits_until_its_contribution_is_committed(
    world: World, kind: str, extension: str, options: tuple[str, ...]
) -> None:
    data = write_rows(world.data / f"{kind}-notes.{extension}", rows(kind))

    done = world.run("coldfusion-submit", data, *QUICK, *options, "--wait", "--json")

    answer = done.json()
    assert (answer["state"], answer["committed_turns"]) == ("complete", 1)
    shown = world.run("coldfusion", "show", f"{answer['submission']}.t00001", "--json").json()
    assert shown["contributor_id"] == f"{kind}-notes"
    assert shown["num_examples"] == 24
    assert np.isfinite(shown["metrics"]["train_loss"])


def test_submit_in_a_terminal_draws_a_bar_fed_by_the_training(world: World) -> None:
    data = write_rows(world.data / "watched.jsonl", rows("single"))
    master, slave = pty.openpty()
    process = world.popen(
        *("coldfusion-submit", data, *SLOW, "--wait"),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        own={"TERM": "xterm-256color", "LINES": "40"},
    )
    os.close(slave)

    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", read_to_end(master))

    assert process.wait(10) == 0
    assert re.search(r"turn 1/1 training base \d+", text)
    shares = [int(number) for number in re.findall(r"(\d+)%", text)]
    assert shares == sorted(shares)
    assert len({share for share in shares if 0 < share < 100}) >= 3
    assert shares[-1] == 100
    # Numbers of this very training: the loss of three labels changes, and something is done.
    assert len(set(re.findall(r"loss (\d+\.\d{3})", text))) >= 3
    assert all(int(number) > 0 for number in re.findall(r"(\d+) examples/s", text))
    assert re.search(r"watched-\S+ complete: 1 contribution\(s\)", text)


def read_to_end(master: int) -> str:
    """Everything that is written to a pseudo-terminal until its other end is closed."""
    pieces = []
    try:
        while piece := os.read(master, 65536):
            pieces.append(piece)
    except OSError:  # how Linux says that nobody has the other end open
        pass
    finally:
        os.close(master)
    return b"".join(pieces).decode()


def test_a_running_turn_is_shown_with_its_steps_and_stops_when_it_is_cancelled(
    world: World,
) -> None:
    data = write_rows(world.data / "running.jsonl", rows("single"))
    submission = world.submit(data, *SLOW, "--set", "epochs=1000")
    eventually(lambda: world.progress(submission).get("phase") == "training")

    answer = world.run("coldfusion", "status", "--json").json()
    text = world.run("coldfusion", "status").out
    world.run("coldfusion", "cancel", submission)

    (item,) = [item for item in answer["submissions"] if item["submission"] == submission]
    assert 0 < item["progress"]["step"] < item["progress"]["num_steps"] == 3000
    assert item["progress"]["loss"] > 0
    assert item["progress"]["worker"].startswith("finetune")
    # Turns, phase and step, loss, examples a second, for how long, base, dataset, worker.
    line = rf"{submission} +0/1 +training \d+/3000 +\d+\.\d+ +\d+ +\d+ s +\d+ +\S+ +finetune\S+"
    assert re.search(line, text)
    eventually(world.is_idle, 15)
    assert world.state(submission) == {"state": "cancelled", "committed_turns": 0, "failure": None}


def test_a_standing_contributor_goes_on_without_waiting_until_it_is_cancelled(
    world: World, standing: Standing
) -> None:
    decided = {item.contribution_id: item for item in world.decisions()}
    mine = [item for name, item in decided.items() if name.startswith(standing.submission)]

    assert any(item.numbers.get("staleness", 0) >= 1 for item in mine)
    shown = world.run("coldfusion", "show", standing.submission, "--json").json()
    assert shown["state"] == "cancelled"
    # A turn that was being committed at that moment may still have been.
    assert 3 <= standing.cancelled_after <= shown["committed_turns"]
    assert shown["committed_turns"] <= standing.cancelled_after + 1
    eventually(world.is_idle)
    assert world.state(standing.submission)["committed_turns"] == shown["committed_turns"]
    listed = world.run("coldfusion", "status", "--all", "--json").json()["submissions"]
    assert {item["submission"]: item["state"] for item in listed}[
        standing.submission
    ] == "cancelled"


def test_history_and_show_tell_what_was_fused(world: World, standing: Standing) -> None:
    entries = world.run("coldfusion", "history", "--json", "--limit", "1000").json()
    text = world.run("coldfusion", "history").out

    versions = [entry["published"]["version"] for entry in entries if entry["published"]]
    assert versions == list(range(len(versions)))
    assert len(versions) >= 2
    fused = [item for entry in entries[1:] for item in entry["published"]["fused"]]
    assert any(item["staleness"] >= 1 for item in fused)
    last = entries[-1]["decisions"][0]
    number = last["numbers"]["coefficient"]
    assert f"{last['contribution_id']}  fused  coefficient {number:.3f}" in text
    shown = world.run("coldfusion", "show", last["contribution_id"], "--json").json()
    assert shown["decision"]["version"] == last["version"]
    version = world.run("coldfusion", "show", last["version"], "--json").json()
    assert last["contribution_id"] in {item["contribution_id"] for item in version["fused"]}


def test_a_pulled_model_is_the_mean_that_its_lineage_tells(
    world: World, standing: Standing, tmp_path: Path
) -> None:
    # A version of unequal coefficients, which no mix-up of them would leave the same.
    entries = world.run("coldfusion", "history", "--json", "--limit", "1000").json()
    published = [entry["published"] for entry in entries[1:]]
    chosen = max(published, key=lambda item: len({line["staleness"] for line in item["fused"]}))
    version = chosen["version"]
    models = []
    for number in (version - 1, version):
        done = world.run("coldfusion", "pull", number, tmp_path / str(number), "--json")
        assert done.json()["version"] == number
        models.append(load_file(tmp_path / str(number) / "model.safetensors"))
    before, after = models
    lineage = json.loads((tmp_path / str(version) / "lineage.json").read_text("utf-8"))

    fused = lineage["fused"]

    assert fused == chosen["fused"]
    assert len({line["coefficient"] for line in fused}) >= 2
    assert len(fused) >= 2
    # f(s) = (1 + s)^-1/2, normalised: the repository's policy, worked out here.
    factors = np.array([(1 + item["staleness"]) ** -0.5 for item in fused])
    expected = factors / factors.sum()
    np.testing.assert_allclose([item["coefficient"] for item in fused], expected, rtol=1e-12)
    # By torch, because numpy has no bfloat16.
    files = [load_torch(shared_parameters(world, item["contribution_id"])) for item in fused]
    deltas = [{name: d.double().numpy() for name, d in file.items()} for file in files]
    for name, tensor in before.items():
        mean = sum(c * d[name] for c, d in zip(expected, deltas, strict=True))
        wanted = tensor.astype(np.float64) + mean
        assert np.abs(mean).max() > 0 or name.startswith("pooler."), name  # the head has its own
        np.testing.assert_allclose(after[name], wanted, rtol=2e-7, atol=1e-9, err_msg=name)


def shared_parameters(world: World, contribution: str) -> bytes:
    """The file of a contribution, which has to be a delta."""
    shown = world.run("coldfusion", "show", contribution, "--json").json()
    assert shown["form"] == "delta"
    return world.store.get(shown["shared"]["key"])


def test_plain_transformers_load_a_pulled_model(
    world: World, standing: Standing, tiny_model_dir: Path, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    done = world.run("coldfusion", "pull", tmp_path / "model")
    assert done.code == 0, done.err

    model, info = AutoModel.from_pretrained(tmp_path / "model", output_loading_info=True)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")

    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    batch = tokenizer(["a small animal that lives in trees"], return_tensors="pt")
    with torch.inference_mode():
        hidden = model(**batch).last_hidden_state
        pretrained = AutoModel.from_pretrained(tiny_model_dir)(**batch).last_hidden_state
    assert hidden.isfinite().all()
    assert not torch.equal(hidden, pretrained)


def test_a_model_finetuned_elsewhere_is_contributed_and_fused(
    world: World, standing: Standing, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoTokenizer, BertForSequenceClassification

    newest = world.repository.ledger.base_version().version
    assert world.run("coldfusion", "pull", tmp_path / "base").code == 0
    model = BertForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.001)
    model.save_pretrained(tmp_path / "elsewhere")
    AutoTokenizer.from_pretrained(tmp_path / "base").save_pretrained(tmp_path / "elsewhere")

    arguments = (tmp_path / "elsewhere", "--base-version", newest, "--name", "elsewhere")
    answer = world.run("coldfusion", "contribute", *arguments, "--json").json()

    assert answer["left_as_in_base"] == []
    delta = load(shared_parameters(world, answer["contribution"]))
    assert "pooler.dense.weight" in delta
    assert not [name for name in delta if "classifier" in name]
    assert all(np.abs(value - 0.001).max() < 1e-6 for value in delta.values())
    # Two make a fusion; whatever else is pending at this time may be the other.
    data = write_rows(world.data / "company.jsonl", rows("single"))
    world.submit(data, *QUICK)

    def is_fused() -> bool:
        return answer["contribution"] in {item.contribution_id for item in world.decisions()}

    eventually(is_fused)
    shown = world.run("coldfusion", "show", answer["contribution"], "--json").json()
    assert shown["decision"]["outcome"] == "fused"
    assert shown["decision"]["version"] > newest


def test_a_model_that_moved_too_far_is_refused_shown_and_let_in_by_an_operator(
    world: World, standing: Standing, tiny_model_dir: Path, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoTokenizer, BertModel

    model = BertModel.from_pretrained(tiny_model_dir)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    model.save_pretrained(tmp_path / "far")
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(tmp_path / "far")
    version = ("--base-version", 0)
    done = world.run("coldfusion", "contribute", tmp_path / "far", *version, "--json")
    name = done.json()["contribution"]

    # Refused, and everybody is told why
    eventually(lambda: world.repository.contributions.decision(name))
    shown = world.run("coldfusion", "show", name)
    assert "decision.rule  relative_norm" in shown.out
    assert re.search(r"relative_norm is (2\.9|3)", shown.out)
    assert "limits.max_relative_norm  1" in shown.out
    assert "sketch" not in shown.out
    # Only with a reason, and only with nothing that is its own already
    for arguments in ((), ("--override", " "), ("--override", "x", *version)):
        assert world.run("coldfusion", "contribute", name, *arguments).code == 2
    done = world.run("coldfusion", "contribute", name, "--override", "as a test", "--json")
    again = done.json()["contribution"]
    assert again != name

    data = write_rows(world.data / "with-far.jsonl", rows("single"))
    world.submit(data, *QUICK)
    decision = eventually(lambda: world.repository.contributions.decision(again))
    assert decision.outcome == "fused"
    lineage = world.run("coldfusion", "show", decision.version, "--json").json()
    reasons = {line["contribution_id"]: line["override"] for line in lineage["fused"]}
    assert reasons[again] == "as a test"
    assert set(reasons.values()) == {None, "as a test"}


def test_three_tasks_of_one_turn_make_one_contribution(world: World) -> None:
    from coldfusion_queue.queue.app import make_app

    # Given two workers with nothing else to do
    eventually(world.is_idle)
    data = write_rows(world.data / "thrice.jsonl", rows("single"))

    # When the task of one turn is there three times
    submission = world.submit(data, *SLOW)
    with make_app(world.settings) as app:
        for _ in range(2):
            app.send_task("coldfusion.finetune", args=(world.repository.name, submission, 1))
    eventually(lambda: world.state(submission)["state"] == "complete")
    eventually(world.is_idle)

    # Then one worker ran it, and the other left it to that one
    events = {
        worker: [
            item["event"] for item in world.events(worker) if item.get("submission") == submission
        ]
        for worker in ("finetune0", "finetune1")
    }
    assert sorted(events.values()) == [
        ["turn_held", "celery", "turn_held", "celery"],
        ["turn_started", "training_began", "training_ended", "turn_committed", "celery"],
    ]
    # And one contribution is there, with one attempt's files
    files = [key for key in world.objects() if f"/contributions/{submission}" in key]
    names = sorted(key.rpartition("/")[2] for key in files if not key.endswith("decision.json"))
    assert names == ["contribution.json", "head.safetensors", "shared.safetensors"]


def test_doctor_finds_nothing_wrong_with_a_running_stack(world: World) -> None:
    done = world.run("coldfusion", "doctor", "--json")

    findings = {item["check"]: item["state"] for item in done.json()}
    assert findings.pop("device") == "note"  # no GPU is wanted here
    assert set(findings.values()) == {"ok"}, done.out
    assert findings.keys() == {
        *("settings", "broker", "store", "clock", "conditional writes", "repository"),
        *("gate", "workers"),
    }


def test_nothing_was_fused_twice(world: World, standing: Standing) -> None:
    time.sleep(1.5)  # whatever is due

    world.check_fused_once()
