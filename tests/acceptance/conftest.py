"""Fixtures of the acceptance tests: see ``world`` for what they are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from coldfusion_queue.records import Policy
from tests.acceptance.own_servers import Servers
from tests.acceptance.refusals import traces
from tests.acceptance.world import World, open_world
from tests.injector import Injector

MakeWorld = Callable[..., AbstractContextManager[World]]


@pytest.fixture(scope="module")
def own_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Store and broker of a test file of its own, which it can stop and start again."""
    servers = Servers(tmp_path_factory.mktemp("servers"))
    yield servers
    servers.close()


@pytest.fixture(scope="session")
def make_world(
    servers: Mapping[str, str],
    tiny_model_dir: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> MakeWorld:
    """``with make_world(policy, **variables) as world``: a repository of the tiny model."""

    def make(policy: Policy | None = None, **own: str) -> AbstractContextManager[World]:
        directory = tmp_path_factory.mktemp("world")
        return open_world(servers, directory, tiny_model_dir, policy, **own)

    return make


@pytest.fixture(scope="session")
def make_empty_world(
    servers: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory
) -> MakeWorld:
    """``with make_empty_world(**variables) as world``: no repository in it yet."""

    def make(**own: str) -> AbstractContextManager[World]:
        return open_world(servers, tmp_path_factory.mktemp("world"), None, **own)

    return make


@pytest.fixture(scope="module")
def injector(tmp_path_factory: pytest.TempPathFactory) -> Injector:
    """For the workers of one module."""
    return Injector(tmp_path_factory.mktemp("injector"))


@pytest.fixture(scope="module")
def idle_world(make_world: MakeWorld) -> Iterator[World]:
    """A repository that no worker serves: what is queued stays queued."""
    with make_world() as world:
        yield world


@pytest.fixture
def untouched_world(idle_world: World) -> Iterator[World]:
    """A repository in which the test changes nothing: neither bucket, nor queue, nor disk."""
    before = traces(idle_world)
    yield idle_world
    assert traces(idle_world) == before
