"""What is counted in which room."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from coldfusion_queue import keys
from coldfusion_queue.keys import ROOMS
from coldfusion_queue.repository.volumes import Volumes
from coldfusion_queue.store import ObjectInfo


def info(key: str, num_bytes: int) -> ObjectInfo:
    return ObjectInfo(key, num_bytes, datetime(2022, 12, 1, tzinfo=UTC), "")


def test_the_rooms_are_those_of_the_keys() -> None:
    listed, _, _ = (keys.__doc__ or "").partition("Redis keys")

    assert set(re.findall(r"^    ([a-z]+)/", listed, re.MULTILINE)) == ROOMS


def test_what_is_in_no_room_is_counted_together() -> None:
    volumes = Volumes.of(
        [
            info("r/repository.json", 5),
            info("r/.probe-1f", 1),
            info("r/ledger", 2),
            info("r/somebody/else", 3),
            info("r/base/000000-1f/model.safetensors", 1000),
            info("r/base/000000-1f/config.json", 10),
            info("r/inbox/a", 0),
        ]
    )

    assert volumes.as_data() == {"other": (11, 4), "base": (1010, 2), "inbox": (0, 1)}


def test_what_goes_is_taken_off_its_room() -> None:
    volumes = Volumes.of([info("r/base/a/x", 7), info("r/base/b/x", 9), info("r/inbox/a", 0)])

    assert volumes.without(["r/base/a/x"], 7).as_data() == {"base": (9, 1), "inbox": (0, 1)}
    assert volumes.without(["r/inbox/a"], 0).as_data() == {"base": (16, 2)}
