"""Every error of the project, as one tree.

::

    ColdFusionError
    ├── PermanentError                  a retry cannot help: reject, tell the user
    │   ├── UsageError                  2   an argument that cannot be taken
    │   ├── InvalidDatasetError         3   data that cannot be finetuned on
    │   ├── SettingsError               4   wrong COLDFUSION_* variables
    │   ├── MissingExtraError           4   an optional part is not installed
    │   ├── AccessDeniedError           7   the store or broker refuses the credentials
    │   ├── NotFoundError               8   a repository, version or bucket that is not there
    │   ├── AlreadyExistsError          9   something else stands where we would write
    │   ├── IncompatibleModelError      10  another architecture, tokenizer, shape or dtype
    │   ├── InvalidTensorFileError      10  not a safetensors file that can be trusted
    │   ├── NonFiniteTensorError        10  a NaN or an infinity in a contribution
    │   ├── DiskFullError               11  no room left on this machine
    │   ├── SubmissionFailedError       12  a submission ended without its contributions
    │   ├── UnsupportedStoreError       14  a store without conditional writes
    │   ├── DigestMismatchError         15  bytes that are not the recorded ones
    │   ├── InvalidRecordError          15  an object that is not the record it should be
    │   ├── TrainingFailedError         16  the finetune itself went wrong
    │   ├── UnusableModelError          16  a base model that gives NaN or infinite numbers
    │   ├── ProcessFailedError          18  a process of the local stack did not come up
    │   └── AuditFailedError            19  the bucket is not what the protocol promises
    └── RetryableError                  it may work later: back off with jitter, bounded
        ├── BrokerUnavailableError      5   Redis does not answer
        ├── StoreUnavailableError       6   the object store does not answer
        ├── WaitTimeoutError            13  something did not happen in time
        ├── LedgerConflictError         17  another fuser took this sequence number
        └── DeviceLostError             20  a GPU that is not there, or not any more

The number is the exit code of the command line; codes are listed in ``docs/operations.md`` and
never reused. Leaves are dataclasses whose fields are positional and become ``args``, because
Celery and pickle rebuild an error as ``cls(*args)``. Messages say what failed, whose, what was
got, what was expected and what to do, and never hold secrets or rows of data.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

__all__ = [
    "AccessDeniedError",
    "AlreadyExistsError",
    "AuditFailedError",
    "BrokerUnavailableError",
    "ColdFusionError",
    "DeviceLostError",
    "DigestMismatchError",
    "DiskFullError",
    "IncompatibleModelError",
    "InvalidDatasetError",
    "InvalidRecordError",
    "InvalidTensorFileError",
    "LedgerConflictError",
    "MissingExtraError",
    "NonFiniteTensorError",
    "NotFoundError",
    "PermanentError",
    "ProcessFailedError",
    "RetryableError",
    "SettingsError",
    "StoreUnavailableError",
    "SubmissionFailedError",
    "TrainingFailedError",
    "UnsupportedStoreError",
    "UnusableModelError",
    "UsageError",
    "WaitTimeoutError",
]


@dataclass(eq=False)
class ColdFusionError(Exception):
    """Root of all errors raised on purpose."""

    exit_code: ClassVar[int] = 1
    template: ClassVar[str] = "{__class__.__name__}"

    def __post_init__(self) -> None:
        self.args = tuple(getattr(self, field.name) for field in fields(self))

    def __str__(self) -> str:
        return self.template.format(**vars(self), __class__=type(self))


@dataclass(eq=False)
class PermanentError(ColdFusionError):
    """The same attempt would fail again: reject it and record the reason."""


@dataclass(eq=False)
class RetryableError(ColdFusionError):
    """The same attempt may succeed later: retry with backoff, a bounded number of times."""


@dataclass(eq=False)
class UsageError(PermanentError):
    """An argument has a form that cannot be taken."""

    exit_code = 2
    template = "{what} {got!r} cannot be taken: expected {expected}"

    what: str
    got: str
    expected: str


@dataclass(eq=False)
class InvalidDatasetError(PermanentError):
    """A dataset cannot be finetuned on; nothing was uploaded or enqueued."""

    exit_code = 3
    template = "dataset {source}: {problem}; {remedy}"

    source: str
    problem: str
    remedy: str


@dataclass(eq=False)
class SettingsError(PermanentError):
    """One or more settings are wrong; all of them are named at once."""

    exit_code = 4
    template = "wrong settings:\n{problems}\nSee 'coldfusion config' and docs/operations.md."

    problems: str


@dataclass(eq=False)
class MissingExtraError(PermanentError):
    """A command needs a package of an optional extra."""

    exit_code = 4
    template = "{what} needs the package {package!r}: pip install 'coldfusion-queue[{extra}]'"

    what: str
    package: str
    extra: str


@dataclass(eq=False)
class BrokerUnavailableError(RetryableError):
    """The Redis broker does not answer."""

    exit_code = 5
    template = "broker {url} does not answer ({reason}): start it, or correct COLDFUSION_BROKER_URL"

    url: str
    reason: str


@dataclass(eq=False)
class StoreUnavailableError(RetryableError):
    """The object store does not answer, or answered with an error that may pass."""

    exit_code = 6
    template = (
        "object store {endpoint} failed to {operation} {key!r} ({reason}): check that it runs and "
        "that COLDFUSION_S3_ENDPOINT is right"
    )

    endpoint: str
    operation: str
    key: str
    reason: str


@dataclass(eq=False)
class AccessDeniedError(PermanentError):
    """The credentials were refused."""

    exit_code = 7
    template = "{service} refused the credentials ({reason}): check {variables}"

    service: str
    reason: str
    variables: str


@dataclass(eq=False)
class NotFoundError(PermanentError):
    """Something that was named does not exist."""

    exit_code = 8
    template = "{what} {name!r} does not exist; {remedy}"

    what: str
    name: str
    remedy: str


@dataclass(eq=False)
class AlreadyExistsError(PermanentError):
    """Something else stands where we were asked to write."""

    exit_code = 9
    template = "{what} {name!r} already exists; {remedy}"

    what: str
    name: str
    remedy: str


@dataclass(eq=False)
class IncompatibleModelError(PermanentError):
    """A model does not fit the repository's base model."""

    exit_code = 10
    template = "{model}: {part} is {got}, expected {expected}; {remedy}"

    model: str
    part: str
    got: str
    expected: str
    remedy: str


@dataclass(eq=False)
class InvalidTensorFileError(PermanentError):
    """A file is no safetensors file, or one whose header does not hold together."""

    exit_code = 10
    template = "tensor file {name}: {problem}; it has to be a complete safetensors file"

    name: str
    problem: str


@dataclass(eq=False)
class NonFiniteTensorError(PermanentError):
    """A tensor of a contribution holds a NaN or an infinity."""

    exit_code = 10
    template = (
        "contribution {contribution_id}: tensor {tensor!r} holds NaN or infinite values; "
        "its finetune diverged, lower the learning rate and submit again"
    )

    contribution_id: str
    tensor: str


@dataclass(eq=False)
class DiskFullError(PermanentError):
    """A local disk has no room left."""

    exit_code = 11
    template = "no space left on the disk of {path}: free some, or point {variable} at a larger one"

    path: str
    variable: str


@dataclass(eq=False)
class SubmissionFailedError(PermanentError):
    """A submission ended without all of its contributions."""

    exit_code = 12
    template = "submission {submission_id} failed at turn {turn}: {reason}"

    submission_id: str
    turn: int
    reason: str


@dataclass(eq=False)
class WaitTimeoutError(RetryableError):
    """Something did not happen within the time that was given."""

    exit_code = 13
    template = "{what} did not happen within {seconds:g} s; {remedy}"

    what: str
    seconds: float
    remedy: str


@dataclass(eq=False)
class UnsupportedStoreError(PermanentError):
    """The store ignores conditional writes, on which every commit point rests."""

    exit_code = 14
    template = (
        "object store {endpoint} ({server}) does not honour conditional writes: {evidence}. "
        "Two writers would overwrite each other; use a store that honours "
        "'If-None-Match: *' on PUT (docs/operations.md lists them)"
    )

    endpoint: str
    server: str
    evidence: str


@dataclass(eq=False)
class DigestMismatchError(PermanentError):
    """Bytes do not have the digest that was recorded for them."""

    exit_code = 15
    template = (
        "{name}: sha256 is {got}, expected {expected}; the bytes were damaged or replaced "
        "after they were recorded"
    )

    name: str
    got: str
    expected: str


@dataclass(eq=False)
class InvalidRecordError(PermanentError):
    """An object does not hold the record that belongs there."""

    exit_code = 15
    template = (
        "{name}: not a {record} record ({problem}); it was damaged, or written by another version "
        "of the program"
    )

    name: str
    record: str
    problem: str


@dataclass(eq=False)
class TrainingFailedError(PermanentError):
    """A finetune ended without parameters worth contributing."""

    exit_code = 16
    template = "{subject}: {problem}; {remedy}"

    subject: str
    problem: str
    remedy: str


@dataclass(eq=False)
class UnusableModelError(PermanentError):
    """A base model gives numbers that are NaN or infinite."""

    exit_code = 16
    template = (
        "base version {version} gives features that are not finite on dataset {dataset_id}; roll "
        "it back"
    )

    version: int
    dataset_id: str


@dataclass(eq=False)
class ProcessFailedError(PermanentError):
    """A process of the local stack ended, or did not answer, when it was started."""

    exit_code = 18
    template = "process {name} {problem}; the end of its log {log}:\n{tail}"

    name: str
    problem: str
    log: str
    tail: str


@dataclass(eq=False)
class AuditFailedError(PermanentError):
    """An audit found that invariants of the repository do not hold."""

    exit_code = 19
    template = (
        "repository {repository}: {num_findings} findings, expected none; "
        "docs/operations.md says what each check means"
    )

    repository: str
    num_findings: int


@dataclass(eq=False)
class LedgerConflictError(RetryableError):
    """Another fuser appended this ledger entry first; nothing of ours was decided."""

    exit_code = 17
    template = (
        "ledger entry {sequence} was appended by another fuser; this fusion is thrown away and "
        "the next one starts from the new entry"
    )

    sequence: int


@dataclass(eq=False)
class DeviceLostError(RetryableError):
    """The device to train on is not there, or failed; another worker's may do."""

    exit_code = 20
    template = (
        "device {device}: {problem}; check the GPU and its driver on this worker's machine, or set "
        "COLDFUSION_DEVICE"
    )

    device: str
    problem: str
