"""A repository in use: a listing takes a while, and things happen meanwhile."""

from __future__ import annotations

import pytest

from coldfusion_queue.audit.run import audit_bucket
from coldfusion_queue.errors import NotFoundError
from coldfusion_queue.records import Collection, Decision, Outcome
from tests.unit.audit.memory import (
    ATTEMPT,
    NAME,
    NOW,
    MemoryBucket,
    following,
    put_contribution,
    put_entry,
    put_repository,
)


@pytest.fixture
def bucket() -> MemoryBucket:
    return MemoryBucket()


def refusal(sequence: int, name: str = "a.t00001") -> Decision:
    return Decision(
        contribution_id=name,
        outcome=Outcome.REFUSED,
        reason="damaged",
        sequence=sequence,
        version=None,
    )


def test_a_healthy_repository_is_looked_at_once(bucket: MemoryBucket) -> None:
    put_repository(bucket)

    assert bucket.checks() == []
    assert bucket.num_looks == 1


def test_what_is_wrong_both_times_is_found(bucket: MemoryBucket) -> None:
    first = put_repository(bucket)
    put_contribution(bucket, first.after.base)

    assert bucket.checks() == ["contributions.marker"]
    assert bucket.num_looks == 2


def test_a_contribution_that_is_decided_between_ledger_and_listing(bucket: MemoryBucket) -> None:
    # The first look sees an old ledger and no marker, as if the contribution had been lost.
    first = put_repository(bucket)
    put_contribution(bucket, first.after.base)
    bucket.put("contributions/a.t00001/decision.json", refusal(1).to_bytes())
    bucket.after_listing = lambda number: put_entry(
        bucket, following(first, decisions=(refusal(1),))
    )

    assert bucket.checks() == []
    assert bucket.num_looks == 2


def test_files_that_are_collected_after_they_were_listed(bucket: MemoryBucket) -> None:
    first = put_repository(bucket)
    contribution = put_contribution(bucket, first.after.base)
    expired = refusal(1).model_copy(update={"outcome": Outcome.EXPIRED})
    put_entry(bucket, following(first, decisions=(expired,)))

    def collect(number: int) -> None:
        record = Collection(
            keys=(contribution.shared.key,), reason="old", created_at=NOW, created_by="test"
        )
        bucket.put("contributions/a.t00001/collected.json", record.to_bytes())
        bucket.objects.pop(contribution.shared.key, None)

    bucket.after_listing = collect

    assert bucket.checks() == []


def test_another_problem_at_the_second_look_is_no_proof(bucket: MemoryBucket) -> None:
    # Each look meets another contribution half-way; neither is seen twice.
    first = put_repository(bucket)
    put_contribution(bucket, first.after.base, "a")

    def move_on(number: int) -> None:
        bucket.put("inbox/a.t00001")
        put_contribution(bucket, first.after.base, "b")

    bucket.after_listing = move_on

    assert bucket.checks() == []


def test_only_what_seems_damaged_is_digested_again(bucket: MemoryBucket) -> None:
    first = put_repository(bucket)
    contribution = put_contribution(bucket, first.after.base)
    bucket.put("inbox/a.t00001")
    bucket.objects[contribution.shared.key] = b"SHARED"

    assert bucket.checks() == ["contributions.file"]
    model = first.after.base.model_files[0].key
    assert bucket.digested == [model, contribution.shared.key, contribution.shared.key]


def test_entries_that_a_listing_does_not_show_yet_are_read(bucket: MemoryBucket) -> None:
    first = put_repository(bucket)
    put_entry(bucket, following(first))
    put_entry(bucket, following(following(first)))
    listing = bucket.list
    bucket.list = lambda prefix: (  # type: ignore[method-assign]
        item for item in listing(prefix) if not item.key.endswith(("1.json", "2.json"))
    )

    assert audit_bucket(bucket, NAME).num_entries == 3


def test_the_fold_goes_on_behind_an_entry_that_is_lost(bucket: MemoryBucket) -> None:
    first = put_repository(bucket)
    policy = first.after.policy.model_copy(update={"min_contributions": 2})
    after = first.after.model_copy(update={"policy": policy})
    second = following(first, policy=policy, after=after)
    third = following(second, after=after)
    for entry in (third, following(third)):
        put_entry(bucket, entry)

    assert bucket.checks() == ["ledger.gap"]

    forged = after.model_copy(update={"policy": first.after.policy})
    put_entry(bucket, following(third, after=forged))
    assert bucket.checks() == ["ledger.fold", "ledger.gap"]


@pytest.mark.parametrize(
    ("age_seconds", "expected"),
    [
        pytest.param(59.0, [], id="younger"),
        pytest.param(60.0, ["orphans.base"], id="as-old"),
    ],
)
def test_a_directory_is_as_old_as_its_newest_object(
    bucket: MemoryBucket, age_seconds: float, expected: list[str]
) -> None:
    put_repository(bucket)
    bucket.put(f"base/000001-{ATTEMPT}/model.safetensors", b"model", age_seconds=1e6)
    bucket.put(f"base/000001-{ATTEMPT}/lineage.json", b"{}", age_seconds=age_seconds)

    assert bucket.checks(60.0) == expected


def test_an_empty_prefix_is_no_repository(bucket: MemoryBucket) -> None:
    with pytest.raises(NotFoundError, match="repository 'repo' does not exist"):
        bucket.checks()


def test_a_repository_without_a_ledger_lacks_entry_0(bucket: MemoryBucket) -> None:
    put_repository(bucket)
    del bucket.objects[f"{NAME}/ledger/0000000000.json"]

    assert "ledger.gap" in bucket.checks()
