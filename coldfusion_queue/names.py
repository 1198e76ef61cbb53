"""Names that people choose and identifiers that we make.

Every name becomes part of an object key, so all of them are checked here, against one pattern
that leaves no room for separators, ``..`` or spaces.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
from datetime import UTC, datetime

from coldfusion_queue import __version__
from coldfusion_queue.errors import UsageError

__all__ = [
    "actor",
    "check_name",
    "check_site",
    "contribution_id",
    "is_contribution_id",
    "is_id",
    "new_attempt",
    "new_submission_id",
    "slug",
]

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?")
_SITE = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_EXPECTED = (
    "1 to 63 lower-case letters, digits, '-', '_' or '.', beginning and ending with a letter or "
    "digit, without '..'"
)


def check_name(what: str, name: str) -> str:
    """Return ``name`` if it can be part of an object key.

    Args:
        what: what the name is of, for the message ("contributor", "repository").
        name: the name as given.

    Raises:
        UsageError: the name holds anything but the allowed characters.
    """
    if not _NAME.fullmatch(name) or ".." in name:
        raise UsageError(f"{what} name", name, _EXPECTED)
    return name


def check_site(name: str, what: str = "site") -> str:
    """Return ``name`` if it can be a site's or a pool's: it becomes part of keys of the broker.

    Raises:
        UsageError: the name holds anything but the allowed characters.
    """
    if not _SITE.fullmatch(name):
        expected = "1 to 63 lower-case letters, digits or '-', with a letter or digit at either end"
        raise UsageError(f"{what} name", name, expected)
    return name


def is_id(text: str) -> bool:
    """Whether this can be the id of a submission or contribution, which are longer than names."""
    return re.fullmatch(r"[a-z0-9][a-z0-9._-]*", text) is not None and ".." not in text


def slug(text: str) -> str:
    """Make a valid name out of free text such as a file's stem; "data" if nothing is left."""
    cleaned = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:48].strip("-")
    return cleaned or "data"


def new_submission_id(contributor_id: str) -> str:
    """A unique id that sorts by time within a contributor: ``<contributor>-<time>-<random>``.

    Uniqueness rests on the random part alone; the time is there for people.
    """
    return f"{contributor_id}-{datetime.now(UTC):%Y%m%dt%H%M%S}-{secrets.token_hex(4)}"


def contribution_id(submission_id: str, turn: int) -> str:
    """The id of a submission's contribution of one turn.

    It is a function of its arguments, so that a task that is delivered twice ends at one
    contribution.
    """
    return f"{submission_id}.t{turn:05d}"


def actor() -> str:
    """Who writes: host, process and program version, for people who read the records."""
    return f"{socket.gethostname()}:{os.getpid()} coldfusion-queue {__version__}"


def new_attempt() -> str:
    """A unique token for one attempt at writing something: 16 hex digits."""
    return secrets.token_hex(8)


def is_contribution_id(text: str) -> bool:
    """Whether ``contribution_id`` can have made this."""
    return is_id(text) and re.search(r"\.t\d{5,}$", text) is not None
