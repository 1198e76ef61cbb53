"""How much of a repository lies in the bucket, by rooms: the first parts of its keys."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from coldfusion_queue.keys import ROOMS
from coldfusion_queue.store import ObjectInfo

__all__ = ["Volumes"]

#: What lies beside the rooms, or in one that nobody knows.
_OTHER = "other"


@dataclass(frozen=True)
class Volumes:
    """Bytes and objects of each room that is not empty."""

    num_bytes: Counter[str] = field(default_factory=Counter)
    num_objects: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, objects: Iterable[ObjectInfo]) -> Self:
        """Those of a listing of one repository."""
        volumes = cls()
        for item in objects:
            room = _room(item.key)
            volumes.num_bytes[room] += item.num_bytes
            volumes.num_objects[room] += 1
        return volumes

    def without(self, keys: Sequence[str], num_bytes: int) -> Volumes:
        """The same when objects of one room are gone, which have so many bytes together."""
        room = _room(keys[0])
        return Volumes(
            self.num_bytes - Counter({room: num_bytes}),
            self.num_objects - Counter({room: len(keys)}),
        )

    def as_data(self) -> Mapping[str, tuple[int, int]]:
        """Bytes and objects, by the room."""
        return {room: (self.num_bytes[room], self.num_objects[room]) for room in self.num_objects}


def _room(key: str) -> str:
    _, room, *rest = key.split("/", 2)
    return room if rest and room in ROOMS else _OTHER
