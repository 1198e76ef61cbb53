"""The base of all records: frozen, strict, JSON in one canonical form.

A record is created once and never changed. ``extra="forbid"`` makes a reader refuse what it does
not know; ``RepositoryRecord.format_version`` says whether it may try.
"""

from __future__ import annotations

import json
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from coldfusion_queue.errors import InvalidRecordError

__all__ = ["Digest", "FileRecord", "Record"]

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Record(BaseModel):
    """Base of all records: frozen, strict about its fields, JSON in one canonical form."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    def to_bytes(self) -> bytes:
        """The record as UTF-8 JSON with sorted keys; equal records give equal bytes."""
        data = self.model_dump(mode="json")
        return (json.dumps(data, sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes, name: str) -> Self:
        """Read a record.

        Args:
            data: JSON as ``to_bytes`` writes it.
            name: the object key, for the message.

        Raises:
            InvalidRecordError: the bytes are no such record.
        """
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            problem = f"{where}: {first['msg']}" if where else first["msg"]
            raise InvalidRecordError(name, cls.__name__, problem) from error


class FileRecord(Record):
    """An object whose bytes were digested as they were written."""

    key: str
    """Object key within the bucket."""
    digest: Digest
    """sha256 of the bytes, lower-case hex."""
    num_bytes: int = Field(ge=0)
    """Size in bytes."""
