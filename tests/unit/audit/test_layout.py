from __future__ import annotations

import pytest

from coldfusion_queue.audit.layout import Kind, Place, contribution_parts, place_of
from coldfusion_queue.keys import ObjectKeys

ATTEMPT = "0123456789abcdef"
KEYS = ObjectKeys("repo")
BASE = f"000012-{ATTEMPT}"


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (KEYS.repository_record, Place(Kind.REPOSITORY)),
        (KEYS.ledger(7), Place(Kind.LEDGER, "0000000007")),
        (KEYS.dataset("d0"), Place(Kind.DATASET, "d0")),
        (KEYS.dataset_split("d0", "train"), Place(Kind.DATASET_FILE, "d0", name="train.parquet")),
        (KEYS.submission("a-1"), Place(Kind.SUBMISSION, "a-1")),
        (KEYS.cancellation("a-1"), Place(Kind.CANCELLATION, "a-1")),
        (KEYS.failure("a-1"), Place(Kind.FAILURE, "a-1")),
        (KEYS.open_submission("a-1"), Place(Kind.OPEN, "a-1")),
        (KEYS.contribution("a-1.t00001"), Place(Kind.CONTRIBUTION, "a-1.t00001")),
        (KEYS.decision("a-1.t00001"), Place(Kind.DECISION, "a-1.t00001")),
        (KEYS.contribution_collection("a-1.t00001"), Place(Kind.COLLECTION, "a-1.t00001")),
        (
            KEYS.attempt_file("a.t00001", ATTEMPT, "head.safetensors"),
            Place(Kind.CONTRIBUTION_FILE, "a.t00001", ATTEMPT, "head.safetensors"),
        ),
        (
            KEYS.checkpoint("a.t00001", ATTEMPT),
            Place(Kind.CHECKPOINT_FILE, "a.t00001", ATTEMPT, "checkpoint.json"),
        ),
        (
            KEYS.checkpoint_file("a.t00001", ATTEMPT),
            Place(Kind.CHECKPOINT_FILE, "a.t00001", ATTEMPT, "checkpoint.safetensors"),
        ),
        (
            KEYS.head_marker("a", "d0", 12, "a-1.t00001"),
            Place(Kind.HEAD, "a-1.t00001", name="a/d0/00000012"),
        ),
        (KEYS.inbox_marker("a-1.t00001"), Place(Kind.INBOX, "a-1.t00001")),
        (f"{KEYS.base_prefix(12, ATTEMPT)}lineage.json", Place(Kind.LINEAGE, BASE)),
        (KEYS.base_collection(KEYS.base_prefix(12, ATTEMPT)), Place(Kind.BASE_COLLECTION, BASE)),
        (
            f"{KEYS.base_prefix(12, ATTEMPT)}config.json",
            Place(Kind.BASE_FILE, BASE, name="config.json"),
        ),
        (
            f"{KEYS.base_prefix(1_234_567, ATTEMPT)}lineage.json",
            Place(Kind.LINEAGE, f"1234567-{ATTEMPT}"),
        ),
        ("repo/.probe-00ff", Place(Kind.PROBE)),
    ],
)
def test_the_auditors_reading_of_a_key_is_what_the_writer_means(key: str, expected: Place) -> None:
    assert place_of("repo", key) == expected


@pytest.mark.parametrize(
    "key",
    [
        "repo/notes.txt",
        "repo/ledger/7.json",
        "repo/ledger/0000000007.json.bak",
        "repo/inbox/a/b",
        "repo/datasets/dataset.json",
        "repo/contributions/a.t00001/other.json",
        "repo/contributions/a.t00001/no-attempt/shared.safetensors",
        f"repo/contributions/a.t00001/{ATTEMPT}/notes.txt",
        f"repo/base/12-{ATTEMPT}/config.json",
        f"repo/base/{BASE}/deeper/config.json",
        "other/repository.json",
        "repository.json",
    ],
)
def test_any_other_key_is_unknown(key: str) -> None:
    assert place_of("repo", key) == Place(Kind.UNKNOWN)


def test_the_parts_of_a_contributions_id() -> None:
    assert contribution_parts("a.t1.t00012") == ("a.t1", 12)
    assert contribution_parts("a.t123456") == ("a", 123_456)
    assert contribution_parts("a.t1") is None
    assert contribution_parts("a") is None
