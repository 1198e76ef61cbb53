"""Errors that are one contribution's own, told from those of the store or the base model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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


class ContributionFault(Exception):  # noqa: N818 - it names whose error another one is
    """One contribution cannot be fused; without it the others can.

    A signal from the engine to its caller, who refuses that contribution for ``cause``; it ends
    no process and so is no part of the tree in ``errors``.
    """

    def __init__(self, contribution_id: str, cause: PermanentError) -> None:
        super().__init__(contribution_id, cause)
        self.contribution_id = contribution_id
        self.cause = cause

    def __str__(self) -> str:
        return f"contribution {self.contribution_id} cannot be fused: {self.cause}"


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
