"""What DATA of ``coldfusion-submit DATA`` means.

==========================  =====================================================================
DATA                        meaning
==========================  =====================================================================
``FILE`` or ``FOLDER``      a local path, ``..`` and ``~`` allowed: it is the user's own machine
``hub:NAME``                a dataset of the Hugging Face hub, ``NAME`` or ``ORG/NAME``
``hub:NAME:CONFIG``         one configuration of it; always unambiguous
``hub:ORG/NAME/CONFIG``     the same with a third part
``hub:A/B``                 dataset ``A/B``; if the hub has none, configuration ``B`` of ``A``
``s3://BUCKET/KEY``         an object, or with a trailing ``/`` all objects directly below it, at
                            the configured endpoint with the configured credentials
==========================  =====================================================================

A local file whose name begins with ``hub:`` is reached as ``./hub:...``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from coldfusion_queue.errors import UsageError
from coldfusion_queue.names import slug

__all__ = ["HubSource", "LocalSource", "S3Source", "Source", "parse_source", "suggest_name"]

_WHAT = "dataset"
_ANY = (
    "a .jsonl, .json, .csv, .tsv or .parquet file, a folder, hub:NAME[/CONFIG] or s3://BUCKET/KEY"
)
_HUB = "hub:NAME[/CONFIG] or hub:ORG/NAME[:CONFIG], of letters, digits, '-', '_' and '.'"
_S3 = "s3://BUCKET/KEY with a lower-case bucket name and a key without '..', '.' or empty parts"
_HUB_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
#: Stems that say which split a file is and nothing of what it holds.
_PLAIN_STEMS = frozenset({"data", "dataset", "train", "validation", "valid", "dev", "val", "test"})


@dataclass(frozen=True)
class LocalSource:
    """A file or folder of this machine."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True)
class HubSource:
    """A dataset of the Hugging Face hub."""

    name: str
    config: str | None
    fallback: HubSource | None = None
    """What else ``A/B`` may mean, if the hub has no dataset of that name."""

    def __str__(self) -> str:
        return f"hub:{self.name}" + (f":{self.config}" if self.config else "")


@dataclass(frozen=True)
class S3Source:
    """An object, or with a key that is empty or ends in ``/`` those directly below it."""

    bucket: str
    key: str

    @property
    def is_folder(self) -> bool:
        """Whether the key is a prefix."""
        return not self.key or self.key.endswith("/")

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


Source = LocalSource | HubSource | S3Source


def parse_source(data: str) -> Source:
    """Read DATA; nothing is looked up.

    Raises:
        UsageError: it has none of the forms above.
    """
    if data.startswith("hub:"):
        return _parse_hub(data)
    if data.startswith("s3:"):
        return _parse_s3(data)
    if not data.strip() or "\0" in data or re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", data):
        raise UsageError(_WHAT, data, _ANY)
    try:
        return LocalSource(Path(data).expanduser())
    except RuntimeError:  # ~somebody who has no home
        raise UsageError(_WHAT, data, "a path whose '~user' is a user of this machine") from None


def suggest_name(source: Source) -> str:
    """A contributor name for a source: its file's stem, or the folder's where that says more."""
    if isinstance(source, HubSource):
        return slug("-".join(filter(None, [source.name.rpartition("/")[2], source.config])))
    if isinstance(source, S3Source):
        return _name_of_path(PurePosixPath(source.bucket, source.key), source.is_folder)
    path = source.path.resolve()
    return _name_of_path(PurePosixPath(path), path.is_dir())


def _name_of_path(path: PurePosixPath, is_folder: bool) -> str:
    if is_folder:
        return slug(path.name)
    plain = path.stem.lower() in _PLAIN_STEMS
    return slug(path.parent.name if plain and path.parent.name else path.stem)


def _parse_hub(data: str) -> HubSource:
    text = data.removeprefix("hub:")
    path, colon, config = text.partition(":")
    parts = path.split("/")
    names = [*parts, config] if colon else parts
    if any(not _HUB_PART.fullmatch(name) or ".." in name for name in names):
        raise UsageError(_WHAT, data, _HUB)
    if len(parts) > (2 if colon else 3):
        raise UsageError(_WHAT, data, _HUB)
    if len(parts) == 3:
        return HubSource("/".join(parts[:2]), parts[2])
    if len(parts) == 2 and not colon:
        return HubSource(path, None, HubSource(parts[0], parts[1]))
    return HubSource(path, config or None)


def _parse_s3(data: str) -> S3Source:
    bucket, _, key = data.removeprefix("s3://").partition("/")
    parts = key.removesuffix("/").split("/") if key else []
    well_formed = data.startswith("s3://") and _BUCKET.fullmatch(bucket) and key.isprintable()
    if not well_formed or any(part in {"", ".", ".."} for part in parts):
        raise UsageError(_WHAT, data, _S3)
    return S3Source(bucket, key)
