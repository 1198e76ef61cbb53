"""A stack whose workers run under an injector, and what must hold when it is quiet again."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from datetime import UTC, datetime

import numpy as np
from safetensors.numpy import load, save_file

from coldfusion_queue.audit import audit
from coldfusion_queue.crash_points import CrashPoint
from coldfusion_queue.names import contribution_id
from coldfusion_queue.queue.app import make_app
from coldfusion_queue.queue.sending import TurnSender
from coldfusion_queue.records import Contribution, Hyperparameters, Submission
from coldfusion_queue.repository.collecting import collect_garbage
from tests.acceptance.world import World, eventually, until_fired
from tests.injector import Injector

__all__ = ["DIVERGING", "LONG", "QUICK", "SHORT", "WORKERS", "Scene"]

#: Everything that recovers is quick.
QUICK = {
    "COLDFUSION_LEASE_SECONDS": "3",
    "COLDFUSION_RECONCILE_INTERVAL_SECONDS": "0.5",
    "COLDFUSION_FUSION_INTERVAL_SECONDS": "0.5",
    "COLDFUSION_FUSION_LOCK_SECONDS": "1",
    "COLDFUSION_PROGRESS_INTERVAL_SECONDS": "0.05",
    "COLDFUSION_SOFT_SHUTDOWN_SECONDS": "10",
}
SHORT = Hyperparameters(epochs=1, batch_size=8, max_length=16)
LONG = Hyperparameters(epochs=100, batch_size=8, max_length=16)
DIVERGING = Hyperparameters(epochs=2, batch_size=8, max_length=16, learning_rate=1e30)
WORKERS = {"finetune_worker": "finetune0", "fusion_worker": "fusion_worker"}


class Scene:
    """A repository with workers that can be killed, and what was asked of it."""

    def __init__(
        self,
        world: World,
        injector: Injector,
        dataset_id: str,
        workers: Mapping[str, str] = WORKERS,
    ) -> None:
        self.world = world
        self.injector = injector
        self.repository = world.repository
        self._dataset_id = dataset_id
        self._workers = workers
        settings = world.settings
        self._sender = TurnSender(make_app(settings), world.redis, settings, settings.repository)
        self._expected: list[str] = []
        self._failing: list[str] = []

    # --- what a test does ---------------------------------------------------------------------

    def submit(
        self,
        turns: int = 1,
        how: Hyperparameters = SHORT,
        *,
        send: bool = True,
        fails: bool = False,
    ) -> Submission:
        """A submission of the one dataset; its end is checked by ``check``."""
        submission = self.repository.submissions.create(
            "notes", dataset_id=self._dataset_id, turns=turns, hyperparameters=how
        )
        (self._failing if fails else self._expected).append(submission.submission_id)
        if send:
            self._sender.send(submission.submission_id, 1)
        return submission

    def expect(self, submission_id: str) -> None:
        """Another submission that has to complete."""
        self._expected.append(submission_id)

    def hold(self, point: CrashPoint) -> Submission:
        """Submit, and wait until a worker is held at a point."""
        with until_fired(self.injector, point, "hold"):
            return self.submit()

    def start_missing(self) -> None:
        """Start the workers that are not there."""
        for kind, name in self._workers.items():
            if not self.world.runs(name):
                self.world.start_warm(kind, name, INJECTOR_DIRECTORY=str(self.injector.directory))

    def a_worker_died(self) -> bool:
        return not all(self.world.runs(name) for name in self._workers.values())

    def commit_elsewhere(self, submission: Submission) -> None:
        """Commit the first turn of a submission from here: a short delta in its own direction."""
        base = self.repository.ledger.base_version()
        path = self.world.temporary / "shared.safetensors"
        generator = np.random.default_rng(zlib.crc32(submission.submission_id.encode()))
        delta = {
            name: (1e-6 * generator.standard_normal(tensor.shape)).astype(tensor.dtype)
            for file in base.model_files
            for name, tensor in load(self.repository.store.get(file.key)).items()
        }
        save_file(delta, path)
        name = contribution_id(submission.submission_id, 1)
        attempt, files = self.repository.contributions.upload(name, {"shared.safetensors": path})
        path.unlink()
        self.repository.contributions.commit(
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
                num_examples=1,
                metrics={},
                created_at=datetime.now(UTC),
                created_by="another worker",
            )
        )

    def damage(self, submission: Submission) -> None:
        """Change the last byte of what the first turn of a submission contributed."""
        contribution = self.repository.contributions.find(
            contribution_id(submission.submission_id, 1)
        )
        assert contribution is not None
        data = self.repository.store.get(contribution.shared.key)
        self.repository.store.put(contribution.shared.key, data[:-1] + bytes([data[-1] ^ 1]))

    # --- what must hold afterwards ------------------------------------------------------------

    def check(self) -> None:
        """Quiescence: everything is decided once, and the auditor finds nothing."""
        eventually(self.is_quiet, 60)
        self.world.check_fused_once(*self._expected)
        for submission_id in self._failing:
            assert self.world.state(submission_id)["state"] == "failed"
        report = audit(self.world.settings, self.repository.name)
        assert report.findings == ()
        collect_garbage(self.repository, 0)
        report = audit(self.world.settings, self.repository.name, 0)
        assert report.findings == ()

    def is_quiet(self) -> bool:
        states = [self.world.state(name)["state"] for name in (*self._expected, *self._failing)]
        return (
            "open" not in states
            and self.repository.inbox.count() == 0
            and not any(self.repository.submissions.open())
            and self.world.is_idle()
        )
