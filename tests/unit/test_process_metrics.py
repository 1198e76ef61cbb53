"""What a worker's processes counted, by their parent, when some of them have been killed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

#: A parent as a worker is one; what its children do is left to what follows.
_PARENT = """
import json, os, signal, sys, threading, time
from pathlib import Path
from types import SimpleNamespace

directory = Path(sys.argv[1])
os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(directory)

from prometheus_client import CollectorRegistry
from coldfusion_queue.metrics import TaskMetrics
from coldfusion_queue.metrics.processes import ProcessesCollector

metrics, registry = TaskMetrics(CollectorRegistry()), CollectorRegistry()
registry.register(ProcessesCollector(directory))

def child(work):
    pid = os.fork()
    if pid == 0:
        work()
        signal.pause()
    return pid

def kill(pid):
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)

def shown(name, **labels):
    return registry.get_sample_value(name, {"repository": "r", "site": "", **labels})

def wait_for(name, value, **labels):
    while shown(name, **labels) != value:
        time.sleep(0.005)

def num_files():
    return len(list(directory.glob("*.db")))

def committed(seconds=2.0):
    metrics.finetune_ended("r", "committed", seconds)

def trained(loss):
    told = {"step": 1, "num_steps": 2, "new_examples": 4, "new_tokens": 40, "memory_bytes": 1000}
    metrics.trained("r", SimpleNamespace(loss=loss, **told))

FINETUNES = "coldfusion_finetunes_total"
"""


def parent(tmp_path: Path, script: str) -> object:
    command = [sys.executable, "-c", _PARENT + script, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_counts_of_a_killed_process_stay_and_its_gauges_go(tmp_path: Path) -> None:
    found = parent(
        tmp_path,
        """
def work():
    committed(); committed(7.0); trained(0.5)

first = child(work)
wait_for("coldfusion_trained_examples_total", 4)
live = shown("coldfusion_finetune_loss")
kill(first)
names = [FINETUNES, "coldfusion_finetune_duration_seconds_bucket"]
labels = [{"outcome": "committed"}, {"le": "5.0"}]
counts = [shown(name, **more) for name, more in zip(names, labels)]
counts += [shown(f"coldfusion_finetune_duration_seconds_{what}") for what in ("sum", "count")]
gone = shown("coldfusion_finetune_loss")
second = child(lambda: trained(0.25))
wait_for("coldfusion_trained_examples_total", 8)
now = shown("coldfusion_finetune_loss")
kill(second)
print(json.dumps([live, counts, gone, now, shown("coldfusion_finetune_loss")]))
""",
    )

    assert found == [0.5, [2, 1, 9, 2], None, 0.25, None]


def test_files_do_not_pile_up_however_many_processes_die(tmp_path: Path) -> None:
    found = parent(
        tmp_path,
        """
def work():
    committed(); trained(0.5)

files = []
for number in range(1, 13):
    pid = child(work)
    wait_for("coldfusion_trained_examples_total", 4 * number)
    kill(pid)
    shown(FINETUNES, outcome="committed")
    files.append(num_files())
committed()  # the parent's own
print(json.dumps([files[0], files[-1], shown(FINETUNES, outcome="committed")]))
""",
    )

    first, last, total = found  # type: ignore[misc]
    assert first == last
    assert total == 13


def test_no_scrape_sees_a_count_go_back_while_processes_are_killed(tmp_path: Path) -> None:
    found = parent(
        tmp_path,
        """
seen, is_over = [[] for _ in range(3)], threading.Event()

def scrape(values):
    while not is_over.is_set():
        values.append(shown(FINETUNES, outcome="committed") or 0)

threads = [threading.Thread(target=scrape, args=(values,)) for values in seen]
def work():
    for _ in range(5):
        committed()

metrics.begin("r", "finetune")
for thread in threads:
    thread.start()
for number in range(1, 31):
    pid = child(work)
    wait_for(FINETUNES, 5 * number, outcome="committed")
    kill(pid)
is_over.set()
for thread in threads:
    thread.join()
print(json.dumps([values == sorted(values) for values in seen] + [max(map(max, seen))]))
""",
    )

    assert found == [True, True, True, 150]


def test_a_process_that_died_before_it_wrote_anything_breaks_no_scrape(tmp_path: Path) -> None:
    found = parent(
        tmp_path,
        """
pid = child(lambda: None)
path = directory / f"counter_{pid}.db"
path.touch()
committed()
totals = [shown(FINETUNES, outcome="committed")]
kill(pid)
totals.append(shown(FINETUNES, outcome="committed"))
print(json.dumps([totals, path.exists()]))
""",
    )

    assert found == [[1, 1], False]
