"""The layout of the bucket, read anew: which key is what."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto

__all__ = ["Kind", "Place", "contribution_parts", "place_of"]


class Kind(Enum):
    """What an object is, by its key."""

    REPOSITORY = auto()
    LEDGER = auto()
    DATASET = auto()
    DATASET_FILE = auto()
    SUBMISSION = auto()
    CANCELLATION = auto()
    FAILURE = auto()
    OPEN = auto()
    CONTRIBUTION = auto()
    DECISION = auto()
    COLLECTION = auto()
    CONTRIBUTION_FILE = auto()
    INSPECTION = auto()
    OVERRIDE = auto()
    CHECKPOINT_FILE = auto()
    HEAD = auto()
    INBOX = auto()
    LINEAGE = auto()
    BASE_COLLECTION = auto()
    BASE_FILE = auto()
    FUSION_FILE = auto()
    CANDIDATE = auto()
    REQUEST = auto()
    EVALUATION = auto()
    PROBE = auto()
    UNKNOWN = auto()


@dataclass(frozen=True)
class Place:
    """What a key says about its object."""

    kind: Kind
    owner: str = ""
    """Id of the submission, contribution, dataset or request, digits of a ledger entry,
    ``<version>-<attempt>`` of a base version, or ``<digest>/<dataset>/<name>`` of an evaluation."""
    attempt: str = ""
    """Attempt at a contribution or checkpoint, 16 hex digits."""
    name: str = ""
    """Name of a file in its directory; of a head's marker contributor, task and base version."""


_OWNER = r"(?P<owner>[a-z0-9][a-z0-9._-]*)"
_ATTEMPT = r"(?P<attempt>[0-9a-f]{16})"
_BASE = r"(?P<owner>\d{6,}-[0-9a-f]{16})"

#: The first that matches counts, so records come before the files beside them.
_PATTERNS = tuple(
    (kind, re.compile(pattern))
    for kind, pattern in (
        (Kind.REPOSITORY, r"repository\.json"),
        (Kind.LEDGER, r"ledger/(?P<owner>\d{10})\.json"),
        (Kind.DATASET, rf"datasets/{_OWNER}/dataset\.json"),
        (Kind.DATASET_FILE, rf"datasets/{_OWNER}/(?P<name>[^/]+\.parquet)"),
        (Kind.SUBMISSION, rf"submissions/{_OWNER}/submission\.json"),
        (Kind.CANCELLATION, rf"submissions/{_OWNER}/cancelled\.json"),
        (Kind.FAILURE, rf"submissions/{_OWNER}/failed\.json"),
        (Kind.OPEN, rf"open/{_OWNER}"),
        (Kind.CONTRIBUTION, rf"contributions/{_OWNER}/contribution\.json"),
        (Kind.DECISION, rf"contributions/{_OWNER}/decision\.json"),
        (Kind.COLLECTION, rf"contributions/{_OWNER}/collected\.json"),
        (
            Kind.CONTRIBUTION_FILE,
            rf"contributions/{_OWNER}/{_ATTEMPT}/(?P<name>(?:shared|head)\.safetensors)",
        ),
        (Kind.INSPECTION, rf"inspections/{_OWNER}\.json"),
        (Kind.OVERRIDE, rf"overrides/{_OWNER}\.json"),
        (
            Kind.CHECKPOINT_FILE,
            rf"checkpoints/{_OWNER}/{_ATTEMPT}/(?P<name>checkpoint\.(?:safetensors|json))",
        ),
        (Kind.HEAD, rf"heads/(?P<name>[^/]+/[^/]+/\d{{8,}})-{_OWNER}"),
        (Kind.INBOX, rf"inbox/{_OWNER}"),
        (Kind.LINEAGE, rf"base/{_BASE}/lineage\.json"),
        (Kind.BASE_COLLECTION, rf"base/{_BASE}/collected\.json"),
        (Kind.BASE_FILE, rf"base/{_BASE}/(?P<name>[^/]+)"),
        (Kind.FUSION_FILE, rf"fusions/{_BASE}/(?P<name>plan\.json|\d+-\d+)"),
        (Kind.CANDIDATE, r"candidates/(?P<owner>\d{10})\.json"),
        (Kind.REQUEST, rf"wanted/{_OWNER}\.json"),
        (Kind.EVALUATION, r"evaluations/(?P<owner>[0-9a-f]{32}/[0-9a-f]{32}/[a-z0-9_-]+)\.json"),
        (Kind.PROBE, r"\.probe-.*"),
    )
)

_CONTRIBUTION_ID = re.compile(r"(?P<submission>.+)\.t(?P<turn>\d{5,})")


def place_of(repository: str, key: str) -> Place:
    """What an object is.

    Args:
        repository: name of the repository.
        key: object key within the bucket.
    """
    prefix = f"{repository}/"
    if not key.startswith(prefix):
        return Place(Kind.UNKNOWN)
    for kind, pattern in _PATTERNS:
        match = pattern.fullmatch(key, len(prefix))
        if match is not None:
            return Place(kind, **match.groupdict())
    return Place(Kind.UNKNOWN)


def contribution_parts(contribution_id: str) -> tuple[str, int] | None:
    """Submission and turn that a contribution's id is made of, or None if it is no such id."""
    match = _CONTRIBUTION_ID.fullmatch(contribution_id)
    return None if match is None else (match["submission"], int(match["turn"]))
