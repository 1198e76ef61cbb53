"""What happens in the scenario: a quiet time, then one trouble after another, then peace again."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from coldfusion_queue.demo import recipe
from coldfusion_queue.records import Hyperparameters, Policy
from tests.acceptance.world import eventually
from tests.monitoring.stage import Stage

__all__ = ["ENVIRONMENT", "FACTOR", "REPOSITORY", "REWRITTEN", "Story", "finetuners"]

REPOSITORY = "words"

#: By which durations are divided: an hour is 36 seconds.
FACTOR = 100

#: What is no duration in rules, and would take hours or many gigabytes.
REWRITTEN: Mapping[str, Mapping[str, str]] = {
    "ColdFusionPendingTooOld": {"+ 3600": "+ 20"},
    "ColdFusionBucketGrowth": {"offset 1w": "offset 1h", "10 * 2^30": "300 * 2^20"},
}

ENVIRONMENT = {
    **recipe.ENVIRONMENT,
    "COLDFUSION_REPOSITORY": REPOSITORY,
    "COLDFUSION_LEASE_SECONDS": "6",
    "COLDFUSION_RECONCILE_INTERVAL_SECONDS": "1",
    "COLDFUSION_CHECKPOINT_SECONDS": "3",
    "COLDFUSION_PROGRESS_INTERVAL_SECONDS": "0.5",
    "COLDFUSION_GC_INTERVAL_SECONDS": "5",
    "COLDFUSION_GC_GRACE_SECONDS": "180",
    "COLDFUSION_FINETUNE_TIME_LIMIT_SECONDS": "120",
    "COLDFUSION_TASK_MAX_WORKER_LOSSES": "20",
    "COLDFUSION_S3_MAX_ATTEMPTS": "3",
}
SITE = "clinic"


def finetuners(private: Path) -> tuple[Mapping[str, str], ...]:
    """Variables of three workers: one is quick, one takes its time, and one is of a site.

    Args:
        private: a fresh directory for the site's data.
    """
    shutil.copytree(recipe.data_dir() / "wordnet_kind", private / "notes")
    site = {"COLDFUSION_SITE": SITE, "COLDFUSION_SITE_DATA_DIR": str(private)}
    return ({}, {"COLDFUSION_DUTY_CYCLE": "0.25"}, site)


_POLICY = Policy(
    min_contributions=2, max_wait_seconds=10, retain_base_versions=2, retain_contributions=0
)
_SHORT = recipe.HYPERPARAMETERS.model_copy(update={"max_examples": 300, "learning_rate": 1e-4})
_LONG = recipe.HYPERPARAMETERS.model_copy(update={"epochs": 40})
_DIVERGING = _SHORT.model_copy(update={"learning_rate": 1e30, "max_grad_norm": 1e30})


@dataclass
class Story:
    """What happened, and when: its parts by name, from when to when."""

    stage: Stage
    parts: dict[str, tuple[float, float]] = field(default_factory=dict)
    datasets: dict[str, str] = field(default_factory=dict)

    def tell(self) -> None:
        """All of it."""
        self.begin()
        with self._part("quiet"):
            self.quiet()
        with self._part("nonsense"):
            self.nonsense()
        with self._part("deaths"):
            self.deaths()
        with self._part("gate"):
            self.gate()
        with self._part("outages"):
            self.outages()
        with self._part("growth"):
            self.growth()
        with self._part("peace"):
            self.peace()

    @contextmanager
    def _part(self, name: str) -> Iterator[None]:
        began = time.time()
        yield
        self.parts[name] = (began, time.time())

    # --- the quiet time -----------------------------------------------------------------------

    def begin(self) -> None:
        """Make the repository, start what serves it, and wait until all of it has worked once.

        In this scenario a second counts for more than a minute, and workers load torch for a few.
        """
        stage = self.stage
        stage.begin(_POLICY)
        stage.up()
        for name in ("wordnet_noun", "wordnet_verb", "debian_language"):
            self.datasets[name] = stage.upload(name, 400, 200)
            stage.submit(name.replace("_", "-"), self.datasets[name], _SHORT, turns=4)
        self.evaluate()
        eventually(lambda: stage.version() >= 1, 90)
        eventually(lambda: not stage.prometheus.firing(), 60)

    def quiet(self) -> None:
        """Base versions come and are measured; one worker is slower than the other."""
        for version in (1, 2, 3):
            eventually(lambda version=version: self.stage.version() >= version, 90)
            self.evaluate()

    def evaluate(self) -> None:
        """Measure the newest base version on two datasets."""
        names = list(self.datasets.values())[:2]
        options = [text for name in names for text in ("--dataset", name)]
        self.stage.run("evaluate", *options, "--set", "max_length=32", "--wait")

    # --- troubles -----------------------------------------------------------------------------

    def nonsense(self) -> None:
        """Contributions that are refused, and one that an operator lets in."""
        stage = self.stage
        for number in range(5):
            stage.contribute_nonsense(f"crowd-{number}", 3)
        stage.wait_firing("ColdFusionRefusalsRising")
        refused = next(item for item in stage.world.decisions() if item.outcome == "refused")
        before = stage.version()
        stage.run("contribute", refused.contribution_id, "--override", "to see what happens")
        eventually(lambda: stage.version() > before, 60)
        self.evaluate()
        stage.wait_firing("ColdFusionQualityDrop")
        stage.run("rollback", before, "--reason", "the crowd's model is noise")
        self.evaluate()

    def deaths(self) -> None:
        """Workers are killed in the middle of turns, one hangs, a site has none at all."""
        stage = self.stage
        for number in range(3):
            self._submit(f"diverges-{number}", _DIVERGING)
        stage.world.submit("site:notes", "--site", "lab")
        with stage.frozen_children("finetune-3"):
            for _ in range(3):
                stage.world.submit("site:notes", "--site", SITE)
            stage.wait_firing("ColdFusionFinetunesFailing")
            stage.kill("fusion")
            self._submit("quick", _SHORT, turns=2)
            self._submit("long", _LONG)
            eventually(lambda: any(stage.world.store.list(f"{REPOSITORY}/checkpoints/")), 60)
            for _ in range(5):
                eventually(lambda: stage.is_training("finetune-1"), 60)
                stage.kill_children("finetune-1")
            stage.wait_firing("ColdFusionTasksRequeued")
            eventually(lambda: stage.is_training("finetune-1"), 60)
            stage.kill("finetune-1")
            stage.wait_firing(
                "ColdFusionWorkerLost",
                "ColdFusionQueueGrowing",
                "ColdFusionDeviceIdle",
                "ColdFusionNoFusion",
                "ColdFusionPendingTooOld",
            )
        stage.up()

    def _submit(self, contributor: str, how: Hyperparameters, turns: int = 1) -> str:
        return self.stage.submit(contributor, self.datasets["debian_language"], how, turns)

    def gate(self) -> None:
        """A fused model waits for a gate that nobody measures; then it passes."""
        stage = self.stage
        stage.run("policy", "--set", f"gate_datasets={self.datasets['wordnet_noun']}")
        stage.kill("evaluation")
        for name in ("gated-a", "gated-b"):
            self._submit(name, _SHORT)
        stage.wait_firing("ColdFusionCandidateStuck")
        before = stage.version()
        stage.up()
        eventually(lambda: stage.version() > before, 90)

    def outages(self) -> None:
        """The store is away for a while, and then the broker."""
        stage = self.stage
        for server, alert in (
            ("s3", "ColdFusionStoreErrors"),
            ("valkey", "ColdFusionBrokerErrors"),
        ):
            stage.kill(server)
            stage.wait_firing("ColdFusionUnreachable", alert)
            stage.up()
            eventually(lambda: stage.prometheus.value("coldfusion_up") == 1, 60)

    def growth(self) -> None:
        """Somebody puts large files where contributions are."""
        stage = self.stage
        key = f"{REPOSITORY}/contributions/"
        for number in range(4):
            stage.world.store.put(f"{key}orphan-{number}", bytes(300 * 2**20))
        stage.wait_firing("ColdFusionBucketGrowth")

    # --- peace --------------------------------------------------------------------------------

    def peace(self) -> None:
        """What was mended is known to be mended; what was lost within the hour is still told."""
        over = {"Unreachable", "NoFusion", "StoreErrors", "BrokerErrors", "WorkerLost"}
        over |= {"CandidateStuck", "DeviceIdle", "FinetunesFailing", "TasksRequeued"}
        names = {f"ColdFusion{name}" for name in over}
        eventually(lambda: not names & self.stage.prometheus.firing(), 120)
