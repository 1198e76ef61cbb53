"""What happens in the scenario: a quiet time, then one trouble after another, then peace again."""

from __future__ import annotations

import json
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

__all__ = ["ENVIRONMENT", "FACTOR", "REPOSITORY", "REWRITTEN", "SITE", "Story", "finetuners"]

REPOSITORY = "words"

#: By which durations are divided: an hour is 36 seconds.
FACTOR = 100

#: What is no duration in rules, and would take hours or many gigabytes; and what is too short when
#: it is divided: on a busy machine a scrape or two of the exporter do not come in time.
REWRITTEN: Mapping[str, Mapping[str, str]] = {
    "ColdFusionUnreachable": {"5m": "15m"},
    "ColdFusionPendingTooOld": {"+ 3600": "+ 20"},
    "ColdFusionBucketGrowth": {
        **{"offset 1w": "offset 3h", "> 2 * sum": "> 1.1 * sum", "10 * 2^30": "2000 * 2^20"},
        "offset 1d": "offset 2h",
    },
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
    min_contributions=2, max_wait_seconds=10, retain_base_versions=2, retain_contributions=2
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
        for name in ("wordnet_noun", "wordnet_verb"):  # one for each worker: nothing waits
            self.datasets[name] = stage.upload(name, 400, 200)
            stage.submit(name.replace("_", "-"), self.datasets[name], _SHORT, turns=6)
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
        options = [text for name in self.datasets.values() for text in ("--dataset", name)]
        self.stage.run("evaluate", *options, "--set", "max_length=32", "--wait")

    # --- troubles -----------------------------------------------------------------------------

    def nonsense(self) -> None:
        """Contributions that are refused, and one that an operator lets in."""
        stage = self.stage
        for number in range(5):
            stage.contribute_nonsense(f"crowd-{number}", 3)
        stage.wait_firing("ColdFusionRefusalsRising")
        refused = next(item for item in stage.world.decisions()[::-1] if item.outcome == "refused")
        reason = ("--override", "to see what happens", "--json")
        said = json.loads(stage.run("contribute", refused.contribution_id, *reason))
        eventually(lambda: self._version_with(said["contribution"]), 60)
        self.evaluate()
        stage.wait_firing("ColdFusionQualityDrop")
        last_good = self._version_with(said["contribution"]) - 1
        stage.run("rollback", last_good, "--reason", "the crowd's model is noise")
        self.evaluate()

    def _version_with(self, contribution_id: str) -> int:
        """The base version that a contribution was fused into; 0 if it was not yet."""
        published = [entry.published for entry in self.stage.repository.ledger.entries()]
        return next(
            (
                version.version
                for version in published
                if version is not None
                and contribution_id in [item.contribution_id for item in version.fused]
            ),
            0,
        )

    def deaths(self) -> None:
        """Workers are killed in the middle of turns, one hangs, a site has none at all."""
        stage = self.stage
        self._submit_private("lab")
        with stage.frozen_children("finetune-3"):
            for number in range(3):
                self._submit_private(SITE)
                self._submit(f"diverges-{number}", _DIVERGING)
            stage.wait_firing("ColdFusionFinetunesFailing")
            stage.kill("fusion")
            stage.kill("beat")
            self._submit("quick", _SHORT, turns=2)
            eventually(lambda: stage.repository.inbox.count() == 2, 90)
            long = [self._submit(f"long-{number}", _LONG) for number in range(2)]
            self._kill_until_it_is_told()
            stage.kill("finetune-1")
            stage.wait_firing(
                "ColdFusionBeatSilent",
                "ColdFusionWorkerLost",
                "ColdFusionQueueGrowing",
                "ColdFusionDeviceIdle",
                "ColdFusionNoFusion",
                "ColdFusionPendingTooOld",
            )
        for name in long:
            stage.repository.submissions.cancel(name)
        stage.up()
        eventually(lambda: not stage.prometheus.query("sum(coldfusion_leases) > 0"), 90)

    def _kill_until_it_is_told(self) -> None:
        """Kill what trains, in the middle, for as long as nobody is told that it happens."""
        stage, workers = self.stage, ("finetune-1", "finetune-2")
        eventually(lambda: any(stage.world.store.list(f"{REPOSITORY}/checkpoints/")), 60)
        lost = 'coldfusion_requeues_total{reason="worker_lost"}'
        while "ColdFusionTasksRequeued" not in stage.prometheus.firing():
            eventually(lambda: all(map(stage.is_training, workers)), 60)
            before = stage.prometheus.value(lost) or 0
            for name in workers:
                stage.kill_children(name)
            eventually(lambda before=before: (stage.prometheus.value(lost) or 0) >= before + 2, 60)

    def _submit_private(self, site: str) -> None:
        """Submit data that is at a site, whether anybody is there or not."""
        how = ("epochs=1", "max_examples=100", "batch_size=16", "max_length=32")
        options = [text for pair in how for text in ("--set", pair)]
        self.stage.world.submit("site:notes", "--site", site, *options)

    def _submit(self, contributor: str, how: Hyperparameters, turns: int = 1) -> str:
        return self.stage.submit(contributor, self.datasets["wordnet_verb"], how, turns)

    def gate(self) -> None:
        """A fused model waits for a gate that nobody measures, and somebody fills the bucket."""
        stage = self.stage
        stage.run("policy", "--set", f"gate_datasets={self.datasets['wordnet_noun']}")
        stage.kill("evaluation")
        for name in ("gated-a", "gated-b"):
            self._submit(name, _SHORT)
        for number in range(12):
            orphan = f"{REPOSITORY}/contributions/orphan-{number}"
            stage.world.store.put(orphan, bytes(300 * 2**20))
        stage.wait_firing("ColdFusionCandidateStuck", "ColdFusionBucketGrowth")
        stage.up()
        passed = 'min_over_time(coldfusion_gate_verdicts_total{verdict="published"}[5s]) > 0'
        eventually(lambda: stage.prometheus.query(passed), 90)

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

    # --- peace --------------------------------------------------------------------------------

    def peace(self) -> None:
        """What was mended is known to be mended, and there is work again."""
        over = {"Unreachable", "NoFusion", "StoreErrors", "BrokerErrors", "WorkerLost"}
        over |= {"BeatSilent", "CandidateStuck", "DeviceIdle", "FinetunesFailing", "TasksRequeued"}
        names = {f"ColdFusion{name}" for name in (*over, "PendingTooOld")}
        for number in range(2):
            self._submit(f"again-{number}", _LONG)
        # A site still has no worker, which is told of again after the outages.
        self.stage.wait_firing("ColdFusionQueueGrowing")
        eventually(lambda: not names & self.stage.prometheus.firing(), 120)
        eventually(self._is_in_full_swing, 60)

    def _is_in_full_swing(self) -> bool:
        """Whether everything is seen, and both workers have told of the turns that they train."""
        trains = "coldfusion_turn_started_timestamp_seconds > 0"
        told = f"coldfusion_turn_reported_timestamp_seconds > ({trains})"
        advanced = f"count((coldfusion_turn_progress_ratio > 0.02) and ({told})) == 2"
        seen = "min(up) == 1 and min(coldfusion_up) == 1"
        return bool(self.stage.prometheus.query(f"{advanced} and {seen}"))
