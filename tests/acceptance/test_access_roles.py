"""Every role does its work with its own credentials alone, and has no right that it never uses."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from coldfusion_queue.local.ports import free_port
from tests.acceptance.access import POLICIES, Access, policy, roles_servers
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
    # An upload that breaks off.
    "setup": {"Delete base/000000-*", "List base/000000-*"},
    "submit": {"Read open/*"},
}

#: Of these, what happens in some runs: whoever is first deletes the marker of an open submission.
RACED = {role: {"Delete open/*"} if role == "fusion" else set() for role in RARE}


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
        if role == "finetune":
            found["COLDFUSION_POOL"] = "a100"
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
        stage.run("setup", "init", *base, "--if-not-exists")
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
    for role in ("submit", "fusion"):
        assert "the broker does not answer" not in stage.run(role, "status", "--all").out
    stage.run("submit", "history")
    stage.run("submit", "show", first)
    stage.run("submit", "pull", world.directory / "pulled")
    assert (world.directory / "pulled" / "README.md").exists()
    for role in ("finetune", "site", "evaluation", "fusion", "beat", "exporter"):
        assert stage.ask(role, "/readyz") == "ok\n"
    metrics = stage.ask("exporter", "/metrics")
    assert f'coldfusion_up{{repository="{REPOSITORY}"}} 1.0' in metrics
    assert 'pool="a100"' in metrics
    # Read after a scrape, for the next one.
    eventually(lambda: "coldfusion_quality_score{" in stage.ask("exporter", "/metrics"))
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
    assert RARE[role] - unused - RACED[role] == set()
