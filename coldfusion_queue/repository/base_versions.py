"""Base versions as directories: written under an attempt, read back by digest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path

from coldfusion_queue.cache import LocalCache
from coldfusion_queue.crash_points import CrashPoint, reach
from coldfusion_queue.errors import ColdFusionError
from coldfusion_queue.fusion.methods import Method
from coldfusion_queue.keys import ObjectKeys
from coldfusion_queue.names import new_attempt
from coldfusion_queue.records import (
    BaseVersion,
    FileRecord,
    FusedContribution,
    FusedFile,
    Policy,
)
from coldfusion_queue.store import Store

__all__ = ["LINEAGE_FILE", "BaseVersions", "Fuse"]

#: Uploads the files of the new model below a prefix, in the order of the parent's.
Fuse = Callable[[str], Sequence[FusedFile]]

#: Written beside the model: the version's own record, for people who copy the directory.
LINEAGE_FILE = "lineage.json"


class BaseVersions:
    """Reads and writes the directories of base versions."""

    def __init__(self, store: Store, keys: ObjectKeys) -> None:
        self._store = store
        self._keys = keys

    def upload_first(
        self, directory: Path, progress: Callable[[int], None] | None = None
    ) -> BaseVersion:
        """Upload a local model directory as an attempt at base version 0, the pretrained model.

        When it fails or is interrupted, the attempt's objects are deleted.
        """
        with self._attempt(0) as prefix:
            files = {
                path.name: self._store.put_file(prefix + path.name, path, progress)
                for path in sorted(directory.iterdir())
                if path.is_file()
            }
            return self._finish(
                BaseVersion(
                    version=0,
                    prefix=prefix,
                    files=files,
                    parent=None,
                    method=None,
                    server_learning_rate=None,
                    fused=(),
                )
            )

    def upload_candidate(
        self,
        parent: BaseVersion,
        fuse: Fuse,
        fused: Iterable[FusedContribution],
        policy: Policy,
        method: Method,
    ) -> BaseVersion:
        """Upload an attempt at the version after ``parent``; only the ledger can publish it.

        Args:
            parent: the version that is fused into; its other files are copied.
            fuse: uploads the new model, and the state if the method has one.
            fused: lineage.
            policy: the policy that the fusion follows.
            method: what it says about the method.

        Raises:
            Whatever ``fuse`` raises; the attempt's objects are deleted then.
        """
        with self._attempt(parent.version + 1) as prefix:
            fused_files = dict(zip(parent.model_names, fuse(prefix), strict=True))
            files = {name: file.model for name, file in fused_files.items()}
            state = {
                parent.state_name(name): file.state
                for name, file in fused_files.items()
                if file.state is not None
            }
            reach(CrashPoint.PUBLISH_MODEL)
            for name, file in parent.files.items():
                if name not in files:
                    files[name] = self._store.put_stream(
                        prefix + name, self._store.read_stream(file)
                    )
            reach(CrashPoint.PUBLISH_FILES)
            candidate = self._finish(
                BaseVersion(
                    version=parent.version + 1,
                    prefix=prefix,
                    files=files,
                    parent=parent.version,
                    method=policy.method,
                    method_options=asdict(method),
                    server_learning_rate=policy.server_learning_rate,
                    fused=tuple(fused),
                    state=state or None,
                )
            )
            reach(CrashPoint.PUBLISH_LINEAGE)
            return candidate

    def upload_restored(self, old: BaseVersion, current: BaseVersion) -> BaseVersion:
        """Upload an attempt at the version after ``current`` with the files of an old one.

        The state of a method with momentum is left out: it leads away from the old version.

        Raises:
            NotFoundError: files of the old version were collected.
            DigestMismatchError: a file is not what was recorded.
        """
        with self._attempt(current.version + 1) as prefix:
            files = {
                name: self._store.put_stream(prefix + name, self._store.read_stream(file))
                for name, file in old.files.items()
            }
            return self._finish(
                BaseVersion(
                    version=current.version + 1,
                    prefix=prefix,
                    files=files,
                    parent=current.version,
                    method=None,
                    server_learning_rate=None,
                    fused=(),
                    restores=old.version,
                )
            )

    def discard(self, prefix: str) -> None:
        """Delete an attempt that will not be published."""
        self._store.delete([item.key for item in self._store.list(prefix)])

    def discard_all(self, models: Iterable[BaseVersion], but: BaseVersion | None = None) -> None:
        """Delete attempts that will not be published; one of them may be that which is."""
        for model in models:
            if but is None or model.prefix != but.prefix:
                self.discard(model.prefix)

    def download(
        self,
        version: BaseVersion,
        directory: Path,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Download a version into an existing directory, every digest checked.

        Raises:
            NotFoundError: the version was collected as garbage.
            DigestMismatchError: an object is not what was recorded.
        """
        files: Mapping[str, FileRecord] = version.files
        for name, file in files.items():
            self._store.download(file, directory / name, progress)
        (directory / LINEAGE_FILE).write_bytes(version.to_bytes())

    @contextmanager
    def cached(self, version: BaseVersion, cache: LocalCache) -> Iterator[Path]:
        """A version's directory in this machine's cache, downloaded if it is not there yet."""
        with cache.entry(f"base-{version.digest}", partial(self.download, version)) as path:
            yield path

    @contextmanager
    def _attempt(self, version: int) -> Iterator[str]:
        prefix = self._keys.base_prefix(version, new_attempt())
        try:
            yield prefix
        except BaseException:
            with suppress(ColdFusionError):  # what went wrong first is what is told
                self.discard(prefix)
            raise

    def _finish(self, version: BaseVersion) -> BaseVersion:
        self._store.put(version.prefix + LINEAGE_FILE, version.to_bytes())
        return version
