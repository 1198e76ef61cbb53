"""``coldfusion experiment`` on real workers, also when it is killed in the middle."""

from __future__ import annotations

import json
import os
import random
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from coldfusion_queue.audit import audit
from coldfusion_queue.experiment.arms import arms_of
from coldfusion_queue.experiment.schedule import plan
from coldfusion_queue.experiment.spec import read_experiment
from coldfusion_queue.records import Outcome
from coldfusion_queue.repository.repository import Repository
from tests.acceptance.conftest import MakeWorld
from tests.acceptance.world import Finished, World
from tests.conftest import CORPUS
from tests.rows import write_rows

NAMES = ("one", "two", "three", "four")

FILE = """
name: {name}
base: {base}
datasets:
  one: {data}/one
  two: {data}/two
  three: {data}/three
  four: {data}/four
seen: [one, two, three]
unseen: [four]
contributors_per_iteration: 2
iterations: 3
hyperparameters: &recipe
  epochs: 2
  batch_size: 8
  learning_rate: 1.0e-3
  max_length: 16
evaluation:
  frozen:
    hyperparameters: {{max_length: 16}}
    versions: all
  finetuned:
    hyperparameters: *recipe
{more}
"""

EVERYTHING = """
  few_shot: {datasets: unseen, num_shots: 8, hyperparameters: *recipe}
baselines: [pretrained, multitask, fused_once]
controls: [random_deltas, alone]
variants:
  freely:
    schedule: {kind: asynchronous, speeds: [1, 1, 3], min_contributions: 2}
  poisoned:
    poison: {contributor: two, from_iteration: 1, kind: sign_flip, factor: 2}
    policy: {max_norm_z: null, min_cosine: null}
  gated:
    gate: {datasets: [four], tolerance: 0.5}
"""


@pytest.fixture(scope="module")
def world(make_world: MakeWorld, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Workers of a bucket, and four datasets."""
    with make_world() as opened:
        for kind in ("finetune_worker", "evaluation_worker", "fusion_worker"):
            opened.start_warm(kind)
        for seed, name in enumerate(NAMES):
            folder = opened.data / name
            folder.mkdir()
            for split, number in (("train", 40), ("test", 24)):
                write_rows(folder / f"{split}.jsonl", _rows(seed, number, split))
        yield opened


def _rows(seed: int, number: int, split: str) -> list[dict[str, Any]]:
    generator = random.Random(f"{seed}{split}")
    chosen = [(generator.randrange(len(CORPUS)), index) for index in range(number)]
    return [
        {"text": f"{CORPUS[text]} {index}", "label": f"label{(text + seed) % 3}"}
        for text, index in chosen
    ]


def declare(world: World, directory: Path, base: Path, more: str = "") -> Path:
    path = directory / "experiment.yaml"
    name = f"e-{secrets.token_hex(3)}"
    text = FILE.format(name=name, base=base, data=world.data, more=more)
    path.write_text(text, encoding="utf-8")
    return path


def run(world: World, *arguments: object) -> Finished:
    """Run the command to its end, which on a busy machine takes minutes."""
    process = world.popen("coldfusion", "experiment", *arguments)
    out, err = process.communicate(timeout=300)
    return Finished(process.returncode, out, err)


def numbers_of(out: Path) -> dict[tuple[Any, ...], float]:
    """Every number by what it is of, whatever the experiment is called."""
    keys = ("arm", "seed", "dataset", "kind", "evaluation_seed", "iteration")
    data = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert data["missing"] == 0
    return {tuple(row[key] for key in keys): row["score"] for row in data["numbers"]}


def digests_of(out: Path) -> dict[tuple[Any, ...], str]:
    data = json.loads((out / "results.json").read_text(encoding="utf-8"))
    return {
        (item["arm"], item["seed"], item["iteration"]): item["base_digest"]
        for item in data["versions"]
    }


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_every_arm_of_an_experiment_is_run_and_measured(
    world: World, tiny_model_dir: Path, tmp_path: Path
) -> None:
    path, out = declare(world, tmp_path, tiny_model_dir, EVERYTHING), tmp_path / "out"

    done = run(world, path, "--out", out)

    assert done.code == 0, done.err
    experiment = read_experiment(path)
    numbers = numbers_of(out)
    assert {key[0] for key in numbers} == {arm.name for arm in arms_of(experiment)}
    assert all(0 <= score <= 100 for score in numbers.values())
    for arm, iterations in (("cold", {1, 2, 3}), ("pretrained", {0}), ("multitask", {1})):
        assert {key[5] for key in numbers if (key[0], key[3]) == (arm, "frozen")} == iterations
    assert {key[2] for key in numbers if key[0] == "alone-two"} == {"two"}
    assert {key[2] for key in numbers if key[3] == "few_shot"} == {"four"}
    for name in ("results.md", "curves.png"):
        assert (out / name).stat().st_size > 500
    assert "ColD - pretrained" in (out / "results.md").read_text(encoding="utf-8")
    check_lineage(world, path, "cold")
    check_lineage(world, path, "freely")
    check_lineage(world, path, "gated")
    for arm in arms_of(experiment):
        assert audit(world.settings, arm.repository(experiment, 0)).findings == ()
    digests = digests_of(out)
    fusions = plan(experiment.design(), 0)
    first = next(
        fusion.number for fusion in fusions if "two" in {turn.contributor for turn in fusion.turns}
    )
    for number in range(1, 4):  # the same until who does harm contributes
        same = digests["cold", 0, number] == digests["poisoned", 0, number]
        assert same == (number < first)
    assert digests["cold", 0, 3] != digests["random-deltas", 0, 3]


def check_lineage(world: World, path: Path, arm_name: str) -> None:
    """What was fused is what the schedule says, from the base versions that it says."""
    experiment = read_experiment(path)
    arm = next(arm for arm in arms_of(experiment) if arm.name == arm_name)
    repository = Repository(world.store, arm.repository(experiment, 0))
    entries = [entry for entry in repository.ledger.entries(1) if entry.decisions]
    fusions = plan(arm.design, 0)
    assert len(entries) == len(fusions)
    for entry, fusion in zip(entries, fusions, strict=True):
        assert entry.published is not None
        assert {item.outcome for item in entry.decisions} == {Outcome.FUSED}
        assert {(line.contributor_id, line.base_version) for line in entry.published.fused} == {
            (turn.contributor, turn.base) for turn in fusion.turns
        }


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_an_experiment_that_is_killed_again_and_again_ends_with_the_same_numbers(
    world: World, tiny_model_dir: Path, tmp_path: Path
) -> None:
    controls = "\ncontrols: [random_deltas]\nbaselines: [multitask]\n"
    outs = []
    for number, kills in enumerate([[], [1, 2, 3, 5, 8]]):
        directory = tmp_path / str(number)
        directory.mkdir()
        path, out = declare(world, directory, tiny_model_dir, controls), directory / "out"
        for num_events in kills:
            kill_after(world, ["experiment", path, "--out", out], num_events)
        done = run(world, path, "--out", out)
        assert done.code == 0, done.err
        outs.append(out)

    changed = path.read_text(encoding="utf-8").replace("epochs: 2", "epochs: 3")
    path.write_text(changed, encoding="utf-8")
    done = run(world, path, "--out", tmp_path / "changed")
    assert done.code == 9
    assert "another name" in done.complaint()
    assert digests_of(outs[0]) == digests_of(outs[1])
    assert len(digests_of(outs[0])) == 7
    assert numbers_of(outs[0]) == numbers_of(outs[1])


def kill_after(world: World, arguments: Sequence[object], num_events: int) -> None:
    """SIGKILL the command once it has told so much of what it did, preparing left out."""
    process = world.popen("coldfusion", *arguments)
    assert process.stderr is not None
    seen = 0
    for line in process.stderr:
        seen += " s  " in line and "preparing" not in line
        if seen >= num_events:
            break
    else:
        pytest.fail(f"it ended before event {num_events}")
    time.sleep(random.Random(num_events).uniform(0, 0.5))
    os.kill(process.pid, signal.SIGKILL)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        pytest.fail("it does not die")
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()


def test_an_experiment_without_workers_says_what_to_do(
    make_world: MakeWorld, tiny_model_dir: Path, tmp_path: Path
) -> None:
    with make_world() as idle:
        for name in NAMES:
            (idle.data / name).mkdir()
        path = declare(idle, tmp_path, tiny_model_dir)

        done = idle.run_warm("experiment", path, "--out", tmp_path / "out")

    assert done.code == 8
    assert "coldfusion up" in done.complaint()
    assert "--local" in done.complaint()


def test_datasets_that_cannot_be_taken_are_all_named_before_anything_is_uploaded(
    world: World, tiny_model_dir: Path, tmp_path: Path
) -> None:
    path = declare(world, tmp_path, tiny_model_dir)
    text = path.read_text(encoding="utf-8").replace(f"{world.data}/t", f"{tmp_path}/none-t")
    path.write_text(text, encoding="utf-8")

    done = world.run_warm("experiment", path, "--out", tmp_path / "out")

    assert done.code == 2
    complaint = done.complaint()
    assert "datasets.two: " in complaint
    assert "datasets.three: " in complaint
    prefix = read_experiment(path).name
    assert not list(world.store.list(prefix))


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_an_experiment_brings_its_own_servers_and_workers_and_leaves_none_running(
    make_empty_world: MakeWorld, world: World, tiny_model_dir: Path, tmp_path: Path
) -> None:
    path, out = declare(world, tmp_path, tiny_model_dir), tmp_path / "out"
    text = path.read_text(encoding="utf-8").replace("iterations: 3", "iterations: 1")
    path.write_text(text, encoding="utf-8")
    options = ("--out", out, "--local", "--workers", "1")

    with make_empty_world() as stranger:
        done = run(stranger, path, *options, "--json")
        again = run(stranger, path, *options, "--json", "--tables")

    assert {row["arm"] for row in done.json()["numbers"]} == {"pretrained", "cold"}
    assert again.json() == done.json()
    state = json.loads((out / "stack" / "stack.json").read_text(encoding="utf-8"))
    assert state["processes"] == {}
