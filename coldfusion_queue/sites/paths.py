"""Paths of private data: within the site's data directory, or refused.

Whoever can submit names a path, so a path must not make a worker read anything else on its machine.
"""

from __future__ import annotations

from pathlib import Path

from coldfusion_queue.errors import InvalidDatasetError, UsageError

__all__ = ["SITE_PREFIX", "check_path", "find_data", "shown_path"]

#: What DATA of ``coldfusion-submit`` begins with.
SITE_PREFIX = "site:"

_MAX_CHARACTERS = 500
_EXPECTED = (
    "a file or folder within the site's data directory, such as notes.parquet or 2024/notes, with "
    "'/' between its parts and without '..', '.' or empty parts"
)


def check_path(path: str) -> str:
    """Return ``path`` without a trailing slash if it can be one within a directory.

    Raises:
        UsageError: it is absolute, leads upwards, or holds something that no path needs.
    """
    bare = path.removesuffix("/")
    is_bad = not bare.isprintable() or "\\" in bare or len(bare) > _MAX_CHARACTERS
    if is_bad or any(part in {"", ".", ".."} for part in bare.split("/")):
        raise UsageError("path of site data", path, _EXPECTED)
    return bare


def shown_path(path: str) -> str:
    """What messages call it: as it was submitted, not where it is on the site's machine."""
    return f"{SITE_PREFIX}{path}"


def find_data(directory: Path, path: str) -> Path:
    """Where on this machine a submission's data is, links resolved; it may not be there.

    Args:
        directory: the site's data directory.
        path: as the submission has it.

    Raises:
        UsageError: ``check_path`` refuses the path; a submission need not come from our program.
        InvalidDatasetError: it is, or it directly holds, a link that leads out of the directory.
    """
    root = directory.resolve()
    found = (root / check_path(path)).resolve()
    inside = [found, *(item.resolve() for item in found.iterdir())] if found.is_dir() else [found]
    if not all(item.is_relative_to(root) for item in inside):
        problem = "it is or holds a link that leads out of the site's data directory"
        remedy = "put the data itself there"
        raise InvalidDatasetError(shown_path(path), problem, remedy)
    return found
