"""Errors that are one contribution's own, told from those of the store or the base model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from coldfusion_queue.errors import (
    DigestMismatchError,
    IncompatibleModelError,
    InvalidTensorFileError,
    NonFiniteTensorError,
    NotFoundError,
    PermanentError,
)

__all__ = ["ContributionFault", "attributed"]

_OWN_FAULTS = (
    DigestMismatchError,
    IncompatibleModelError,
    InvalidTensorFileError,
    NonFiniteTensorError,
    NotFoundError,
)


@dataclass(eq=False)
class ContributionFault(PermanentError):  # noqa: N818 - it names whose error another one is
    """One contribution cannot be fused; without it the others can."""

    exit_code = 10
    template = "contribution {contribution_id} cannot be fused: {cause}"

    contribution_id: str
    cause: PermanentError


@contextmanager
def attributed(contribution_id: str | None) -> Iterator[None]:
    """Blame errors in a contribution's bytes on it; others pass unchanged.

    Passing are errors that may go away (``RetryableError``) and those of the store as a whole,
    such as refused credentials or a missing bucket: no contribution may be refused for them.

    Args:
        contribution_id: whose bytes are handled; None for the base model, which nobody is
            blamed for.

    Raises:
        ContributionFault: in place of an error that is the contribution's own.
    """
    try:
        yield
    except _OWN_FAULTS as error:
        is_bucket = isinstance(error, NotFoundError) and error.what == "bucket"
        if contribution_id is None or is_bucket:
            raise
        raise ContributionFault(contribution_id, error) from error
