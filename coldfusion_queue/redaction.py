"""Credentials and signatures taken out of text that leaves the process: logs and traces.

Nothing of ours writes one down. Libraries quote what they stumbled over, such as the URL of a
request that failed, and a presigned URL is a credential.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from urllib.parse import quote, unquote, urlsplit

from pydantic import SecretStr

from coldfusion_queue.settings import Settings

__all__ = ["Redaction"]

_HIDDEN = "***"

#: A shorter one is as likely to be a part of a word.
_MIN_LENGTH = 6
_SIGNED = re.compile(
    r"((?:X-Amz-)?(?:Signature|Credential|Security-Token)(?:=|%3D))[^&\s\"'\\,;)]+", re.IGNORECASE
)


class Redaction:
    """Replaces the secrets of some settings, and every S3 signature, by ``***``."""

    def __init__(self, settings: Settings) -> None:
        values = {form for secret in _secrets(settings) for form in _forms(secret)}
        longest_first = sorted(values, key=len, reverse=True)
        self._secrets = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def __call__(self, text: str) -> str:
        """The text without them."""
        if "=" in text or "%3" in text:
            text = _SIGNED.sub(rf"\g<1>{_HIDDEN}", text)
        return self._secrets.sub(_HIDDEN, text)


def _secrets(settings: Settings) -> Iterator[str]:
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if not isinstance(value, SecretStr):
            continue
        if name == "broker_url":  # of which a password is all that is secret
            found = urlsplit(value.get_secret_value()).password or ""
            yield from (found, unquote(found))
        else:
            yield value.get_secret_value()


def _forms(secret: str) -> Iterator[str]:
    """A secret as it is, in a URL, and within a JSON string."""
    if len(secret) >= _MIN_LENGTH:
        yield from (secret, quote(secret, safe=""), json.dumps(secret)[1:-1])
