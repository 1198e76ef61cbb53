"""``coldfusion status`` on the real store and broker, without workers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import redis
import urllib3
from click.testing import CliRunner

from coldfusion_queue.cli import status
from coldfusion_queue.cli.main import cli
from coldfusion_queue.cli.status_data import StatusReader
from coldfusion_queue.errors import StoreUnavailableError
from coldfusion_queue.keys import RedisKeys, presence
from coldfusion_queue.names import contribution_id
from coldfusion_queue.overview.turns import TurnOverview, read_turns
from coldfusion_queue.queue.leases import TurnLeases
from coldfusion_queue.queue.progress import ProgressReport, write_progress
from coldfusion_queue.queue.sending import TurnSender
from coldfusion_queue.records import EvaluationSpec, Policy, SiteData
from coldfusion_queue.repository.fusing import fuse_once
from coldfusion_queue.repository.policy import change_policy
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.settings import Settings
from coldfusion_queue.turn import Phase
from tests.integration.conftest import Contribute
from tests.integration.probing import evaluation, probe_wanted

NOBODY = "127.0.0.1:1"

#: What ``--json`` has had from the beginning, and what programs may ask for.
SINCE_EVER = {
    "repository",
    "base_version",
    "published_at",
    "candidate",
    "pending_contributions",
} | {
    "min_contributions",
    "queues",
    "submissions",
}
SINCE_EVER_OF_A_SUBMISSION = {"submission", "state", "committed_turns", "turns", "site"} | {
    "progress",
    "reason",
}


@pytest.fixture
def policy() -> Policy:
    return Policy(min_contributions=2, max_wait_seconds=70)


@pytest.fixture
def look(settings: Settings, repository: Repository) -> Callable[[], dict[str, Any]]:
    """Look once, as a process that begins anew."""
    return lambda: StatusReader(settings, repository, show_all=False).read()


def report(name: str, **more: Any) -> ProgressReport:
    found: dict[str, Any] = {"turn": 1, "phase": Phase.TRAINING, "step": 7, "num_steps": 9}
    return ProgressReport(
        submission_id=name,
        base_version=0,
        loss=0.5,
        examples_per_second=12.0,
        seconds=30.0,
        worker="w",
        **{**found, **more},
    )


def run(*arguments: str) -> Any:
    done = CliRunner().invoke(cli, ["status", *arguments])
    assert done.exit_code == 0, done.output or done.exception
    return json.loads(done.stdout) if "--json" in arguments else done.stdout


def test_all_that_the_json_has_had_is_still_there(
    settings: Settings, repository: Repository, sender: TurnSender, client: redis.Redis
) -> None:
    site = SiteData(site="clinic", path="notes")
    repository.submissions.create("anna", dataset_id="d1", submission_id="a", turns=2)
    repository.submissions.create("ben", dataset_id=None, submission_id="b", site_data=site)
    sender.send("a", 1)
    sender.send("b", 1, "clinic")
    write_progress(client, RedisKeys(settings.repository), report("a"))

    found = run("--json")

    assert found.keys() >= SINCE_EVER
    assert found["queues"] == {"finetune": 1, "finetune.clinic": 1, "evaluate": 0, "fusion": 0}
    assert (found["base_version"], found["min_contributions"]) == (0, 2)
    assert (found["pending_contributions"], found["candidate"]) == (0, None)
    first, second = sorted(found["submissions"], key=lambda item: item["submission"])
    assert first.keys() >= SINCE_EVER_OF_A_SUBMISSION
    assert (first["state"], first["committed_turns"], first["turns"]) == ("open", 0, 2)
    assert first["progress"]["step"] == 7
    assert (second["site"], second["progress"], second["reason"]) == ("clinic", None, None)
    assert (first["dataset"], second["dataset"]) == ("d1", "site:clinic/notes")


def test_what_has_ended_is_shown_when_it_is_asked_for(repository: Repository) -> None:
    for name in ("gone", "bad"):
        repository.submissions.create("anna", dataset_id="d", submission_id=name)
    repository.submissions.cancel("gone")
    repository.submissions.fail("bad", 1, StoreUnavailableError("url", "read", "key", "why"))

    assert run("--json")["submissions"] == []
    states = {item["submission"]: item["state"] for item in run("--all", "--json")["submissions"]}
    assert states == {"gone": "cancelled", "bad": "failed"}
    assert "why" in run("--all")


def test_one_unreadable_submission_does_not_hide_the_others(repository: Repository) -> None:
    for name in ("good", "bad"):
        repository.submissions.create("anna", dataset_id="d", submission_id=name)
    repository.store.put(repository.keys.submission("bad"), b"{")

    assert [item["submission"] for item in run("--json")["submissions"]] == ["good"]


def test_what_is_stuck_comes_with_its_command(
    sender: TurnSender, repository: Repository, client: redis.Redis
) -> None:
    sender.send("a", 1)
    seconds, _ = client.time()
    client.zadd(presence("fusion"), {"/fusion@host": seconds - 600, "/another": seconds})

    (lost, unserved) = run("--json")["stuck"]

    assert (lost["alert"], lost["command"]) == ("ColdFusionWorkerLost", "coldfusion doctor")
    assert "fusion@host of fusion fell silent 10 min ago" in lost["text"]
    assert unserved["alert"] is None
    assert "1 wait in finetune" in unserved["text"]
    assert "! worker fusion@host of fusion fell silent 10 min ago  $ coldfusion doctor" in run()


def test_without_a_broker_the_store_is_shown(
    settings: Settings, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.submissions.create("anna", dataset_id="d", submission_id="a")
    monkeypatch.setenv("COLDFUSION_BROKER_URL", f"redis://{NOBODY}/0")

    found, text = run("--json"), run()

    assert (found["queues"], found["workers"], found["leases"]) == (None, None, None)
    assert [item["alert"] for item in found["stuck"]] == ["ColdFusionUnreachable"]
    assert found["submissions"][0]["turn_state"] is None
    assert NOBODY in text
    assert "the broker does not answer" in text


def test_a_watch_goes_on_while_the_store_is_away(
    settings: Settings, repository: Repository, look: Callable[[], dict[str, Any]]
) -> None:
    away = settings.model_copy(update={"s3_endpoint": f"http://{NOBODY}"})
    reader = StatusReader(away, repository, show_all=False)
    with pytest.raises(StoreUnavailableError):
        reader.read()
    last = look()

    found = status._read_again(reader, last)

    assert {**found, "stuck": []} == {**last, "stuck": []}
    (finding,) = found["stuck"]
    assert finding["alert"] == "ColdFusionUnreachable"
    assert "what is below is old" in finding["text"]
    assert NOBODY in finding["text"]


def test_the_probes_that_a_candidate_waits_for_are_named(
    settings: Settings, repository: Repository, contribute: Contribute
) -> None:
    change_policy(repository, {"gate_datasets": ("d1", "d2"), "min_contributions": 1})
    contribute("a")
    fuse_once(repository, settings)
    wanted = set(repository.evaluations.wanted())

    found = run("--json")["candidate"]

    assert (found["version"], found["probes"], found["missing"]) == (1, 4, 4)
    assert set(found["missing_probes"]) == wanted
    assert found["missing_on"] == ["d1", "d2"]
    assert "4 of 4 probes are missing" in run()
    probe_wanted(repository, lambda _: None)
    failed = run("--json")
    assert failed["candidate"]["missing"] == 0
    assert [item["command"] for item in failed["stuck"]] == ["coldfusion evaluate --gate --again"]


def test_datasets_are_called_as_who_submitted_them(
    repository: Repository, look: Callable[[], dict[str, Any]]
) -> None:
    repository.submissions.create("reviews", kind="held_out", dataset_id="d1", submission_id="r")
    specs = [EvaluationSpec(dataset_id=name, kind="frozen") for name in ("d1", "d2")]
    for request in repository.evaluations.want(repository.ledger.base_version(), specs):
        repository.evaluations.record(evaluation(request, 0.75))

    found = {item["dataset"]: (item["name"], item["score"]) for item in look()["quality"]}

    assert found == {"d1": ("reviews", 0.75), "d2": ("d2", 0.75)}


def test_the_last_decisions_are_told_and_no_others(
    settings: Settings,
    repository: Repository,
    contribute: Contribute,
    look: Callable[[], dict[str, Any]],
) -> None:
    contribute("a")
    contribute("b", seed=1)
    contribute("c", change=lambda tensors: {key: value * 1e9 for key, value in tensors.items()})
    fuse_once(repository, settings)

    *_, last = look()["fusions"]

    assert (last["published"], last["fused"], last["refused"]) == (1, 2, {"relative_norm": 1})
    for number in range(9):
        change_policy(repository, {"max_contributions": 10 + number})
    numbers = [item["sequence"] for item in look()["fusions"]]
    assert numbers == list(range(3, 11))


@pytest.mark.parametrize("watched", [False, True], ids=["once", "again"])
def test_a_long_history_costs_few_requests(
    watched: bool,
    settings: Settings,
    repository: Repository,
    look: Callable[[], dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    number = 0
    urlopen = urllib3.PoolManager.urlopen

    def count(*arguments: Any, **more: Any) -> Any:
        nonlocal number
        number += 1
        return urlopen(*arguments, **more)

    monkeypatch.setattr(urllib3.PoolManager, "urlopen", count)
    reader = StatusReader(settings, repository, show_all=False)

    def requests() -> int:
        nonlocal number
        number = 0
        reader.read() if watched else look()
        return number

    for each in range(10):
        change_policy(repository, {"max_contributions": 10 + each})
    requests()
    few = requests()
    for each in range(90):
        change_policy(repository, {"max_contributions": 30 + each})
    requests()

    # Twice the entries take two questions more to find the newest, and one to find where the base
    # version was published; a watch knows both.
    assert requests() - few <= (0 if watched else 3 * math.log2(10))
    assert few < 40


# --- turns ----------------------------------------------------------------------------------------


def turns(client: redis.Redis, settings: Settings, **numbers: int) -> dict[str, TurnOverview]:
    return read_turns(client, RedisKeys(settings.repository), numbers)


def test_turns_are_running_queued_put_off_or_missing(
    client: redis.Redis, settings: Settings, sender: TurnSender
) -> None:
    keys = RedisKeys(settings.repository)
    sender.send("queued", 3)
    sender.put_off("later", 1, 60)
    with TurnLeases(client, keys, "w", settings.lease_seconds).hold(contribution_id("runs", 2)):
        write_progress(client, keys, report("runs", turn=2))
        found = turns(client, settings, queued=3, later=1, runs=2, nobody=1)

    states = {name: item.state for name, item in found.items()}
    assert states == {
        "queued": "queued",
        "later": "waiting",
        "runs": "running",
        "nobody": "missing",
    }
    assert found["runs"].worker == "w"
    assert found["runs"].is_training
    assert found["runs"].silent_seconds < 5


@pytest.mark.parametrize(
    "other", [{"turn": 1}, {"worker": "dead"}], ids=["another-turn", "another-worker"]
)
def test_a_report_of_another_attempt_is_not_of_this_one(
    client: redis.Redis, settings: Settings, other: dict[str, Any]
) -> None:
    keys = RedisKeys(settings.repository)
    fields = {**report("runs", turn=2).model_dump(), **other}
    write_progress(client, keys, ProgressReport(**fields))
    with TurnLeases(client, keys, "w", settings.lease_seconds).hold(contribution_id("runs", 2)):
        found = turns(client, settings, runs=2)["runs"]

    assert (found.state, found.current, found.is_training) == ("running", None, False)
    assert found.report is not None  # what the JSON has had from the beginning


def test_how_long_a_turn_is_silent_is_counted_by_the_broker(
    client: redis.Redis, settings: Settings
) -> None:
    keys = RedisKeys(settings.repository)
    write_progress(client, keys, report("s"))
    client.pexpire(keys.progress("s"), 3_000_000)  # of the hour, ten minutes are over

    assert turns(client, settings, s=1)["s"].silent_seconds == pytest.approx(600, abs=5)
