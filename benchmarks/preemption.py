"""What does a killed worker cost a finetune?

One turn on real servers with two warm workers, four times from the same base version: left alone;
the worker that has it told to stop in the middle; its process that trains killed, as for want of
memory; and all of it killed, as with its machine. For each of the three:

    extra_seconds      from the start of the turn to its commit, beyond that of the one left alone
    detected_seconds   of these, until somebody went on: the lease of a dead worker has to end
    cost_seconds       the rest: steps done twice, the state fetched, the model loaded anew
    same_bits          whether shared parameters and head are those of the one left alone

    python -m benchmarks.preemption
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from benchmarks.between import ROOT
from benchmarks.reporting import print_report
from coldfusion_queue.cli.init import create_repository
from coldfusion_queue.demo.recipe import data_dir, pretrained_dir
from coldfusion_queue.intake.prepare import prepare_dataset
from coldfusion_queue.intake.upload import upload_dataset
from coldfusion_queue.keys import RedisKeys
from coldfusion_queue.local import embedded_servers
from coldfusion_queue.local.processes import ProcessRecord, start, stop
from coldfusion_queue.names import contribution_id
from coldfusion_queue.queue.app import make_app
from coldfusion_queue.queue.connection import connect_redis
from coldfusion_queue.queue.progress import read_progress
from coldfusion_queue.queue.sending import TurnSender
from coldfusion_queue.records import Contribution, Hyperparameters, Policy
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.settings import Settings, load_settings
from coldfusion_queue.store import Store

DATASET = "debian_section"
WORKERS = ("one", "other")

_PATIENCE_SECONDS = 900.0


def tell(worker: psutil.Process) -> None:
    worker.send_signal(signal.SIGTERM)


def kill_child(worker: psutil.Process) -> None:
    for child in worker.children():
        child.kill()


def kill_all(worker: psutil.Process) -> None:
    os.killpg(worker.pid, signal.SIGKILL)


CASES: Mapping[str, Callable[[psutil.Process], None] | None] = {
    "alone": None,
    "told": tell,
    "child_killed": kill_child,
    "worker_killed": kill_all,
}


@dataclass(frozen=True)
class Site:
    """A repository of its own, with two workers and what looks after lost turns."""

    repository: Repository
    settings: Settings
    workers: Mapping[str, ProcessRecord]
    work_dir: Path

    def submit(self, name: str, dataset_id: str, recipe: Hyperparameters) -> str:
        """Send one turn; returns the id of its submission."""
        redis = connect_redis(self.settings)
        sender = TurnSender(make_app(self.settings), redis, self.settings, self.repository.name)
        submission = self.repository.submissions.create(
            name, dataset_id=dataset_id, turns=1, hyperparameters=recipe
        )
        sender.send(submission.submission_id, 1)
        return submission.submission_id

    def committed(self, submission_id: str) -> Contribution | None:
        """What the turn committed, or None if it has not yet."""
        status = self.repository.submissions.status(self.repository.submissions.get(submission_id))
        if status.failure is not None:
            raise SystemExit(f"{submission_id}: {status.failure.reason}")
        return self.repository.contributions.find(contribution_id(submission_id, 1))

    def wait(self, submission_id: str) -> Contribution:
        """What the turn commits in the end."""
        begun = time.monotonic()
        while (found := self.committed(submission_id)) is None:
            if time.monotonic() - begun > _PATIENCE_SECONDS:
                raise SystemExit(f"{submission_id} is not committed; see {self.work_dir}")
            time.sleep(0.1)
        return found

    def at_half(self, submission_id: str) -> str:
        """Wait until half of the steps are done; returns the worker that does them."""
        client, keys = connect_redis(self.settings), RedisKeys(self.repository.name)
        while self.committed(submission_id) is None:
            report = read_progress(client, keys, submission_id)
            if report is not None and report.num_steps and 2 * report.step >= report.num_steps:
                return report.worker
            time.sleep(0.05)
        raise SystemExit("the turn was over before it was half done; give it more epochs")

    def events(self, submission_id: str) -> list[tuple[str, float]]:
        """What the workers logged of a submission, in order of time, with seconds."""
        found = []
        for name in WORKERS:
            log = (self.work_dir / f"{name}.log").read_text(encoding="utf-8")
            for item in (json.loads(line) for line in log.splitlines() if line.startswith("{")):
                ids = f"{item.get('submission')} {item.get('contribution')}"
                if submission_id in ids and "event" in item:
                    seconds = datetime.fromisoformat(item["time"]).timestamp()
                    found.append((item["event"], seconds))
        return sorted(found, key=lambda event: event[1])


def run_case(
    case: str, variables: Mapping[str, str], root: Path, sizes: argparse.Namespace
) -> dict[str, Any]:
    """One turn from its start to its commit."""
    work_dir = root / case
    work_dir.mkdir()
    own = {
        **variables,
        "COLDFUSION_REPOSITORY": case.replace("_", "-"),
        "COLDFUSION_HOME": str(work_dir),
        "COLDFUSION_PREPARE_AHEAD_SECONDS": "0",
        "COLDFUSION_METRICS_PORT": "0",
        "COLDFUSION_LOG_FORMAT": "json",
        "COLDFUSION_TORCH_THREADS": "1",
        "COLDFUSION_LEASE_SECONDS": str(sizes.lease_seconds),
        "COLDFUSION_RECONCILE_INTERVAL_SECONDS": str(sizes.lease_seconds / 6),
        "COLDFUSION_CHECKPOINT_SECONDS": str(sizes.checkpoint_seconds),
    }
    with ExitStack() as stack:
        site = open_site(own, work_dir, stack)
        prepared = prepare_dataset(str(data_dir() / DATASET), work_dir=work_dir)
        dataset_id = upload_dataset(
            site.repository.store, site.repository.keys, prepared
        ).dataset_id
        little = Hyperparameters(epochs=1, max_examples=16, max_validation_examples=0)
        for name in [site.submit("warm", dataset_id, little) for _ in range(4)]:
            site.wait(name)
        recipe = Hyperparameters(batch_size=16, epochs=sizes.epochs, max_validation_examples=0)
        submission_id = site.submit("measured", dataset_id, recipe)
        killed = interrupt(site, submission_id, CASES[case])
        contribution = site.wait(submission_id)
        time.sleep(0.5)  # for the last events to be written
        return figures(site.events(submission_id), contribution, killed)


def interrupt(
    site: Site, submission_id: str, act: Callable[[psutil.Process], None] | None
) -> float | None:
    """Interrupt the worker in the middle of its turn; returns when, in seconds."""
    if act is None:
        return None
    name = site.at_half(submission_id).partition("@")[0]
    act(psutil.Process(site.workers[name].pid))
    return time.time()


def open_site(variables: Mapping[str, str], work_dir: Path, stack: ExitStack) -> Site:
    fields = {name.removeprefix("COLDFUSION_").lower(): value for name, value in variables.items()}
    settings = load_settings(**fields)
    repository = Repository(Store.open(settings), settings.repository)
    create_repository(repository, str(pretrained_dir()), Policy(min_contributions=99), quiet=True)
    environment = {**os.environ, **variables, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    commands = {name: ["workers.finetune_worker", "--name", name] for name in WORKERS} | {
        "fusion": ["workers.fusion_worker"],
        "beat": ["workers.beat"],
    }
    processes = {}
    for name, arguments in commands.items():
        command = [sys.executable, "-m", *arguments]
        log = work_dir / f"{name}.log"
        processes[name] = start(name, command, environment, work_dir, log, die_with_parent=True)
    stack.callback(stop_all, list(processes.values()))
    return Site(repository, settings, processes, work_dir)


def stop_all(processes: Sequence[ProcessRecord]) -> None:
    with suppress(psutil.NoSuchProcess):
        stop(list(processes), 5)


def figures(
    events: Sequence[tuple[str, float]], contribution: Contribution, killed: float | None
) -> dict[str, Any]:
    begun = next(seconds for event, seconds in events if event == "turn_started")
    ended = next(seconds for event, seconds in events if event == "turn_committed")
    resumed = [seconds for event, seconds in events if event == "turn_resumed"]
    assert contribution.head is not None
    return {
        "seconds": round(ended - begun, 2),
        "detected_seconds": round(resumed[-1] - killed, 2) if killed and resumed else None,
        "digests": (contribution.shared.digest, contribution.head.digest),
    }


def compared(result: dict[str, Any], alone: dict[str, Any]) -> dict[str, Any]:
    extra = result["seconds"] - alone["seconds"]
    detected = result["detected_seconds"]
    return {
        "seconds": result["seconds"],
        "extra_seconds": round(extra, 2),
        "detected_seconds": detected,
        "cost_seconds": None if detected is None else round(extra - detected, 2),
        "same_bits": result["digests"] == alone["digests"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--epochs", type=int, default=4, help="of 1,200 examples")
    parser.add_argument("--checkpoint-seconds", type=float, default=5.0)
    parser.add_argument("--lease-seconds", type=int, default=12)
    parser.add_argument("--cases", nargs="+", default=list(CASES)[1:], choices=list(CASES)[1:])
    sizes = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, embedded_servers(Path(name)) as variables:
        results = {}
        for case in ("alone", *sizes.cases):
            results[case] = run_case(case, variables, Path(name), sizes)
            print(json.dumps({case: results[case]}), file=sys.stderr, flush=True)
    alone = results.pop("alone")
    print_report(
        "preemption",
        ("celery", "torch"),
        checkpoint_seconds=sizes.checkpoint_seconds,
        lease_seconds=sizes.lease_seconds,
        alone_seconds=alone["seconds"],
        cases={case: compared(result, alone) for case, result in results.items()},
    )


if __name__ == "__main__":
    main()
