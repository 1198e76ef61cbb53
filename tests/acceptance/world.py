"""A repository of one's own, the real command line and real worker processes around it."""

from __future__ import annotations

import itertools
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from coldfusion_queue.audit import audit
from coldfusion_queue.crash_points import CrashPoint
from coldfusion_queue.local.processes import ProcessRecord, is_running, start, stop
from coldfusion_queue.queue.app import unacked_key
from coldfusion_queue.queue.connection import connect_redis
from coldfusion_queue.records import Decision, Policy
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.settings import Settings, load_settings
from coldfusion_queue.store import Store
from tests.acceptance.forks import forks, run_command, run_worker
from tests.injector import Injector

BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[2]

#: Variables that make a process run in ``tests.faulty``.
FAULTS = {"INJECTOR_DIRECTORY", "CLOCK_OFFSET_SECONDS"}

#: From the top, while the ``settings`` fixture counts from the bottom.
_databases = itertools.count(1023, -1)

#: A shell that ran the tests in the background made Ctrl-C ignored, which children inherit.
_WITH_CTRL_C = (
    "import os,signal,sys;signal.signal(2,signal.SIG_DFL);os.execv(sys.argv[1],sys.argv[1:])"
)


@dataclass(frozen=True)
class Finished:
    """A command that ended."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """Its one JSON document."""
        assert self.code == 0, self.err
        return json.loads(self.out)

    def complaint(self) -> str:
        """Its one error message; a traceback, or more than one message, is an error of its own."""
        assert "Traceback" not in self.err
        assert len(re.findall("^error: ", self.err, re.MULTILINE)) == 1, self.err
        return self.err[self.err.index("error: ") :]


class World:
    """One repository, one Redis database, one home directory, and the processes that use them."""

    def __init__(self, directory: Path, variables: Mapping[str, str]) -> None:
        self.directory = directory
        #: Where commands make their temporary files; nothing may be left in it.
        self.temporary = directory / "tmp"
        self.temporary.mkdir(parents=True)
        self.data = directory / "data"
        self.data.mkdir()
        self._variables = {
            "COLDFUSION_REPOSITORY": f"acceptance-{secrets.token_hex(4)}",
            "COLDFUSION_HOME": str(directory / "home"),
            "COLDFUSION_METRICS_PORT": "0",
            "COLDFUSION_LOG_FORMAT": "json",
            "COLDFUSION_DEVICE": "cpu",
            "COLDFUSION_TORCH_THREADS": "1",
            **variables,
        }
        self.settings = self._settings()
        self.store = Store.open(self.settings)
        self.repository = Repository(self.store, self.settings.repository)
        self.redis: redis.Redis = connect_redis(self.settings)
        self._processes: dict[str, ProcessRecord] = {}

    def _settings(self) -> Settings:
        with pytest.MonkeyPatch.context() as patch:
            for name in [name for name in os.environ if name.startswith("COLDFUSION_")]:
                patch.delenv(name)
            for name, value in self._variables.items():
                patch.setenv(name, value)
            return load_settings()

    def environment(self, **own: str) -> dict[str, str]:
        """The whole environment of a command or a worker."""
        passed_on = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        return {
            **passed_on,
            "LANG": "C.UTF-8",
            "TMPDIR": str(self.temporary),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "160",
            **self._variables,
            **own,
        }

    # --- commands -----------------------------------------------------------------------------

    def popen(self, program: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
        """Start ``coldfusion`` or ``coldfusion-submit``; Ctrl-C works on it."""
        own = options.pop("own", {})
        command = [str(BIN / program), *map(str, arguments)]
        return subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _WITH_CTRL_C, *command],
            env=self.environment(**own),
            cwd=self.directory,
            text=True,
            **{
                "stdin": subprocess.DEVNULL,
                "stdout": subprocess.PIPE,
                "stderr": subprocess.PIPE,
                **options,
            },
        )

    def run(
        self, program: str, *arguments: object, prefix: Sequence[str] = (), **own: str
    ) -> Finished:
        """Run ``coldfusion`` or ``coldfusion-submit`` to its end; ``own`` are more variables."""
        done = subprocess.run(
            [*prefix, str(BIN / program), *map(str, arguments)],
            env=self.environment(**own),
            cwd=self.directory,
            text=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=100,
            check=False,
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    def run_warm(self, *arguments: object, **own: str) -> Finished:
        """Run ``coldfusion`` in a child of a process that has loaded what commands load.

        The same entry point with the same arguments and environment, up to six seconds sooner.
        With variables of ``FAULTS`` in ``own`` it runs as ``tests.faulty`` does it.
        """
        out, err = self.directory / "stdout", self.directory / "stderr"
        argv = ["coldfusion", *map(str, arguments)]
        child = forks().Process(
            target=run_command, args=(argv, self.environment(**own), self.directory, out, err)
        )
        child.start()
        child.join(100)
        assert child.exitcode is not None
        return Finished(child.exitcode, out.read_text("utf-8"), err.read_text("utf-8"))

    def submit(self, *arguments: object, **own: str) -> str:
        """Submit data, by a warm command, and return the id of the submission."""
        done = self.run_warm("submit", *arguments, "--json", **own)
        return str(done.json()["submission"])

    # --- processes ----------------------------------------------------------------------------

    def start(self, kind: str, name: str | None = None, **own: str) -> None:
        """Start a worker; it is killed with the test run, however that ends.

        With ``INJECTOR_DIRECTORY`` or ``CLOCK_OFFSET_SECONDS`` in ``own`` it runs in
        ``tests.faulty``.
        """
        name = name or kind
        arguments = ["--name", name] if kind.endswith("worker") else []
        runner = ["tests.faulty"] if own.keys() & FAULTS else []
        self._processes[name] = start(
            name,
            [sys.executable, "-m", *runner, f"workers.{kind}", *arguments],
            self.environment(PYTHONPATH=str(ROOT), **own),
            self.directory,
            self.log_file(name),
            die_with_parent=True,
        )

    def start_warm(self, kind: str, name: str | None = None, **own: str) -> None:
        """The same worker, forked from a process that has loaded torch: up in a second."""
        name = name or kind
        arguments = ["--name", name] if kind.endswith("worker") else []
        self.log_file(name).parent.mkdir(exist_ok=True)
        child = forks().Process(
            target=run_worker,
            args=(
                [f"workers.{kind}", *arguments],
                self.environment(**own),
                self.directory,
                self.log_file(name),
            ),
        )
        child.start()
        assert child.pid is not None
        self._processes[name] = ProcessRecord(
            name=name,
            pid=child.pid,
            create_time=psutil.Process(child.pid).create_time(),
            command=("workers", kind),
            log=str(self.log_file(name)),
        )

    def start_all(self, finetune_workers: int = 1, **own: str) -> None:
        """Start finetune workers, a fusion worker and beat."""
        for number in range(finetune_workers):
            self.start("finetune_worker", f"finetune{number}", **own)
        self.start("fusion_worker", **own)
        self.start("beat", **own)

    def kill(self, name: str) -> None:
        """SIGKILL a worker and its pool child, as a node that loses power does."""
        stop([self._processes.pop(name)], 0)

    def kill_pool_child(self, name: str) -> None:
        """SIGKILL the process that finetunes, as the kernel does when memory runs out."""
        for child in psutil.Process(self._processes[name].pid).children(recursive=True):
            child.kill()

    def pool_children(self, name: str) -> set[int]:
        """The processes of a worker's pool."""
        parent = psutil.Process(self._processes[name].pid)
        return {child.pid for child in parent.children(recursive=True)}

    def pause(self, name: str) -> None:
        """SIGSTOP a worker and its children: a machine that sleeps, a partition that heals."""
        self._signal_all(name, signal.SIGSTOP)

    def wake(self, name: str) -> None:
        """SIGCONT after ``pause``."""
        self._signal_all(name, signal.SIGCONT)

    def _signal_all(self, name: str, number: signal.Signals) -> None:
        parent = psutil.Process(self._processes[name].pid)
        for process in (parent, *parent.children(recursive=True)):
            process.send_signal(number)

    def terminate(self, name: str) -> None:
        """SIGTERM a worker, as an orchestrator does, and do not wait."""
        os.kill(self._processes[name].pid, signal.SIGTERM)

    def runs(self, name: str) -> bool:
        """Whether a worker's process is still there."""
        return name in self._processes and is_running(self._processes[name])

    def stop_all(self) -> None:
        """Kill what still runs."""
        stop(self._processes.values(), 0)
        self._processes.clear()

    def log_file(self, name: str) -> Path:
        """File of a worker's output."""
        return self.directory / "logs" / f"{name}.log"

    def events(self, name: str) -> list[dict[str, Any]]:
        """A worker's log records."""
        try:
            lines = self.log_file(name).read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    # --- what can be seen ---------------------------------------------------------------------

    def objects(self) -> dict[str, int]:
        """Every object of the repository, with its size."""
        return {item.key: item.num_bytes for item in self.store.list(f"{self.repository.name}/")}

    def queued(self) -> dict[str, int]:
        """Messages of turns that wait or are being worked on, and hints of turns.

        What beat sends is not counted: the fusion worker may have one of those in hand any time.
        """
        turns = f"coldfusion:{self.repository.name}:turn:*"
        taken: dict[Any, Any] = self.redis.hgetall(unacked_key("finetune"))  # type: ignore[assignment]
        return {
            "finetune": int(self.redis.llen("finetune")),  # type: ignore[arg-type]
            "unacknowledged": len(taken),
            "hints": len(list(self.redis.scan_iter(turns))),
        }

    def is_idle(self) -> bool:
        """Whether no turn waits, is worked on or is said to be, and nobody helps with a fusion."""
        waiting: list[Any] = self.redis.lrange("fusion", 0, -1)  # type: ignore[assignment]
        unacknowledged: list[Any] = self.redis.hvals(unacked_key("fusion"))  # type: ignore[assignment]
        messages = [*map(json.loads, waiting), *(json.loads(item)[0] for item in unacknowledged)]
        tasks = [message["headers"]["task"] for message in messages]
        return "coldfusion.help_fusion" not in tasks and not any(self.queued().values())

    def left_behind(self) -> list[str]:
        """Temporary files and directories of ours; torch makes itself an empty one."""
        names = (path.name for path in self.temporary.iterdir())
        return [name for name in names if not name.startswith("torchinductor_")]

    def state(self, submission_id: str) -> dict[str, Any]:
        """What ``coldfusion show`` says of a submission, read from the bucket."""
        record = self.repository.submissions.get(submission_id)
        status = self.repository.submissions.status(record)
        return {
            "state": status.state.value,
            "committed_turns": status.committed_turns,
            "failure": status.failure,
        }

    def progress(self, submission_id: str) -> dict[str, Any]:
        """The last progress report of a submission; empty if there is none."""
        key = f"coldfusion:{self.repository.name}:progress:{submission_id}"
        data = self.redis.get(key)
        return {} if data is None else dict(json.loads(str(data)))

    def decisions(self) -> list[Decision]:
        """Every decision of the ledger, in order."""
        return [item for entry in self.repository.ledger.entries() for item in entry.decisions]

    def check_fused_once(self, *submission_ids: str) -> None:
        """No contribution is decided twice, or is in the lineage of two base versions."""
        entries = list(self.repository.ledger.entries())
        decided = [item.contribution_id for entry in entries for item in entry.decisions]
        assert len(decided) == len(set(decided))
        fused = [
            item.contribution_id
            for entry in entries
            if entry.published is not None
            for item in entry.published.fused
        ]
        assert len(fused) == len(set(fused))
        for name in submission_ids:
            turns = self.state(name)["committed_turns"]
            mine = sorted(item for item in fused if item.startswith(f"{name}."))
            expected = [f"{name}.t{turn:05d}" for turn in range(1, turns + 1)]
            assert mine == expected, [item for item in self.decisions() if item.rule]

    def wait_complete(self, *submission_ids: str, seconds: float = 60) -> None:
        """Until all turns are committed and fused, each once; the auditor then finds nothing."""

        def complete() -> bool:
            states = [self.state(name) for name in submission_ids]
            assert not any(state["failure"] for state in states), states
            return all(state["state"] == "complete" for state in states)

        eventually(complete, seconds)
        eventually(lambda: self.repository.inbox.count() == 0)
        self.check_fused_once(*submission_ids)
        assert audit(self.settings, self.repository.name).findings == ()

    def starts(self, submission_id: str) -> int:
        """How often a turn of a submission was begun, by any worker."""
        found = [
            item for log in (self.directory / "logs").iterdir() for item in self.events(log.stem)
        ]
        mine = [item for item in found if item.get("submission") == submission_id]
        return [item.get("event") for item in mine].count("turn_started")


@contextmanager
def open_world(
    servers: Mapping[str, str],
    directory: Path,
    model_dir: Path | None,
    policy: Policy | None = None,
    max_shard_size: str = "5GB",
    **own: str,
) -> Iterator[World]:
    """A world with an initialised repository, or without one if there is no ``model_dir``.

    Args:
        servers: variables of running servers with 1024 Redis databases.
        directory: a fresh directory.
        model_dir: the pretrained model.
        policy: of the repository.
        max_shard_size: of the base model's weight files.
        own: more variables, for all processes.
    """
    from coldfusion_queue.cli.init import create_repository

    broker = {
        "COLDFUSION_BROKER_URL": servers["COLDFUSION_BROKER_URL"][:-1] + str(next(_databases))
    }
    world = World(directory, {**servers, **broker, **own})
    try:
        if model_dir is not None:
            # Tests submit one dataset under several names, which makes copies.
            policy = policy or Policy(min_contributions=1, max_copy_cosine=None)
            create_repository(
                world.repository,
                str(model_dir),
                policy,
                quiet=True,
                max_shard_size=max_shard_size,
            )
        yield world
    finally:
        world.stop_all()
        world.redis.close()


def eventually(condition: Callable[[], Any], seconds: float = 40.0) -> Any:
    """Poll until the condition answers truly, and give its answer."""
    end = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < end, f"was not true within {seconds} s"
        time.sleep(0.05)
    return answer


@contextmanager
def until_fired(injector: Injector, point: CrashPoint, action: str) -> Iterator[None]:
    """Arm a point; wait, after what the block does, until a process has done this there."""
    before = injector.fired(point)
    injector.arm(point, action)
    yield
    eventually(lambda: injector.fired(point) > before)


@contextmanager
def slow_training(injector: Injector, step_seconds: float = 0.15) -> Iterator[None]:
    """Make each optimizer step take this much longer, so that a test can act in the middle.

    Of all workers under the injector, and until the end of the context.
    """
    injector.arm(CrashPoint.TURN_STEPPED, f"every delay {step_seconds}")
    try:
        yield
    finally:
        injector.disarm(CrashPoint.TURN_STEPPED)
