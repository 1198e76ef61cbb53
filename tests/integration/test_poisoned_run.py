"""A contributor turns bad in the middle of a run: real finetunes, real probes, a small model.

Eight contributors finetune on parts of one task, whose label says whether one of a few words occurs
among others. A linear probe finds some of that in a random model's features; a few iterations teach
it the rest. From iteration 3 on contributor 5 hands in noise. The limits of single deltas are out
of the way, so that it is the gate that finds out.
"""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from coldfusion_queue.audit import audit
from coldfusion_queue.evaluating import run_evaluation
from coldfusion_queue.intake.prepare import prepare_dataset
from coldfusion_queue.intake.upload import upload_dataset
from coldfusion_queue.names import contribution_id
from coldfusion_queue.records import (
    Contribution,
    EvaluationSpec,
    Hyperparameters,
    Policy,
    Rule,
    Submission,
)
from coldfusion_queue.repository.fusing import fuse_once
from coldfusion_queue.repository.policy import change_policy
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.repository.rolling_back import roll_back
from coldfusion_queue.settings import Settings
from coldfusion_queue.turn import run_turn
from tests.conftest import CORPUS
from tests.rows import write_rows

NUM_CONTRIBUTORS, NUM_ITERATIONS = 8, 5
POISONER, POISONED_FROM = 5, 3
#: Length of the noise, as a multiple of the base model.
NOISE = 12.0

RECIPE = Hyperparameters(
    learning_rate=3e-3, epochs=3, batch_size=16, max_length=24, dropout=0.0, head="fresh"
)
KEYS = ("sea", "nuts", "server", "kind", "foot", "images")
OTHERS = tuple({word for text in CORPUS for word in re.findall(r"\w+", text)} - set(KEYS))


def task(number: int, seed: int) -> list[dict[str, Any]]:
    generator = random.Random(seed)
    found = []
    for _ in range(number):
        words = generator.choices(sorted(OTHERS), k=9)
        has_key = generator.random() < 0.5
        if has_key:
            words[generator.randrange(9)] = generator.choice(KEYS)
        found.append({"text": " ".join(words), "label": "key" if has_key else "none"})
    return found


class Run:
    """One run of the protocol, a turn of everybody at each iteration."""

    def __init__(self, repository: Repository, settings: Settings, directory: Path) -> None:
        self._repository = repository
        self._settings = settings
        self._directory = directory
        self._parts = [
            self._upload(f"part{number}", 96, seed=number) for number in range(NUM_CONTRIBUTORS)
        ]
        self.held_out = self._upload("held-out", 600, seed=99)

    def iterate(self, *, is_poisoned: bool = False) -> None:
        for number, dataset_id in enumerate(self._parts):
            submission = self._repository.submissions.create(
                f"contributor{number}", dataset_id=dataset_id, hyperparameters=RECIPE
            )
            if is_poisoned and number == POISONER:
                self._poison(submission)
            else:
                run_turn(self._repository, self._settings, submission, 1, lambda *_: None)
        while self._repository.inbox.count():
            fuse_once(self._repository, self._settings)
            for name in list(self._repository.evaluations.wanted()):
                request = self._repository.evaluations.request(name)
                assert request is not None
                run_evaluation(self._repository, self._settings, request)

    def score(self) -> float:
        """Of the newest base version, on the test split, which the gate does not see."""
        spec = EvaluationSpec(dataset_id=self.held_out, kind="frozen")
        base = self._repository.ledger.base_version()
        for request in self._repository.evaluations.want(base, [spec]):
            run_evaluation(self._repository, self._settings, request)
        found = self._repository.evaluations.find(spec.evaluation_id(base.digest))
        assert found is not None
        assert found.score is not None
        return found.score

    def _upload(self, name: str, number: int, seed: int) -> str:
        data, work_dir = self._directory / name, self._directory / f"{name}-prepared"
        data.mkdir()
        work_dir.mkdir()
        for split, own in (("train", 0), ("validation", 1000), ("test", 2000)):
            write_rows(data / f"{split}.jsonl", task(number, seed + own))
        prepared = prepare_dataset(str(data), work_dir=work_dir)
        store, keys = self._repository.store, self._repository.keys
        return upload_dataset(store, keys, prepared).dataset_id

    def _poison(self, submission: Submission) -> None:
        base = self._repository.ledger.base_version()
        path = self._directory / "poison.safetensors"
        self._repository.store.download(base.model_files[0], path)
        generator = np.random.default_rng(base.version)
        # As long as each tensor is, times the factor: pure noise of zeros would be zeros.
        noise = {
            name: NOISE * np.std(value) * generator.standard_normal(value.shape)
            for name, value in load_file(path).items()
        }
        save_file({name: value.astype(np.float32) for name, value in noise.items()}, path)
        name = contribution_id(submission.submission_id, 1)
        attempt, files = self._repository.contributions.upload(name, {"shared.safetensors": path})
        self._repository.contributions.commit(
            Contribution(
                contribution_id=name,
                submission_id=submission.submission_id,
                contributor_id=submission.contributor_id,
                dataset_id=submission.dataset_id,
                turn=1,
                attempt=attempt,
                base_version=base.version,
                base_digest=base.digest,
                form="delta",
                shared=files["shared.safetensors"],
                head=None,
                num_examples=96,
                metrics={},
                created_at=submission.created_at,
                created_by="poison",
            )
        )


@pytest.fixture
def policy() -> Policy:
    limits = dict.fromkeys(("max_relative_norm", "max_norm_z", "min_cosine", "max_copy_cosine"))
    return Policy(min_contributions=1, **limits)


def test_with_the_gate_a_poisoned_contributor_does_no_harm(
    repository: Repository, settings: Settings, tmp_path: Path
) -> None:
    run = Run(repository, settings, tmp_path)
    clean = [run.score()]
    for _ in range(NUM_ITERATIONS):
        run.iterate()
        clean.append(run.score())

    def once_more() -> float:
        """From the last version before the poison, with the poison."""
        roll_back(repository, POISONED_FROM - 1, "once more, with a poisoned contributor")
        assert run.score() == clean[POISONED_FROM - 1]
        for _ in range(POISONED_FROM, NUM_ITERATIONS + 1):
            run.iterate(is_poisoned=True)
        return run.score()

    poisoned = once_more()
    change_policy(repository, {"gate_datasets": (run.held_out,), "gate_leave_out": True})
    gated = once_more()

    assert clean[-1] > clean[0] + 0.1  # there is something to lose
    assert poisoned < clean[POISONED_FROM - 1] - 0.05
    assert gated > clean[-1] - 0.02
    refused = [
        (item.contribution_id.partition("-")[0], item.rule)
        for entry in repository.ledger.entries()
        for item in entry.decisions
        if item.rule is not None
    ]
    expected = [(f"contributor{POISONER}", Rule.GATE)] * (NUM_ITERATIONS - POISONED_FROM + 1)
    assert refused == expected
    assert audit(settings, repository.name).findings == ()
