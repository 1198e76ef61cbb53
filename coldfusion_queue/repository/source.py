"""An object of the store as a source of bytes for the fusion engine."""

from __future__ import annotations

from coldfusion_queue.records import FileRecord
from coldfusion_queue.store import Store

__all__ = ["ObjectSource"]


class ObjectSource:
    """Ranged reads of one object; see ``fusion.layout.ByteSource``."""

    def __init__(self, store: Store, file: FileRecord) -> None:
        self._store = store
        self.name = file.key
        self.num_bytes = file.num_bytes

    def read(self, offset: int, num_bytes: int) -> bytes:
        """Bytes ``offset`` to ``offset + num_bytes``, all of them."""
        return self._store.read_range(self.name, offset, num_bytes)
