"""A fuser that slept: what it read of the ledger is old, what it finds in the inbox is new."""

from __future__ import annotations

import pytest

from coldfusion_queue.errors import LedgerConflictError
from coldfusion_queue.repository.fusing import fuse_once
from coldfusion_queue.repository.inbox import InboxContents
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.settings import Settings
from tests.integration.conftest import Contribute


def test_a_fuser_that_finds_a_contribution_to_a_later_version_than_it_knows_loses(
    repository: Repository, settings: Settings, contribute: Contribute
) -> None:
    contribute("a", seed=1)
    sleeper = Repository(repository.store, repository.name)
    look = sleeper.inbox.look

    def sleep_then_look() -> InboxContents:
        fuse_once(repository, settings)
        contribute("b", seed=2)
        return look()

    sleeper.inbox.look = sleep_then_look  # type: ignore[method-assign]
    with pytest.raises(LedgerConflictError):
        fuse_once(sleeper, settings)

    newest = repository.ledger.newest().after.base
    assert (newest.version, [line.contributor_id for line in newest.fused]) == (1, ["a"])
    prefixes = {item.key.split("/")[2][:6] for item in repository.store.list(repository.keys.bases)}
    assert prefixes == {"000000", "000001"}
    fuse_once(repository, settings)
    assert [line.contributor_id for line in repository.ledger.base_version(2).fused] == ["b"]
