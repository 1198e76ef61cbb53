"""Every role does its work with its own credentials alone, and is refused everything else."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import redis

from coldfusion_queue.errors import AccessDeniedError
from coldfusion_queue.local.ports import free_port
from tests.acceptance.access import ACL_FILES, POLICIES, Access, policy, roles_servers
from tests.acceptance.recording import (
    Request,
    StoreRecorder,
    allows,
    as_at_aws,
    patterns,
    recording,
)
from tests.acceptance.world import Finished, World, eventually
from tests.rows import rows, write_rows

pytestmark = pytest.mark.slow

REPOSITORY, SITE = "shared", "hospital-a"
QUICK = ("--set", "epochs=1", "--set", "batch_size=8", "--set", "max_length=16")
WORKERS = {
    "finetune": "finetune_worker",
    "site": "finetune_worker",
    "evaluation": "evaluation_worker",
    "fusion": "fusion_worker",
    "beat": "beat",
    "exporter": "exporter",
}
SOON = {
    "COLDFUSION_LEASE_SECONDS": "9",
    "COLDFUSION_FUSION_INTERVAL_SECONDS": "0.5",
    "COLDFUSION_RECONCILE_INTERVAL_SECONDS": "1",
    "COLDFUSION_CHECKPOINT_SECONDS": "0.000001",
}

#: Rights for what does not happen in an hour in which nothing goes wrong.
RARE = {
    # Whoever creates and is told that it exists reads it and compares; whoever loses a commit
    # deletes its files.
    "finetune": {"Read heads/*", "Read inbox/*", "Delete contributions/*/*.safetensors"},
    "site": {
        *("Read heads/*", "Read inbox/*", "Delete contributions/*/*.safetensors"),
        # Checkpoints from before the worker was a site's; a turn that fails.
        *("Read checkpoints/*", "Delete checkpoints/*", "Write submissions/*/failed.json"),
    },
    "evaluation": set(),
    # What is shared with helpers, and what only a collection of old garbage does.
    "fusion": {
        *("Write fusions/*", "Delete fusions/*"),
        *("Write inbox/*", "Write open/*", "Delete open/*", "Delete wanted/*"),
        "Delete datasets/*",
    },
    "exporter": set(),
    # An upload that breaks off; a second attempt that finds an entry of the first.
    "setup": {"Delete base/000000-*", "List base/000000-*", "Read ledger/0000000000.json"},
    "submit": {"Read open/*"},
}


@dataclass(frozen=True)
class Stage:
    """A repository whose processes have the credentials of their roles and no others."""

    world: World
    access: Access
    recorders: Mapping[str, StoreRecorder]
    ports: Mapping[str, int]
    worked: dict[str, set[Request]] = field(default_factory=dict)
    """What each role asked the store for in its work."""

    def variables(self, role: str) -> dict[str, str]:
        found = self.access.variables(role)
        if role in self.recorders:
            found["COLDFUSION_S3_ENDPOINT"] = self.recorders[role].url
        if role == "site":
            directory = self.world.directory / "site"
            found |= {"COLDFUSION_SITE": SITE, "COLDFUSION_SITE_DATA_DIR": str(directory)}
        found["COLDFUSION_HOME"] = str(self.world.directory / f"home-{role}")
        if role in self.ports:
            found["COLDFUSION_METRICS_PORT"] = str(self.ports[role])
        return found

    def run(self, role: str, *arguments: object) -> Finished:
        """Run ``coldfusion`` as somebody who has the credentials of a role."""
        done = self.world.run_warm(*arguments, **self.variables(role))
        assert done.code == 0, (role, arguments, done.err, done.out)
        return done

    def submit(self, *arguments: object) -> str:
        done = self.run("submit", "submit", *arguments, *QUICK, "--json")
        return str(done.json()["submission"])

    def ask(self, role: str, path: str) -> str:
        """What a process of a role serves."""
        url = f"http://127.0.0.1:{self.ports[role]}{path}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return bytes(answer.read()).decode()


@pytest.fixture(scope="module")
def access(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Access]:
    with roles_servers(tmp_path_factory.mktemp("access"), REPOSITORY, SITE) as found:
        yield found


@pytest.fixture(scope="module")
def stage(
    access: Access, tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path
) -> Iterator[Stage]:
    with ExitStack() as stack:
        directory = tmp_path_factory.mktemp("world")
        recorders = {
            role: stack.enter_context(recording(access.store.endpoint)) for role in POLICIES
        }
        # What the test itself looks at it reads as the fusion worker does, past the recorder.
        world = World(directory, {**access.variables("fusion"), **SOON})
        stack.callback(world.redis.close)
        stack.callback(world.stop_all)
        (directory / "site").mkdir()
        write_rows(directory / "site" / "notes.jsonl", rows("pair"))
        stage = Stage(world, access, recorders, {role: free_port() for role in WORKERS})
        limits = ("--set", "min_contributions=1", "--set", "max_copy_cosine=none")
        gate = ("--set", "gate_tolerance=0.99", "--set", "gate_max_drift=none")
        kept = ("--set", "retain_base_versions=1", "--set", "retain_contributions=0")
        base = ("--base", tiny_model_dir, "--create-bucket")
        stage.run("setup", "init", *base, *limits, *gate, *kept)
        for role, kind in WORKERS.items():
            world.start_warm(kind, role, **stage.variables(role))
        try:
            work(stage)
        except BaseException:
            print("refused:", access.denied())
            raise
        for role, recorder in recorders.items():
            stage.worked[role] = recorder.requests()
        yield stage


def work(stage: Stage) -> None:
    """What a deployment does: contributions, a gate, what fails and is cancelled, garbage."""
    world = stage.world
    data = write_rows(world.data / "notes.jsonl", rows("single", 40))
    first = stage.submit(data, "--turns", "2")
    private = stage.submit("site:notes.jsonl", "--site", SITE)
    world.wait_complete(first, private)
    dataset = world.repository.submissions.get(first).dataset_id
    stage.run("fusion", "policy", "--set", f"gate_datasets={dataset}")
    failing = stage.submit(data, "--set", "learning_rate=1e30", "--name", "failing")
    second = stage.submit(data, "--name", "second")
    cancelled = stage.submit(data, "--name", "third", "--turns", "forever")
    stage.run("submit", "cancel", cancelled)
    world.wait_complete(second)
    eventually(lambda: world.state(failing)["state"] == "failed")
    assert world.repository.ledger.newest().after.gate is not None
    stage.run("submit", "status", "--all")
    stage.run("submit", "history")
    stage.run("submit", "show", first)
    stage.run("submit", "pull", world.directory / "pulled")
    assert (world.directory / "pulled" / "README.md").exists()
    for role in ("finetune", "site", "evaluation", "fusion", "beat", "exporter"):
        assert stage.ask(role, "/readyz") == "ok\n"
    assert "coldfusion_up 1.0" in stage.ask("exporter", "/metrics")
    eventually(lambda: not any(world.repository.submissions.open()) and world.is_idle())
    stage.run("fusion", "gc", "--grace-seconds", "0")


def test_nobody_is_refused_what_its_work_needs(stage: Stage) -> None:
    assert stage.access.denied() == []
    logs = stage.world.directory / "logs"
    assert {log.stem for log in logs.iterdir()} == set(WORKERS)
    refusals = re.compile(r"AccessDenied|NOPERM|no permission|refused the cred", re.IGNORECASE)
    lines = [line for log in logs.iterdir() for line in log.read_text("utf-8").splitlines()]
    assert [line for line in lines if refusals.search(line)] == []


@pytest.mark.parametrize("role", [role for role in (*WORKERS, "submit") if role in POLICIES])
def test_doctor_finds_nothing_wrong_with_the_credentials_of_a_role(role: str, stage: Stage) -> None:
    found = {item["check"]: item for item in stage.run(role, "doctor", "--json").json()}
    spared = {name for name, item in found.items() if "may not" in item["text"]}
    states = {name: item["state"] for name, item in found.items() if name != "device"}

    assert spared == {
        "exporter": {"conditional writes", "gate", "workers"},
        "finetune": {"gate"},
        "submit": {"workers"},
    }.get(role, set())
    assert {name for name, state in states.items() if state != "ok"} == spared


@pytest.mark.parametrize("role", POLICIES)
def test_a_policy_allows_what_its_role_asks_for_and_nothing_that_is_never_asked(
    role: str, stage: Stage
) -> None:
    own = policy(role, stage.access.store.bucket, REPOSITORY)
    assert {item for item in as_at_aws(stage.worked[role]) if not allows(own, item)} == set()
    asked = as_at_aws(stage.recorders[role].requests())  # doctor's are among them
    below = f"arn:aws:s3:::{stage.access.store.bucket}/{REPOSITORY}/"
    unused = {
        name.replace(below, "").replace(f"{REPOSITORY}/", "")
        for name, single in patterns(own)
        if not any(allows(single, item) for item in asked)
    }
    # Whoever may read may list, to be told what is not there.
    rare = RARE[role] | {name.replace("Read", "List") for name in RARE[role]}
    assert unused - rare == set()
    assert RARE[role] - unused == set()


#: What a role may do with each kind of object, for the roles that may do anything with it.
OBJECTS = {
    "base/000001-00/model.safetensors": {
        **dict.fromkeys(("finetune", "site", "evaluation", "submit"), "get"),
        "fusion": "get put delete",
    },
    "ledger/0000000001.json": {
        **dict.fromkeys(("finetune", "site", "evaluation", "submit", "exporter"), "get"),
        "fusion": "get put",
    },
    "ledger/0000000000.json": {
        **dict.fromkeys(("finetune", "site", "evaluation", "submit", "exporter"), "get"),
        "fusion": "get put",
        "setup": "get put",
    },
    "repository.json": {
        **dict.fromkeys(("finetune", "site", "evaluation", "submit", "exporter", "fusion"), "get"),
        "setup": "get put",
    },
    "evaluations/a/b/frozen-0-c.json": {"evaluation": "get put", "submit": "get", "fusion": "get"},
    "wanted/a.json": {"evaluation": "get delete", "fusion": "get put delete"},
    "candidates/0000000001.json": {
        **dict.fromkeys(("exporter", "submit"), "get"),
        "fusion": "get put delete",
    },
    "datasets/a/train.parquet": {
        **dict.fromkeys(("finetune", "evaluation"), "get"),
        "submit": "put",
        "fusion": "get delete",
    },
    "datasets/a/dataset.json": {
        **dict.fromkeys(("finetune", "evaluation"), "get"),
        "submit": "get put",
        "fusion": "get delete",
    },
    "submissions/a/submission.json": {
        **dict.fromkeys(("finetune", "site", "fusion"), "get"),
        "submit": "get put",
    },
    "submissions/a/failed.json": {
        **dict.fromkeys(("finetune", "site"), "get put"),
        **dict.fromkeys(("submit", "fusion"), "get"),
    },
    "contributions/a/b/shared.safetensors": {
        **dict.fromkeys(("finetune", "site"), "get put delete"),
        "fusion": "get delete",
    },
    "contributions/a/contribution.json": {
        **dict.fromkeys(("finetune", "site"), "get put"),
        **dict.fromkeys(("submit", "fusion"), "get"),
    },
    "contributions/a/decision.json": {
        **dict.fromkeys(("finetune", "site", "submit"), "get"),
        "fusion": "get put",
    },
    "inspections/a.json": {"fusion": "get put"},
    "overrides/a.json": {"fusion": "get"},
    "checkpoints/a/b/checkpoint.safetensors": {
        "finetune": "get put delete",
        "site": "get delete",
        "fusion": "get delete",
    },
    "inbox/a": {
        **dict.fromkeys(("finetune", "site"), "get put"),
        "fusion": "get put delete",
    },
}


@pytest.mark.parametrize("role", POLICIES)
def test_the_store_refuses_a_role_whatever_is_not_its_own(role: str, stage: Stage) -> None:
    store = stage.access.open_store(role)

    def may(action: str, key: str) -> bool:
        # What is there stays there: creating does not overwrite, and what is deleted is not real.
        ask = {"get": store.find, "put": lambda name: store.create(name, b""), "delete": delete}
        try:
            ask[action](key)
        except AccessDeniedError:
            return False
        return True

    def delete(key: str) -> None:
        store.delete([key])

    def rights(key: str) -> str:
        return " ".join(action for action in ("get", "put", "delete") if may(action, key))

    assert {key: rights(f"{REPOSITORY}/{key}") for key in OBJECTS} == {
        key: who.get(role, "") for key, who in OBJECTS.items()
    }
    assert {rights(f"another/{key}") for key in OBJECTS} == {""}
    for prefix in ("", "another/", REPOSITORY):
        with pytest.raises(AccessDeniedError):
            list(store.list(prefix))
    if role != "setup":
        with pytest.raises(AccessDeniedError):
            store.create_bucket()


#: Who may do what at the broker; ``R`` is the repository.
COMMANDS = {
    # Its own messages a role takes and puts back; those of others it may hand in, and no more.
    "BRPOP finetune 1": "finetune fusion",
    "BRPOP finetune\x06\x163 1": "finetune fusion",
    "LPUSH finetune message": "finetune fusion submit",
    "BRPOP finetune.hospital-a 1": "site fusion",
    "LPUSH finetune.hospital-a message": "site fusion submit",
    "BRPOP finetune.hospital-a\x06\x163 1": "site fusion",
    "BRPOP finetune.hospital-b 1": "fusion",
    "BRPOP evaluate 1": "evaluation fusion",
    "LPUSH evaluate message": "evaluation fusion",
    "BRPOP fusion 1": "fusion",
    "LPUSH fusion message": "fusion beat",
    "LLEN finetune": "finetune fusion submit exporter keda",
    "LRANGE finetune 0 -1": "finetune fusion",
    # What workers have in hand.
    "HGETALL unacked:finetune": "finetune fusion",
    "HSET unacked:finetune tag message": "finetune",
    "HSET unacked:finetune:a100 tag message": "finetune",
    "ZADD unacked:finetune:a100_index 0 tag": "finetune",
    "HSET unacked:evaluate tag message": "evaluation",
    "HSET unacked:fusion tag message": "fusion",
    "SET unacked:fusion_mutex token": "fusion",
    "HSET unacked.hospital-a tag message": "site",
    "HGETALL unacked.hospital-ab": "fusion",
    "HSET unacked.hospital-ab tag message": "",
    "HLEN unacked:finetune": "finetune fusion exporter keda",
    "HLEN unacked:finetune:a100": "finetune fusion exporter keda",
    "HLEN unacked.hospital-a": "site fusion exporter keda",
    # What the repository's processes tell each other.
    "SET coldfusion:R:turn:a.t00001 sent": "finetune site evaluation fusion submit",
    "SET coldfusion:R:progress:a report": "finetune site fusion",
    "GET coldfusion:R:progress:a": "finetune site fusion submit",
    "SET coldfusion:R:fusion-lock token": "fusion",
    "SADD coldfusion:R:sites hospital-a": "site fusion submit",
    "SMEMBERS coldfusion:R:sites": "site fusion submit exporter",
    "SADD coldfusion:pools a100": "finetune",
    "SET finetune.hospital-a.online yes": "site fusion submit",
    "SET coldfusion:another:turn:a.t00001 sent": "",
    "GET coldfusion:another:progress:a": "",
    # Which queue a message comes to.
    "SADD _kombu.binding.finetune binding": "finetune fusion submit",
    "SADD _kombu.binding.fusion binding": "fusion beat",
    "SADD _kombu.binding.evaluate binding": "evaluation fusion",
    # Commanding workers, and telling monitors.
    "PUBLISH /0.celery.pidbox command": "finetune evaluation fusion",
    "PUBLISH /0.celeryev/task.sent event": "finetune evaluation fusion beat submit",
    # Seeing all keys, and administering.
    "SCAN 0": "fusion",
    "INFO": "finetune site evaluation fusion beat exporter submit",
    "TYPE finetune": "finetune fusion keda",
    **dict.fromkeys(("KEYS *", "FLUSHALL", "CONFIG GET *", "ACL LIST", "MONITOR", "SHUTDOWN"), ""),
    **dict.fromkeys(("CLIENT LIST", "DEBUG SLEEP 0", "FUNCTION FLUSH", "SCRIPT FLUSH"), ""),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_broker_lets_those_roles_do_it_that_have_to(command: str, stage: Stage) -> None:
    words = command.replace(":R:", f":{REPOSITORY}:").split(" ")

    def may(role: str) -> bool:
        answer = stage.access.root.execute_command("ACL", "DRYRUN", role, *words)
        return answer in {"OK", b"OK"}

    assert [role for role in ACL_FILES if may(role)] == sorted(COMMANDS[command].split())


#: What the scaler runs, and one that would empty the queue.
LENGTH = """
local kind = redis.call('type', KEYS[1]).ok
local commands = {zset = 'zcard', set = 'scard', list = 'llen', hash = 'hlen', none = 'llen'}
return redis.call(commands[kind], KEYS[1])
"""
TAKE = "return redis.call('RPOP', KEYS[1])"


def test_the_scaler_counts_messages_and_changes_nothing_in_a_script_either(stage: Stage) -> None:
    root, keda = stage.access.root, stage.access.client("keda")
    root.lpush("finetune.scaled", "message")

    assert keda.eval(LENGTH, 1, "finetune.scaled") == 1
    assert keda.eval(LENGTH, 1, "unacked:finetune:a100") == 0
    with pytest.raises(redis.ResponseError, match="no permissions"):
        keda.eval(TAKE, 1, "finetune.scaled")
    with pytest.raises(redis.ResponseError, match=r"[Nn]o permissions"):
        keda.eval(LENGTH, 1, f"coldfusion:{REPOSITORY}:sites")
    assert root.delete("finetune.scaled") == 1
    keda.close()
