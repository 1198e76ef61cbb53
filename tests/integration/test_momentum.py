"""Fusions with momentum against the real store: the state that one leaves and the next takes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load

from coldfusion_queue.crash_points import CrashPoint, install
from coldfusion_queue.errors import DigestMismatchError, InvalidTensorFileError
from coldfusion_queue.records import BaseVersion, Outcome, Policy
from coldfusion_queue.repository.collecting import collect_garbage
from coldfusion_queue.repository.fusing import fuse_once
from coldfusion_queue.repository.policy import change_policy
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.settings import Settings
from tests.integration.conftest import Contribute, Tensors
from tests.integration.test_fusing import ReadModel, assert_equal_to_rounding, remembered

Change = Callable[[Repository, BaseVersion], None]

ETA, MU = 0.7, 0.9


@pytest.fixture
def policy() -> Policy:
    return Policy(
        min_contributions=1,
        staleness="constant",
        server_learning_rate=ETA,
        method="nesterov",
        momentum=MU,
        retain_base_versions=1,
    )


STATE = "without_momentum.safetensors"


def state_of(repository: Repository, version: int | None = None) -> bytes:
    state = repository.ledger.base_version(version).state
    assert state is not None
    return repository.store.get(state[STATE].key)


def mean(deltas: list[Tensors]) -> dict[str, np.ndarray]:
    return {name: np.mean([delta[name] for delta in deltas], axis=0) for name in deltas[0]}


def test_four_fusions_are_sgd_with_a_momentum_buffer(
    repository: Repository, settings: Settings, contribute: Contribute, read_model: ReadModel
) -> None:
    theta = {name: value.astype(np.float64) for name, value in read_model(0).items()}
    buffer = {name: np.zeros(value.shape) for name, value in theta.items()}

    for number in range(1, 5):
        deltas, remember = remembered()
        for seed in range(number):
            contribute(f"v{number}c{seed}", seed=10 * number + seed, change=remember)
        fuse_once(repository, settings)

        before = theta
        d = mean(deltas)
        buffer = {name: MU * buffer[name] + d[name] for name in theta}
        theta = {name: before[name] + ETA * (d[name] + MU * buffer[name]) for name in theta}
        assert_equal_to_rounding(read_model(number), theta, number)
        without = {name: before[name] + ETA * d[name] for name in theta}
        assert_equal_to_rounding(load(state_of(repository, number)), without, number)

    published = repository.ledger.base_version()
    assert (published.method, published.method_options) == ("nesterov", {"momentum": MU})
    assert published.state is not None
    assert published.state[STATE].key == published.prefix + STATE
    assert published.state[STATE].num_bytes == published.model_files[0].num_bytes


def test_another_method_in_between_drops_the_momentum(
    repository: Repository, settings: Settings, contribute: Contribute, read_model: ReadModel
) -> None:
    for number, method in enumerate(["mean", "nesterov", "mean", "nesterov"], 1):
        change_policy(repository, {"method": method})
        deltas, remember = remembered()
        contribute(f"c{number}", seed=number, change=remember)
        fuse_once(repository, settings)

        step = ETA if method == "mean" else ETA * (1 + MU)  # as of a first use
        before = read_model(number - 1)
        expected = {name: before[name] + step * delta for name, delta in deltas[0].items()}
        assert_equal_to_rounding(read_model(number), expected)
        assert (repository.ledger.base_version().state is None) is (method == "mean")


def test_nobody_downloads_the_state(
    repository: Repository, settings: Settings, contribute: Contribute, tmp_path: Path
) -> None:
    contribute("a")
    fuse_once(repository, settings)
    directory = tmp_path / "pulled"
    directory.mkdir()

    repository.base_versions.download(repository.ledger.base_version(), directory)

    names = {path.name for path in directory.iterdir()}
    assert {"model.safetensors", "lineage.json"} <= names
    assert STATE not in names


def _delete(repository: Repository, base: BaseVersion) -> None:
    assert base.state is not None
    repository.store.delete([base.state[STATE].key])


def _flip(repository: Repository, base: BaseVersion) -> None:
    assert base.state is not None
    data = bytearray(repository.store.get(base.state[STATE].key))
    data[-1] ^= 1
    repository.store.put(base.state[STATE].key, bytes(data))


def _shorten(repository: Repository, base: BaseVersion) -> None:
    assert base.state is not None
    data = repository.store.get(base.state[STATE].key)
    repository.store.put(base.state[STATE].key, data[:-4])


def _garble(repository: Repository, base: BaseVersion) -> None:
    assert base.state is not None
    repository.store.put(base.state[STATE].key, bytes(base.state[STATE].num_bytes))


def test_a_state_that_is_gone_begins_anew_and_says_so(
    repository: Repository,
    settings: Settings,
    contribute: Contribute,
    read_model: ReadModel,
    caplog: pytest.LogCaptureFixture,
) -> None:
    contribute("a", seed=1)
    fuse_once(repository, settings)
    _delete(repository, repository.ledger.base_version())
    deltas, remember = remembered()
    contribute("b", seed=2, change=remember)

    with caplog.at_level(logging.WARNING):
        fuse_once(repository, settings)

    before = read_model(1)
    expected = {name: before[name] + ETA * (1 + MU) * delta for name, delta in deltas[0].items()}
    assert_equal_to_rounding(read_model(2), expected)
    assert [getattr(item, "event", None) for item in caplog.records] == ["momentum_gone"]
    assert len(state_of(repository, 2)) > 0


@pytest.mark.parametrize("damage", [_flip, _shorten, _garble])
def test_a_damaged_state_is_nobodys_fault_and_ends_the_fusion_until_something_is_done(
    damage: Change,
    repository: Repository,
    settings: Settings,
    contribute: Contribute,
    caplog: pytest.LogCaptureFixture,
) -> None:
    contribute("a", seed=1)
    fuse_once(repository, settings)
    base = repository.ledger.base_version()
    damage(repository, base)
    contribute("b", seed=2)

    with pytest.raises((DigestMismatchError, InvalidTensorFileError)) as caught:
        fuse_once(repository, settings)

    assert base.state is not None
    assert base.state[STATE].key in str(caught.value)
    assert [getattr(item, "event", None) for item in caplog.records] == ["momentum_damaged"]
    assert "delete it, and momentum begins anew" in caplog.records[0].getMessage()
    assert repository.ledger.base_version().version == 1
    assert directories(repository) == {0, 1}
    _delete(repository, base)
    report = fuse_once(repository, settings)
    assert [item.outcome for item in report.decisions] == [Outcome.FUSED]


def directories(repository: Repository) -> set[int]:
    """Versions, published or not, of which there are objects."""
    found = repository.store.list(f"{repository.name}/base/")
    return {int(item.key.split("/")[2].partition("-")[0]) for item in found}


def test_a_contribution_at_fault_leaves_neither_file_and_the_others_keep_the_momentum(
    repository: Repository, settings: Settings, contribute: Contribute, read_model: ReadModel
) -> None:
    def damage(name: str) -> None:
        record = repository.contributions.find(name)
        assert record is not None
        data = bytearray(repository.store.get(record.shared.key))
        data[-1] ^= 1
        repository.store.put(record.shared.key, bytes(data))

    def after(point: CrashPoint) -> None:
        if point is CrashPoint.FUSE_SELECTED:
            damage("bad.t00001")
        if point is CrashPoint.FUSE_REFUSED:
            left.append(directories(repository))

    left: list[set[int]] = []
    contribute("first", seed=1)
    fuse_once(repository, settings)
    deltas, remember = remembered()
    contribute("good", seed=2, change=remember)
    contribute("bad", seed=3)
    install(after)
    try:
        report = fuse_once(repository, settings)
    finally:
        install(None)

    assert {item.contribution_id: item.outcome for item in report.decisions} == {
        "good.t00001": Outcome.FUSED,
        "bad.t00001": Outcome.REFUSED,
    }
    assert left == [{0, 1}]
    before, phi = read_model(1), load(state_of(repository, 1))
    expected = {}
    for name, delta in deltas[0].items():
        without = before[name] + ETA * delta
        expected[name] = without + MU * (without - phi[name])
    assert_equal_to_rounding(read_model(2), expected)


def test_a_state_is_collected_with_its_version(
    repository: Repository, settings: Settings, contribute: Contribute
) -> None:
    for number in range(3):
        contribute(f"c{number}", seed=number)
        fuse_once(repository, settings)

    collect_garbage(repository, 0)

    states = {
        version: repository.store.stat(base.prefix + STATE) is not None
        for version in range(4)
        if (base := repository.ledger.base_version(version))
    }
    assert states == {0: False, 1: False, 2: False, 3: True}
