"""An object of the store as a source of bytes for the fusion engine."""

from __future__ import annotations

from collections.abc import Callable

from coldfusion_queue.records import FileRecord
from coldfusion_queue.store import Store

__all__ = ["ObjectSource"]


class ObjectSource:
    """Ranged reads of one object; see ``fusion.layout.ByteSource``.

    Args:
        store: where it is.
        file: what is recorded of it.
        stamp: ``ObjectInfo.stamp`` that it must have at every read; None takes any.
        on_read: told how many bytes were read, from any thread.
    """

    def __init__(
        self,
        store: Store,
        file: FileRecord,
        stamp: str | None = None,
        on_read: Callable[[int], None] = lambda num_bytes: None,
    ) -> None:
        self._store = store
        self._stamp = stamp
        self._on_read = on_read
        self.name = file.key
        self.num_bytes = file.num_bytes

    def read(self, offset: int, num_bytes: int) -> bytes:
        """Bytes ``offset`` to ``offset + num_bytes``, all of them."""
        data = self._store.read_range(self.name, offset, num_bytes, stamp=self._stamp)
        self._on_read(num_bytes)
        return data
