"""Turns of private data: which queue they are on, who runs them, and what they write."""

from __future__ import annotations

import json
import logging
import shutil
import time
from pathlib import Path

import pytest
import redis
from click.testing import CliRunner
from safetensors import safe_open

from coldfusion_queue.audit import Check, audit
from coldfusion_queue.cli.main import cli
from coldfusion_queue.keys import RedisKeys, presence
from coldfusion_queue.queue import tasks
from coldfusion_queue.queue.app import make_app
from coldfusion_queue.queue.hints import TurnHints
from coldfusion_queue.queue.process import Process
from coldfusion_queue.queue.sending import Look, TurnSender
from coldfusion_queue.queue.sites import finetune_queues
from coldfusion_queue.records import Contribution, Hyperparameters, SiteData, Submission
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.settings import Settings
from coldfusion_queue.turn import TurnInterrupted, run_turn
from tests.integration.deliveries import NAME, Bench, messages, open_bench, raises
from tests.integration.submitting import committed
from tests.rows import rows, write_rows
from tests.watching import StopAt, ignore

SITE = "hospital-a"
QUEUE = f"finetune.{SITE}"
QUICK = Hyperparameters(epochs=2, batch_size=8, learning_rate=1e-3, max_length=32)


@pytest.fixture
def at_site(settings: Settings, tmp_path: Path) -> Settings:
    """Settings of a worker that has ``notes/``."""
    write_notes(tmp_path, "single")
    return settings.model_copy(update={"site": SITE, "site_data_dir": tmp_path / "data"})


def write_notes(tmp_path: Path, kind: str, **changes: str) -> None:
    directory = tmp_path / "data" / "notes"
    directory.mkdir(parents=True, exist_ok=True)
    for split in ("train", "validation"):
        examples = rows(kind)
        for row in examples:
            row["label"] = changes.get(str(row["label"]), row["label"])
        write_rows(directory / f"{split}.jsonl", examples)


def submit(repository: Repository, turns: int | None = 3, name: str | None = None) -> Submission:
    return repository.submissions.create(
        SITE,
        dataset_id=None,
        turns=turns,
        hyperparameters=QUICK,
        submission_id=name,
        site_data=SiteData(site=SITE, path="notes"),
    )


# --- routing ------------------------------------------------------------------------------------


def test_a_turn_is_sent_to_the_queue_of_its_site_alone_however_it_is_sent(
    sender: TurnSender, client: redis.Redis, settings: Settings
) -> None:
    keys = RedisKeys(settings.repository)
    assert sender.send("s", 1, SITE)
    assert sender.send_again("s", 2, SITE)
    assert sender.send_missing("s", 3, SITE) is Look.NOTED
    client.decrby(keys.missing("s.t00003"), 10**6)
    assert sender.send_missing("s", 3, SITE) is Look.SENT

    assert len(messages(client, QUEUE)) == 3
    assert messages(client, "finetune") == []
    assert finetune_queues(client, keys) == ["finetune", QUEUE]


def test_a_lost_redis_loses_nothing_of_a_site_that_the_next_message_needs(
    sender: TurnSender, client: redis.Redis, settings: Settings
) -> None:
    sender.send("s", 1, SITE)
    client.flushdb()

    assert sender.send("s", 1, SITE)
    assert len(messages(client, QUEUE)) == 1
    assert finetune_queues(client, RedisKeys(settings.repository)) == ["finetune", QUEUE]


def test_a_message_of_a_site_is_lost_only_if_it_is_neither_queued_there_nor_taken(
    sender: TurnSender, hints: TurnHints, client: redis.Redis, settings: Settings
) -> None:
    for turn in (1, 2, 3):
        sender.send("s", turn, SITE)
        hint = RedisKeys(settings.repository).turn(f"s.t{turn:05d}")
        client.pexpire(hint, client.pttl(hint) - 60_000)  # type: ignore[operator]
    taken = json.loads(str(client.lpop(QUEUE)))  # turn 3, by a worker of the site
    client.hset(f"unacked.{SITE}", "tag", json.dumps([taken, QUEUE, QUEUE]))
    client.zadd(f"unacked.{SITE}_index", {"tag": time.time()})
    client.rpop(QUEUE)  # turn 1, by one that died before it noted it

    assert hints.forget_lost() == ["s.t00001"]


def test_reconcile_sends_a_missing_turn_to_its_site(
    repository: Repository, settings: Settings, client: redis.Redis, own_process: None
) -> None:
    submission = submit(repository)
    tasks.reconcile(settings.repository)
    missing = RedisKeys(settings.repository).missing(f"{submission.submission_id}.t00001")
    client.decrby(missing, 10**6)
    tasks.reconcile(settings.repository)

    assert len(messages(client, QUEUE)) == 1
    assert messages(client, "finetune") == []


@pytest.mark.parametrize("site", [None, "hospital-b"])
def test_a_worker_of_another_site_runs_no_turn_of_this_one(
    site: str | None,
    repository: Repository,
    settings: Settings,
    client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # Given a message that somebody put on the wrong queue
    submit(repository, name="s")
    bench = open_bench(repository, settings, monkeypatch)
    bench.process = with_site(bench.process, site)
    bench.process.sender(repository.name).send("s", 1)

    with caplog.at_level(logging.WARNING):
        assert bench.deliver() == "SUCCESS"

    assert (bench.calls, bench.failure(), bench.take()) == (0, None, [])
    assert bench.hint() is None  # so that reconcile sends it to where it belongs
    assert "turn_misrouted" in [getattr(item, "event", "") for item in caplog.records]


def test_a_sites_worker_runs_no_turn_of_everybodys(
    repository: Repository, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = open_bench(repository, settings, monkeypatch).submit()
    bench.process = with_site(bench.process, SITE)

    assert bench.deliver() == "SUCCESS"

    assert (bench.calls, bench.failure(), bench.hint()) == (0, None, None)


@pytest.mark.parametrize("is_interrupted", [False, True])
def test_what_a_sites_worker_sends_stays_on_its_queue(
    is_interrupted: bool,
    repository: Repository,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = site_bench(repository, settings, monkeypatch)
    bench.submit()
    if is_interrupted:
        bench.act = raises(TurnInterrupted(NAME, 0, 0))

    assert bench.deliver() == "SUCCESS"

    assert messages(bench.client, "finetune") == []
    (sent,) = messages(bench.client, QUEUE)
    assert sent["headers"]["argsrepr"].endswith("'s', 1)")


def test_what_escapes_a_delivery_at_a_site_reaches_celery_without_its_text(
    repository: Repository,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = site_bench(repository, settings, monkeypatch)
    bench.submit()

    def break_down(*_: object) -> None:
        raise ValueError("row: a patient's name")

    monkeypatch.setattr(bench.repository.submissions.__class__, "status", break_down)

    assert bench.deliver() == "FAILURE"

    assert "patient" not in caplog.text
    assert "ValueError at coldfusion_queue/queue/turns.py:" in caplog.text


def test_a_sites_worker_takes_no_commands_and_publishes_nothing(at_site: Settings) -> None:
    conf = make_app(at_site).conf

    assert not conf.worker_enable_remote_control
    assert not conf.worker_send_task_events
    assert not conf.task_send_sent_event


@pytest.mark.parametrize("is_there", [False, True])
def test_the_doctor_at_a_site_asks_for_its_own_worker_alone(
    is_there: bool,
    repository: Repository,
    client: redis.Redis,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLDFUSION_SITE", SITE)
    monkeypatch.setenv("COLDFUSION_SITE_DATA_DIR", str(tmp_path))
    if is_there:
        seconds, _ = client.time()
        client.zadd(presence(f"finetune.{SITE}"), {"/finetune@a": seconds})

    answer = json.loads(CliRunner().invoke(cli, ["doctor", "--json"]).stdout)

    (found,) = [item for item in answer if item["check"] == "workers"]
    expected = ("ok", "a worker of") if is_there else ("note", "no worker of")
    assert (found["state"], found["text"][: len(expected[1])]) == expected


# --- what a turn writes -------------------------------------------------------------------------


def test_turns_of_private_data_commit_weights_and_leave_the_rest_at_the_site(
    repository: Repository, at_site: Settings, tmp_path: Path
) -> None:
    submission = submit(repository, turns=2)

    for turn in (1, 2):
        run_turn(repository, at_site, submission, turn, ignore)

    contribution = committed(repository, submission, 2)
    assert (contribution.dataset_id, contribution.num_examples) == (f"site:{SITE}/notes", 24)
    assert head_of(repository, contribution, tmp_path)["labels"] == ["0", "1", "2"]
    assert not list(repository.store.list(repository.keys.datasets))
    assert list(at_site.site_scratch_dir.iterdir()) == []
    repository.submissions.close(submission.submission_id)
    assert audit(at_site, repository.name).findings == ()


def test_the_scale_of_private_numbers_is_not_written(
    repository: Repository, at_site: Settings, tmp_path: Path
) -> None:
    write_notes(tmp_path, "regression")
    submission = submit(repository)

    run_turn(repository, at_site, submission, 1, ignore)

    meaning = head_of(repository, committed(repository, submission), tmp_path)
    assert (meaning["labels"], meaning["label_mean"], meaning["label_deviation"]) == (
        [],
        None,
        None,
    )


@pytest.mark.parametrize(
    ("kind", "changes", "told"),
    [
        pytest.param("single", {}, [], id="the-same"),
        pytest.param("single", {"label2": "other"}, ["other labels"], id="another-name"),
        pytest.param("single", {"label2": "label1"}, ["other labels"], id="another-number"),
    ],
)
def test_a_head_goes_on_only_if_its_outputs_mean_the_same_classes(
    kind: str,
    changes: dict[str, str],
    told: list[str],
    repository: Repository,
    at_site: Settings,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    submission = submit(repository)
    run_turn(repository, at_site, submission, 1, ignore)
    write_notes(tmp_path, kind, **changes)

    run_turn(repository, at_site, submission, 2, ignore)

    afresh = [item for item in caplog.records if getattr(item, "event", "") == "head_afresh"]
    assert [word for word in told if word in afresh[0].message] == told if told else not afresh
    assert len(afresh) == len(told)
    before = committed(repository, submission).contribution_id
    assert committed(repository, submission, 2).previous_head == (None if told else before)


def test_without_memory_a_head_of_another_number_of_classes_is_begun_afresh_and_that_is_told(
    repository: Repository,
    at_site: Settings,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    submission = submit(repository)
    run_turn(repository, at_site, submission, 1, ignore)
    shutil.rmtree(at_site.site_labels_dir)  # as on another machine of the site
    write_notes(tmp_path, "single", label2="label1")

    run_turn(repository, at_site, submission, 2, ignore)

    (afresh,) = [item for item in caplog.records if getattr(item, "event", "") == "head_afresh"]
    assert "another number of labels" in afresh.message
    head = head_of(repository, committed(repository, submission, 2), tmp_path)
    assert head["labels"] == ["0", "1"]


def test_a_turn_that_is_interrupted_leaves_no_checkpoint_and_begins_again(
    repository: Repository, at_site: Settings
) -> None:
    submission = submit(repository)

    with pytest.raises(TurnInterrupted) as interruption:
        run_turn(repository, at_site, submission, 1, ignore, StopAt(4))

    assert (interruption.value.step, interruption.value.num_steps) == (0, 0)
    objects = [item.key for item in repository.store.list(f"{repository.name}/")]
    assert not [key for key in objects if "/checkpoints/" in key or "/contributions/" in key]
    assert run_turn(repository, at_site, submission, 1, ignore).committed


def test_an_audit_wants_a_submission_to_name_either_a_dataset_or_private_data(
    repository: Repository, settings: Settings
) -> None:
    right = submit(repository)
    for site_data, dataset_id in ((None, None), (right.site_data, "d" * 32)):
        repository.submissions.create("wrong", dataset_id=dataset_id, site_data=site_data)

    findings = audit(settings, repository.name).findings

    neither = [item for item in findings if "both a dataset and private data" in item.problem]
    assert {item.check for item in neither} == {Check.SUBMISSIONS_DATASET}
    assert len(neither) == 2
    assert right.submission_id not in {item.subject for item in findings}


# --- help ---------------------------------------------------------------------------------------


def with_site(process: Process, site: str | None) -> Process:
    settings = process.settings.model_copy(update={"site": site})
    return Process(settings, process.client, process.metrics)


def site_bench(
    repository: Repository, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> Bench:
    bench = open_bench(repository, settings, monkeypatch)
    bench.process = with_site(bench.process, SITE)
    bench.queue = QUEUE
    bench.site_data = SiteData(site=SITE, path="notes")
    return bench


def head_of(
    repository: Repository, contribution: Contribution, tmp_path: Path
) -> dict[str, object]:
    assert contribution.head is not None
    path = tmp_path / "head.safetensors"
    repository.store.download(contribution.head, path)
    with safe_open(path, framework="numpy") as file:
        return dict(json.loads(file.metadata()["head"]))
