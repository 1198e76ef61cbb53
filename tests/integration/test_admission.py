"""Contributions are inspected and judged before they are fused, on the real store."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save

from coldfusion_queue.errors import NotFoundError, UsageError
from coldfusion_queue.records import Contribution, Decision, Outcome, Policy, Rule
from coldfusion_queue.repository.fusing import fuse_once
from coldfusion_queue.repository.overriding import override
from coldfusion_queue.repository.policy import change_policy
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.settings import Settings
from tests.integration.conftest import Contribute, Tensors

Replace = Callable[[Contribution, bytes], Contribution]


def scaled(factor: float) -> Callable[[Tensors], Tensors]:
    return lambda delta: {name: np.float32(factor) * value for name, value in delta.items()}


def decided(repository: Repository) -> dict[str, Decision]:
    """Every decision of the ledger, by contributor's name."""
    entries = repository.ledger.entries()
    return {
        item.contribution_id.removesuffix(".t00001"): item
        for entry in entries
        for item in entry.decisions
    }


@pytest.fixture
def reads(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keys of which ranges are read from now on."""
    keys: list[str] = []
    original = repository.store.read_range

    def noted(key: str, offset: int, num_bytes: int, **options: Any) -> bytes:
        keys.append(key)
        return original(key, offset, num_bytes, **options)

    monkeypatch.setattr(repository.store, "read_range", noted)
    return keys


# --- inspection -------------------------------------------------------------------------------


def test_what_is_fused_has_the_numbers_of_its_delta_in_its_decision(
    repository: Repository, settings: Settings, contribute: Contribute
) -> None:
    norms = []

    def noted(delta: Tensors) -> Tensors:
        norms.append(
            np.sqrt(sum(np.sum(value.astype(np.float64) ** 2) for value in delta.values()))
        )
        return delta

    base = load(repository.store.get(repository.ledger.base_version().model_files[0].key))
    base_norm = np.sqrt(sum(np.sum(value.astype(np.float64) ** 2) for value in base.values()))
    for seed in range(5):
        contribute(f"c{seed}", seed=seed, change=noted)

    fuse_once(repository, settings)

    for number, norm in enumerate(norms):
        numbers = decided(repository)[f"c{number}"].numbers
        assert numbers["relative_norm"] == pytest.approx(norm / base_norm, rel=1e-6)
        assert abs(numbers["norm_z"]) < 1
        assert abs(numbers["cosine"]) < 0.1  # random deltas point anywhere


def test_a_contribution_is_inspected_once_although_it_is_looked_at_again_and_again(
    repository: Repository, settings: Settings, contribute: Contribute, reads: list[str]
) -> None:
    change_policy(repository, {"min_contributions": 2})
    contribution = contribute("a")

    fuse_once(repository, settings)
    assert contribution.shared.key in reads
    reads.clear()
    fuse_once(Repository(repository.store, repository.name), settings)

    assert reads == []


def test_the_norm_of_a_base_version_is_found_once(
    repository: Repository, settings: Settings, contribute: Contribute, reads: list[str]
) -> None:
    change_policy(repository, {"min_contributions": 9})
    contribute("a", seed=1)
    fuse_once(repository, settings)
    base = repository.ledger.base_version().model_files[0]
    contribute("b", seed=2)
    reads.clear()

    fuse_once(Repository(repository.store, repository.name), settings)

    assert reads.count(base.key) == 2  # length and text of its header


def test_what_cannot_be_fused_is_refused_although_it_is_not_time_to_fuse(
    repository: Repository, settings: Settings, contribute: Contribute
) -> None:
    change_policy(repository, {"min_contributions": 3})
    contribute("good")
    contribute("bad", change=scaled(np.inf))

    report = fuse_once(repository, settings)

    assert [item.outcome for item in report.decisions] == [Outcome.REFUSED]
    assert report.decisions[0].rule is Rule.FINITE
    assert repository.inbox.count() == 1


def test_one_that_changed_after_it_was_inspected_is_refused_and_the_others_go_on(
    repository: Repository, settings: Settings, contribute: Contribute
) -> None:
    change_policy(repository, {"min_contributions": 2})
    bad = contribute("bad", seed=1)
    fuse_once(repository, settings)
    data = repository.store.get(bad.shared.key)
    repository.store.put(bad.shared.key, data[:-1] + bytes([data[-1] ^ 1]))
    contribute("good", seed=2)

    fuse_once(repository, settings)

    outcomes = {name: item.outcome for name, item in decided(repository).items()}
    assert outcomes == {"bad": Outcome.REFUSED, "good": Outcome.FUSED}
    assert decided(repository)["bad"].rule is Rule.FILE


def test_an_inspection_of_another_file_does_not_count(
    repository: Repository, settings: Settings, contribute: Contribute
) -> None:
    change_policy(repository, {"min_contributions": 2})
    contribution = contribute("a")
    fuse_once(repository, settings)
    key = repository.keys.inspection(contribution.contribution_id)
    record = json.loads(repository.store.get(key)) | {"digest": "0" * 64, "norm": 123.0}
    repository.store.put(key, json.dumps(record).encode())
    contribute("b", seed=1)

    fuse_once(repository, settings)

    assert decided(repository)["a"].numbers["relative_norm"] < 1


# --- limits -----------------------------------------------------------------------------------


def test_a_scaled_one_is_refused_with_its_numbers_and_the_others_are_fused(
    repository: Repository, settings: Settings, contribute: Contribute
) -> None:
    for seed in range(5):
        contribute(f"c{seed}", seed=seed)
    contribute("scaled", seed=9, change=scaled(1e9))

    fuse_once(repository, settings)

    decision = decided(repository).pop("scaled")
    assert (decision.outcome, decision.rule) == (Outcome.REFUSED, Rule.RELATIVE_NORM)
    assert decision.numbers["relative_norm"] > 1e6
    assert "expected at most 1: " in decision.reason
    assert repository.ledger.base_version().version == 1
    assert len(repository.ledger.base_version().fused) == 5


def test_one_that_is_too_long_whatever_the_others_are_is_refused_before_it_is_time(
    repository: Repository, settings: Settings, contribute: Contribute
) -> None:
    change_policy(repository, {"min_contributions": 9})
    contribute("good")
    contribute("copy")
    contribute("long", seed=1, change=scaled(1e3))

    fuse_once(repository, settings)

    assert {name: item.rule for name, item in decided(repository).items()} == {
        "long": Rule.RELATIVE_NORM
    }
    assert repository.inbox.count() == 2


def test_what_was_fused_lately_is_the_standard_for_one_alone(
    repository: Repository, settings: Settings, contribute: Contribute
) -> None:
    change_policy(repository, {"max_relative_norm": None})
    for seed in range(4):
        contribute(f"c{seed}", seed=seed)
        fuse_once(repository, settings)
    contribute("long", seed=9, change=scaled(40))

    fuse_once(repository, settings)

    decision = decided(repository)["long"]
    assert (decision.outcome, decision.rule) == (Outcome.REFUSED, Rule.NORM_Z)
    assert decision.numbers["norm_z"] == pytest.approx(np.log(40) / 0.25, rel=0.05)


def test_a_copy_of_somebody_elses_is_refused_whatever_its_size_and_dtype(
    repository: Repository, settings: Settings, contribute: Contribute
) -> None:
    contribute("first", seed=1)
    fuse_once(repository, settings)
    base = repository.ledger.base_version(0)
    contribute("thief", seed=1, base=base, change=scaled(0.5))
    contribute("other", seed=2)

    fuse_once(repository, settings)

    assert decided(repository)["thief"].rule is Rule.COPY
    assert "first.t00001 of first, which came first" in decided(repository)["thief"].reason
    assert decided(repository)["other"].outcome is Outcome.FUSED


def test_the_place_of_a_refused_one_goes_to_the_next(
    repository: Repository, settings: Settings, contribute: Contribute
) -> None:
    change_policy(repository, {"max_contributions": 2})
    for seed in range(4):
        contribute(f"bad{seed}", seed=seed, change=scaled(1e6))
    contribute("good", seed=8)
    contribute("next", seed=9)

    fuse_once(repository, settings)

    fused = {line.contributor_id for line in repository.ledger.base_version().fused}
    assert fused == {"good", "next"}
    assert repository.inbox.count() == 0


def test_too_few_are_left_after_a_refusal_and_wait_for_others(
    repository: Repository, settings: Settings, contribute: Contribute
) -> None:
    change_policy(repository, {"min_contributions": 2})
    contribute("bad", change=scaled(1e6))
    contribute("good", seed=1)

    report = fuse_once(repository, settings)

    assert [item.outcome for item in report.decisions] == [Outcome.REFUSED]
    assert repository.ledger.base_version().version == 0
    contribute("another", seed=2)
    fuse_once(repository, settings)
    assert repository.ledger.base_version().version == 1


# --- an operator's word -----------------------------------------------------------------------


@pytest.fixture
def refused(repository: Repository, settings: Settings, contribute: Contribute) -> Contribution:
    contribution = contribute("long", change=scaled(1e3))
    fuse_once(repository, settings)
    return contribution


def test_an_overridden_one_is_fused_and_the_lineage_says_why(
    repository: Repository, settings: Settings, refused: Contribution
) -> None:
    again = override(repository, refused.contribution_id, "a known good run")

    fuse_once(repository, settings)

    (line,) = repository.ledger.base_version().fused
    assert (line.contribution_id, line.contributor_id) == (again.contribution_id, "long")
    assert line.override == "a known good run"
    decision = repository.contributions.decision(again.contribution_id)
    assert decision is not None
    assert decision.numbers["relative_norm"] > 1
    assert "although it exceeds a limit: a known good run" in decision.reason
    first = repository.contributions.decision(refused.contribution_id)
    assert first is not None
    assert first.outcome is Outcome.REFUSED
    record = repository.contributions.override(again.contribution_id)
    assert record is not None
    assert record.refused_id == refused.contribution_id


def test_a_pending_one_is_overridden_as_it_is(
    repository: Repository, settings: Settings, contribute: Contribute
) -> None:
    contribution = contribute("long", change=scaled(1e3))

    again = override(repository, contribution.contribution_id, "trusted")
    fuse_once(repository, settings)

    assert again == contribution
    assert decided(repository)["long"].outcome is Outcome.FUSED


def test_what_was_overridden_is_no_standard_for_others(
    repository: Repository, settings: Settings, contribute: Contribute, refused: Contribution
) -> None:
    change_policy(repository, {"max_relative_norm": None})
    for seed in range(4):
        contribute(f"c{seed}", seed=seed)
    fuse_once(repository, settings)
    override(repository, refused.contribution_id, "trusted")
    contribute("twin", seed=0, change=scaled(1e3))

    fuse_once(repository, settings)

    assert decided(repository)["twin"].rule is Rule.NORM_Z


def test_an_override_that_is_not_needed_is_not_in_the_lineage(
    repository: Repository, settings: Settings, contribute: Contribute
) -> None:
    override(repository, contribute("a").contribution_id, "to be safe")

    fuse_once(repository, settings)

    assert repository.ledger.base_version().fused[0].override is None


def test_what_cannot_be_fused_at_all_cannot_be_overridden(
    repository: Repository, settings: Settings, contribute: Contribute
) -> None:
    contribution = contribute("nan", change=scaled(np.nan))
    override(repository, contribution.contribution_id, "please")
    fuse_once(repository, settings)
    assert decided(repository)["nan"].rule is Rule.FINITE

    with pytest.raises(UsageError, match="refused for a policy's limit"):
        override(repository, contribution.contribution_id, "please")


def test_a_fused_one_cannot_be_fused_again(
    repository: Repository, settings: Settings, contribute: Contribute
) -> None:
    contribution = contribute("a")
    fuse_once(repository, settings)

    with pytest.raises(UsageError, match="fused into base version 1"):
        override(repository, contribution.contribution_id, "again")


def test_one_that_is_gone_or_never_was_is_said_so(
    repository: Repository, refused: Contribution
) -> None:
    with pytest.raises(NotFoundError, match="'nobody' does not exist"):
        override(repository, "nobody", "please")
    repository.store.delete([refused.shared.key])

    with pytest.raises(NotFoundError, match="contribute the model again"):
        override(repository, refused.contribution_id, "please")


# --- everything that a stranger may send ------------------------------------------------------


@pytest.fixture
def replace(
    repository: Repository, contribute: Contribute, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, bytes], None]:
    """Commit any bytes at all as a contribution's shared parameters."""

    def commit(name: str, data: bytes) -> None:
        upload = repository.contributions.upload

        def instead(full_name: str, files: dict[str, Path]) -> object:
            (path,) = files.values()
            path.write_bytes(data)
            return upload(full_name, files)

        with monkeypatch.context() as patch:
            patch.setattr(repository.contributions, "upload", instead)
            contribute(name)

    return commit


def header(fields: object) -> bytes:
    text = json.dumps(fields).encode()
    return len(text).to_bytes(8, "little") + text


def edited(data: bytes, change: Callable[[dict[str, dict]], None]) -> bytes:
    """A tensor file with another header and the same data."""
    length = int.from_bytes(data[:8], "little")
    fields = json.loads(data[8 : 8 + length])
    change(fields)
    return header(fields) + data[8 + length :]


def _beyond(fields: dict[str, dict]) -> None:
    last = max(fields, key=lambda name: fields[name].get("data_offsets", [0, 0])[1])
    start, end = fields[last]["data_offsets"]
    fields[last]["data_offsets"] = [start + 4096, end + 4096]


def _overlapping(fields: dict[str, dict]) -> None:
    first, second = sorted(fields, key=lambda name: fields[name].get("data_offsets", [0]))[1:3]
    length = fields[second]["data_offsets"][1] - fields[second]["data_offsets"][0]
    start = fields[first]["data_offsets"][0]
    fields[second]["data_offsets"] = [start, start + length]


def _lying(fields: dict[str, dict]) -> None:
    name = next(name for name in fields if "shape" in fields[name])
    fields[name]["shape"] = [1 << 40, 1 << 20]


def _float8(fields: dict[str, dict]) -> None:
    next(item for item in fields.values() if "dtype" in item)["dtype"] = "F8_E4M3"


def strange_files(good: bytes) -> dict[str, tuple[bytes, Rule, str]]:
    """Name to file, the rule that it breaks, and what the reason must say."""
    tensors = load(good)
    tiny = {f"t{number}": np.zeros(1, np.float32) for number in range(10_000)}
    other = {f"transformer.{name}": value for name, value in tensors.items()}
    return {
        "truncated": (good[:-100], Rule.FILE, "its tensors end at"),
        "lying": (edited(good, _lying), Rule.FILE, "bytes, but F32 of shape"),
        "overlapping": (edited(good, _overlapping), Rule.FILE, "overlaps"),
        "beyond": (edited(good, _beyond), Rule.FILE, "leaves a gap"),
        "huge-header": (
            (100 << 20).to_bytes(8, "little") + b" " * (101 << 20),
            Rule.FILE,
            "its header claims 104857600 bytes, more than",
        ),
        "pickle": (b"\x80\x04\x95" + b"K" * 5000, Rule.FILE, "a pickle"),
        "archive": (b"PK\x03\x04" + bytes(5000), Rule.FILE, "a pickle or a torch.save archive"),
        "architecture": (save(other), Rule.MODEL, "missing"),
        "extra": (save({**tensors, "x": np.zeros(1, np.float32)}), Rule.MODEL, "no such tensor"),
        "float8": (edited(good, _float8), Rule.FILE, "F8_E4M3"),
        "many-tensors": (save(tiny), Rule.MODEL, "missing"),
        "empty": (b"", Rule.FILE, "too few for a header"),
    }


def test_whatever_strangers_send_is_refused_by_name_and_the_others_are_fused(
    repository: Repository,
    settings: Settings,
    contribute: Contribute,
    replace: Callable[[str, bytes], None],
) -> None:
    first = contribute("good1", seed=1)
    strange = strange_files(repository.store.get(first.shared.key))
    for name, (data, _, _) in strange.items():
        replace(name, data)
    contribute("good2", seed=2)
    change_policy(repository, Policy(min_contributions=2).model_dump())

    fuse_once(repository, settings)

    found = decided(repository)
    for name, (_, rule, reason) in strange.items():
        assert (found[name].outcome, found[name].rule) == (Outcome.REFUSED, rule), name
        assert reason in found[name].reason, name
        assert f"{name}.t00001" in found[name].reason
    fused = {line.contributor_id for line in repository.ledger.base_version().fused}
    assert fused == {"good1", "good2"}
    assert repository.inbox.count() == 0
