"""Where an experiment is run: the bucket, the queues, the datasets, and a thread beside them."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import redis
from celery import Celery

from coldfusion_queue.cache import LocalCache
from coldfusion_queue.demo.recipe import pretrained_dir
from coldfusion_queue.errors import AlreadyExistsError
from coldfusion_queue.experiment.spec import EXAMPLE, Experiment
from coldfusion_queue.intake.prepare import PreparedDataset
from coldfusion_queue.intake.upload import upload_dataset
from coldfusion_queue.queue.connection import broker_errors
from coldfusion_queue.queue.sending import EvaluationSender, TurnSender
from coldfusion_queue.records import ModelIdentity, Policy
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.settings import Settings
from coldfusion_queue.store import Store

__all__ = ["Lab"]

T = TypeVar("T")

_SHARD_SIZE = "5GB"
_CHANGED = "its file was changed since it was begun: give the experiment another name"


class Lab:
    """What all arms share.

    Args:
        experiment: what is run.
        settings: where the store is; device and threads of what is trained here.
        store: of the bucket.
        app: of the broker.
        client: of the same broker.
        datasets: prepared, by name.
        work_dir: an empty directory of its own.
        tell: told each event, as one line.
    """

    def __init__(
        self,
        experiment: Experiment,
        settings: Settings,
        store: Store,
        app: Celery,
        client: redis.Redis,
        datasets: Mapping[str, PreparedDataset],
        work_dir: Path,
        tell: Callable[[str], None],
    ) -> None:
        self.experiment = experiment
        self.settings = settings
        self.datasets = datasets
        self.work_dir = work_dir
        self.tell = tell
        self._store = store
        self._app = app
        self._client = client
        #: Set when the experiment ends before its time: who trains here stops then.
        self.closing = threading.Event()
        # One at a time: what is trained here takes all the cores that it is given.
        self._thread = ThreadPoolExecutor(1, "experiment")

    def close(self) -> None:
        """Have what runs beside end at its next step; what has not begun does not begin."""
        self.closing.set()
        self._thread.shutdown(cancel_futures=True)

    @property
    def ids(self) -> dict[str, str]:
        """Ids of the datasets, by name."""
        return {name: item.dataset_id for name, item in self.datasets.items()}

    def repository(self, name: str) -> Repository:
        """A repository of the bucket, whether it exists or not."""
        return Repository(self._store, name)

    def create(self, name: str, policy: Policy) -> Repository:
        """A repository whose version 0 is the pretrained model; one that exists is gone on with.

        Raises:
            AlreadyExistsError: it exists with another model or policy.
        """
        repository = self.repository(name)
        if self._store.stat(repository.keys.repository_record) is None:
            directory, identity = self._pretrained
            base = repository.base_versions.upload_first(directory)
            repository.initialise(identity, base, policy)
        elif (
            repository.ledger.entry(0).after.policy != policy
            or repository.record().identity.hub_id != self._pretrained[1].hub_id
        ):
            raise AlreadyExistsError("repository", name, _CHANGED)
        return repository

    def upload(self, repository: Repository, dataset: str) -> None:
        """Have a dataset in a repository."""
        upload_dataset(self._store, repository.keys, self.datasets[dataset])

    def turns(self, repository: Repository) -> TurnSender:
        """Sends turns of a repository."""
        return TurnSender(self._app, self._client, self.settings, repository.name)

    def evaluations(self, repository: Repository) -> EvaluationSender:
        """Sends evaluations of a repository."""
        return EvaluationSender(self._app, self._client, self.settings, repository.name)

    def fuse(self, repository: Repository) -> None:
        """Ask a fusion worker to look at the inbox."""
        self._send("coldfusion.fuse", repository)

    def reconcile(self, repository: Repository) -> None:
        """Ask a fusion worker to send what is neither queued nor running."""
        self._send("coldfusion.reconcile", repository)

    def beside(self, work: Callable[[Path], T]) -> Future[T]:
        """Do work on this machine beside what the workers do; it gets a directory of its own."""

        def run() -> T:
            with tempfile.TemporaryDirectory(dir=self.work_dir) as directory:
                return work(Path(directory))

        return self._thread.submit(run)

    @property
    def cache(self) -> LocalCache:
        """Where base versions and tokens of this machine are."""
        return LocalCache(self.settings.cache_dir, self.settings.cache_bytes)

    @contextmanager
    def base_dir(self, repository: Repository, version: int) -> Iterator[Path]:
        """Directory of a base version, for the time of the context."""
        base = repository.ledger.base_version(version)
        with repository.base_versions.cached(base, self.cache) as directory:
            yield directory

    @cached_property
    def _pretrained(self) -> tuple[Path, ModelIdentity]:
        from coldfusion_queue.finetune.pretrained import export_pretrained

        base = self.experiment.base
        source = str(pretrained_dir()) if base == EXAMPLE else base
        directory = self.work_dir / "pretrained"
        directory.mkdir()
        return directory, export_pretrained(source, directory, _SHARD_SIZE)

    def _send(self, task: str, repository: Repository) -> None:
        with broker_errors(self.settings):
            self._app.send_task(task, args=(repository.name,), retry=False)
