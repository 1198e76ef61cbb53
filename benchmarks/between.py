"""How long is a worker's device idle between two turns?

One real finetune worker on fresh servers of its own, the example model, and two example datasets
whose turns alternate. The device's busy intervals are those between the worker's own events
``training_began`` and ``training_ended``, and

    idle_share = 1 - sum of the intervals / (end of the last - begin of the first)

With ``two`` processes the worker prepares a turn and uploads another while it trains; with ``one``
(``COLDFUSION_PREPARE_AHEAD_SECONDS=0``) nothing overlaps. This process fuses meanwhile, so a turn
may find that the base version it prepared is not the newest any more.

    python -m benchmarks.between
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.reporting import print_report
from coldfusion_queue.cli.init import create_repository
from coldfusion_queue.demo.recipe import data_dir, pretrained_dir
from coldfusion_queue.intake.prepare import prepare_dataset
from coldfusion_queue.intake.upload import upload_dataset
from coldfusion_queue.local import embedded_servers
from coldfusion_queue.local.processes import is_running, last_lines, start, stop
from coldfusion_queue.queue.app import make_app
from coldfusion_queue.queue.connection import connect_redis
from coldfusion_queue.queue.sending import TurnSender
from coldfusion_queue.records import Hyperparameters, Policy
from coldfusion_queue.repository.fusing import fuse_once
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.settings import Settings, load_settings
from coldfusion_queue.store import Store

ROOT = Path(__file__).parents[1]
DATASETS = ("debian_section", "wordnet_noun")
AHEAD_SECONDS = {"two": "30", "one": "0"}

_PATIENCE_SECONDS = 3600.0

#: Begin and end of a training, in seconds since the epoch, and its contribution.
Interval = tuple[float, float, str]


def run(
    variables: Mapping[str, str],
    work_dir: Path,
    processes: str,
    num_turns: int,
    recipe: Hyperparameters,
    fuse_every: int,
) -> dict[str, Any]:
    """Serve a repository of its own with one worker until all turns are committed."""
    own = {
        **variables,
        "COLDFUSION_REPOSITORY": processes,
        "COLDFUSION_HOME": str(work_dir / processes),
        "COLDFUSION_PREPARE_AHEAD_SECONDS": AHEAD_SECONDS[processes],
        "COLDFUSION_METRICS_PORT": "0",
        "COLDFUSION_LOG_FORMAT": "json",
        "COLDFUSION_DEVICE": "auto",
    }
    settings = load_settings(
        **{name.removeprefix("COLDFUSION_").lower(): value for name, value in own.items()}
    )
    repository = Repository(Store.open(settings), processes)
    policy = Policy(min_contributions=fuse_every, max_copy_cosine=None)
    create_repository(repository, str(pretrained_dir()), policy, quiet=True)
    submissions = submit(repository, settings, work_dir, num_turns, recipe)
    log = work_dir / f"{processes}.log"
    with worker(own, work_dir, log) as check:
        while not all(is_complete(repository, name) for name in submissions):
            check()
            fuse_once(repository, settings)
            time.sleep(0.5)
    intervals = busy_intervals(log)
    assert len(intervals) == num_turns, intervals
    fusions = repository.ledger.base_version().version
    result = {**figures(intervals), "fusions": fusions}
    print(json.dumps({"processes": processes, **result}), file=sys.stderr, flush=True)
    return result


def submit(
    repository: Repository,
    settings: Settings,
    work_dir: Path,
    num_turns: int,
    recipe: Hyperparameters,
) -> Sequence[str]:
    """One submission of each dataset, which share the turns; all are sent."""
    sender = TurnSender(make_app(settings), connect_redis(settings), settings, settings.repository)
    names = []
    for name in DATASETS:
        prepared = prepare_dataset(str(data_dir() / name), work_dir=work_dir)
        dataset = upload_dataset(repository.store, repository.keys, prepared)
        submission = repository.submissions.create(
            name.replace("_", "-"),
            dataset_id=dataset.dataset_id,
            turns=num_turns // len(DATASETS),
            hyperparameters=recipe,
        )
        sender.send(submission.submission_id, 1)
        names.append(submission.submission_id)
    return names


@contextmanager
def worker(
    variables: Mapping[str, str], directory: Path, log: Path
) -> Iterator[Callable[[], None]]:
    """A finetune worker while the block runs.

    Yields:
        To be called now and then; raises SystemExit if the worker ended, or after an hour.
    """
    environment = {**os.environ, **variables, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "workers.finetune_worker"]
    record = start("finetune", command, environment, directory, log, die_with_parent=True)
    begun = time.monotonic()

    def check() -> None:
        if not is_running(record) or time.monotonic() - begun > _PATIENCE_SECONDS:
            raise SystemExit(f"the worker did not go through with it:\n{last_lines(log)}")

    try:
        yield check
    finally:
        stop([record], 5)


def is_complete(repository: Repository, name: str) -> bool:
    """Whether all turns of a submission are committed.

    Raises:
        SystemExit: it failed.
    """
    status = repository.submissions.status(repository.submissions.get(name))
    if status.failure is not None:
        raise SystemExit(f"{name}: {status.failure.reason}")
    return status.next_turn is None


def busy_intervals(log: Path) -> list[Interval]:
    """When the worker trained, in order, from its events."""
    lines = log.read_text(encoding="utf-8").splitlines()
    begun: dict[str, float] = {}
    intervals = []
    for item in (json.loads(line) for line in lines if line.startswith("{")):
        seconds = datetime.fromisoformat(item["time"]).timestamp()
        if item.get("event") == "training_began":
            begun[item["contribution"]] = seconds
        elif item.get("event") == "training_ended":
            name = item["contribution"]
            intervals.append((begun.pop(name), seconds, name))
    return sorted(intervals)


def figures(intervals: Sequence[Interval]) -> dict[str, Any]:
    """Idle share, gaps and lengths; two trainings at once would be a fault."""
    gaps = [after[0] - before[1] for before, after in pairwise(intervals)]
    busy = [end - begin for begin, end, _ in intervals]
    seconds = intervals[-1][1] - intervals[0][0]
    submissions = [name.rpartition(".")[0] for _, _, name in intervals]
    return {
        "turns": len(intervals),
        "alternations": sum(one != other for one, other in pairwise(submissions)),
        "overlaps": sum(gap < -0.001 for gap in gaps),
        "seconds": round(seconds, 3),
        "busy_seconds_median": round(median(busy), 3),
        "busy_seconds_spread": [round(min(busy), 3), round(max(busy), 3)],
        "gap_seconds_median": round(median(gaps), 3),
        "gap_seconds_spread": [round(min(gaps), 3), round(max(gaps), 3)],
        "idle_share": round(1 - sum(busy) / seconds, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument("--turns", type=int, default=20, help="with two processes")
    parser.add_argument("--turns-with-one", type=int, default=6)
    parser.add_argument("--examples", type=int, default=900, help="of each turn and epoch")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--fuse-every", type=int, default=3, help="contributions")
    arguments = parser.parse_args()
    quick = {"max_examples": 32, "epochs": 1, "max_validation_examples": 0}
    full = {"max_examples": arguments.examples, "epochs": arguments.epochs}
    sizes = quick if arguments.quick else full
    recipe = Hyperparameters(batch_size=16, max_length=32, **sizes)
    turns = {"two": arguments.turns, "one": arguments.turns_with_one}
    if arguments.quick:
        turns = {"two": 4}
    with tempfile.TemporaryDirectory() as name, embedded_servers(Path(name)) as variables:
        results = {
            processes: run(variables, Path(name), processes, number, recipe, arguments.fuse_every)
            for processes, number in turns.items()
        }
    print_report(
        "between",
        ("celery", "kombu", "torch"),
        datasets=DATASETS,
        recipe=recipe.model_dump(exclude_defaults=True),
        results=results,
    )


if __name__ == "__main__":
    main()
