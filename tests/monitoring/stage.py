"""The local stack under a Prometheus, and what a person or bad luck does to it."""

from __future__ import annotations

import os
import signal
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from coldfusion_queue.cli.init import create_repository
from coldfusion_queue.demo.recipe import data_dir, pretrained_dir
from coldfusion_queue.intake.prepare import prepare_dataset
from coldfusion_queue.intake.upload import upload_dataset
from coldfusion_queue.local import LocalStack
from coldfusion_queue.queue.app import make_app
from coldfusion_queue.queue.sending import TurnSender
from coldfusion_queue.records import Hyperparameters, Policy
from tests.acceptance.world import World, eventually
from tests.monitoring.prometheus import Prometheus

__all__ = ["Stage", "open_stage"]


class Stage:
    """A repository of the bundled MiniLM, and all processes around it.

    Args:
        stack: which runs.
        world: the command line, store and broker of the same repository.
        prometheus: which scrapes what the stack runs.
        environment: variables of all of its processes.
        finetuners: more variables of each finetune worker.
    """

    def __init__(
        self,
        stack: LocalStack,
        world: World,
        prometheus: Prometheus,
        environment: Mapping[str, str],
        finetuners: Sequence[Mapping[str, str]],
    ) -> None:
        self.world = world
        self.prometheus = prometheus
        self.repository = world.repository
        self._stack = stack
        self._environment = environment
        self._finetuners = finetuners
        settings = world.settings
        self._sender = TurnSender(make_app(settings), world.redis, settings, settings.repository)

    def up(self) -> None:
        """Start what does not run."""
        self._stack.up(len(self._finetuners), self._finetuners, self._environment)
        ports = self.ports()
        self.prometheus.watch(ports)

        def all_scraped() -> bool:
            found = self.prometheus.targets()
            return found.keys() == ports.keys() and set(found.values()) == {"up"}

        eventually(all_scraped, 60)

    def ports(self) -> dict[str, int]:
        """Ports of ``/metrics`` by the name of the process."""
        found = self._stack.processes()
        return {item.name: item.metrics_port for item in found if item.metrics_port}

    # --- what people do -----------------------------------------------------------------------

    def begin(self, policy: Policy) -> None:
        """Publish the bundled model as base version 0."""
        create_repository(self.repository, str(pretrained_dir()), policy, quiet=True)

    def upload(self, name: str, num_train: int, num_test: int) -> str:
        """Upload the beginning of an example dataset, and give its id."""
        with tempfile.TemporaryDirectory() as directory:
            source, work = Path(directory) / name, Path(directory) / "work"
            source.mkdir()
            work.mkdir()
            for split, number in (("train", num_train), ("test", num_test)):
                lines = (data_dir() / name / f"{split}.jsonl").read_text("utf-8").splitlines()
                (source / f"{split}.jsonl").write_text("\n".join(lines[:number]) + "\n", "utf-8")
            prepared = prepare_dataset(str(source), work_dir=work)
            return upload_dataset(self.world.store, self.repository.keys, prepared).dataset_id

    def submit(
        self, contributor: str, dataset_id: str, how: Hyperparameters, turns: int | None = 1
    ) -> str:
        """Submit an uploaded dataset, and give the id of the submission."""
        made = self.repository.submissions.create(
            contributor, dataset_id=dataset_id, turns=turns, hyperparameters=how
        )
        self._sender.send(made.submission_id, 1)
        return made.submission_id

    def run(self, *arguments: object) -> str:
        """Run ``coldfusion`` and give what it says."""
        done = self.world.run_warm(*arguments)
        assert done.code == 0, done.err
        return done.out

    def contribute_nonsense(self, name: str, size: float) -> None:
        """Contribute the bundled model with noise in it.

        Args:
            name: of the contributor; another has other noise.
            size: of the noise, as a multiple of the model's own numbers: its relative norm.
        """
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        with tempfile.TemporaryDirectory() as directory:
            model = Path(directory) / name
            model.mkdir()
            for path in pretrained_dir().iterdir():
                if path.name != "model.safetensors" and path.is_file():
                    (model / path.name).symlink_to(path)
            tensors = load_file(pretrained_dir() / "model.safetensors")
            for tensor in tensors.values():
                if tensor.is_floating_point():
                    scale = size * tensor.square().mean().sqrt()
                    tensor += scale * torch.randn(tensor.shape, generator=generator)
            save_file(tensors, model / "model.safetensors", {"format": "pt"})
            self.run("contribute", model, "--base-version", 0, "--name", name)

    # --- what bad luck does -------------------------------------------------------------------

    def kill(self, name: str) -> None:
        """SIGKILL a process and its children, as a node that loses power does."""
        parent = psutil.Process(self._pid(name))
        for process in (parent, *parent.children(recursive=True)):
            process.kill()

    def kill_children(self, name: str) -> None:
        """SIGKILL the processes that finetune, as the kernel does when memory runs out."""
        for child in psutil.Process(self._pid(name)).children(recursive=True):
            child.kill()

    @contextmanager
    def frozen_children(self, name: str) -> Iterator[None]:
        """A worker whose pool hangs, for the time of the context."""
        children = psutil.Process(self._pid(name)).children(recursive=True)
        for child in children:
            child.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for child in children:
                child.send_signal(signal.SIGCONT)

    def _pid(self, name: str) -> int:
        return next(item.pid for item in self._stack.processes() if item.name == name)

    # --- what can be seen ---------------------------------------------------------------------

    def version(self) -> int:
        """Newest base version."""
        return self.repository.ledger.base_version().version

    def is_training(self, name: str) -> bool:
        """Whether a finetune worker is in the middle of a turn."""
        expr = f'coldfusion_turn_started_timestamp_seconds{{instance="{name}"}} > 0'
        return bool(self.prometheus.query(expr))

    def wait_firing(self, *alerts: str, seconds: float = 120) -> None:
        """Until all of these alerts have fired at some time since now."""
        began = time.time()
        eventually(lambda: set(alerts) <= self.fired(began), seconds)

    def fired(self, start: float, end: float | None = None) -> set[str]:
        """Alerts that fired at some time between two."""
        series = self.prometheus.query_range(
            'ALERTS{alertstate="firing"}', start, end or time.time(), 1
        )
        return {item.labels["alertname"] for item in series}


@contextmanager
def open_stage(
    directory: Path,
    prometheus: Prometheus,
    environment: Mapping[str, str],
    finetuners: Sequence[Mapping[str, str]],
) -> Iterator[Stage]:
    """A stage whose servers run, and whose workers run after ``begin`` and ``up``.

    Everything is stopped at the end.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("COLDFUSION_")]:
            patch.delenv(name)
        stack = LocalStack(directory / "home")
        patch.setenv("COLDFUSION_HOME", str(stack.home))
        try:
            stack.up(servers_only=True)
            lines = stack.env_file.read_text(encoding="utf-8").splitlines()
            variables = dict(line.split("=", 1) for line in lines)
            own = {"COLDFUSION_REPOSITORY": environment["COLDFUSION_REPOSITORY"]}
            world = World(directory / "world", {**variables, **own})
            yield Stage(stack, world, prometheus, environment, finetuners)
        finally:
            stack.down(remove_data=True)
