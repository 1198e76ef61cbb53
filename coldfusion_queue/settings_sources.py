"""Where values of settings come from, and names that look like a setting and are none."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path

__all__ = ["ENV_PREFIX", "described", "read_secrets", "stack_env_file", "unknown_variables"]

ENV_PREFIX = "COLDFUSION_"

#: What says where the others are read from.
_PLACES = ("HOME", "SECRETS_DIR")

# Kubernetes injects these for every Service whose name starts with "coldfusion".
_SERVICE_LINK = re.compile(r"_(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT_\d+_(TCP|UDP|SCTP)(_.*)?)$")


def stack_env_file() -> Path:
    """Path of the environment file that a running local stack leaves behind."""
    home = os.environ.get(f"{ENV_PREFIX}HOME") or "~/.coldfusion"
    return Path(home).expanduser() / "stack" / "stack.env"


def described(name: str, message: str) -> str:
    """A line of the message about wrong settings."""
    return f"  {name}: {message.removeprefix('Value error, ')}"


def read_secrets(fields: Collection[str]) -> tuple[dict[str, str], list[str]]:
    """Read the directory that ``COLDFUSION_SECRETS_DIR`` names: a file for each setting.

    Files whose name does not begin with the prefix are passed over, such as the links by which
    Kubernetes replaces all files at once. A newline at the end is no part of a value, and an empty
    file counts as none.

    Args:
        fields: names of the settings, in lower case.

    Returns:
        Values by the setting's name, and what is wrong. What the environment sets is left out.
    """
    directory = os.environ.get(f"{ENV_PREFIX}SECRETS_DIR")
    if not directory:
        return {}, []
    try:
        paths = sorted(Path(directory).expanduser().iterdir())
    except OSError as error:
        problem = f"no directory that can be read at {directory} ({error.strerror})"
        return {}, [described(f"{ENV_PREFIX}SECRETS_DIR", problem)]
    in_environment = {name.upper() for name, value in os.environ.items() if value}
    values, problems = {}, []
    for path in paths:
        name = path.name.removeprefix(ENV_PREFIX)
        if not path.name.upper().startswith(ENV_PREFIX):
            continue
        if name in _PLACES:
            problems.append(described(str(path), "expected in the environment, not in a file"))
        elif name == path.name or name != name.upper() or name.lower() not in fields:
            problems.append(described(str(path), _no_such_setting(path.name, fields)))
        elif path.name not in in_environment:
            try:
                value = path.read_text(encoding="utf-8").rstrip("\r\n")
            except (OSError, UnicodeDecodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
                problems.append(described(str(path), f"cannot be read: {reason}"))
            else:
                values.update({name.lower(): value} if value else {})
    return values, problems


def unknown_variables(fields: Collection[str]) -> Iterator[str]:
    """What is wrong with variables of the environment that have the prefix and are no settings."""
    known = {ENV_PREFIX + name.upper() for name in fields}
    for name in sorted(os.environ):
        if name.startswith(ENV_PREFIX) and name not in known and not _is_service_link(name):
            yield described(name, _no_such_setting(name, fields))


def _no_such_setting(name: str, fields: Collection[str]) -> str:
    # Without the prefix, which would make any two names alike.
    plain = [field.upper() for field in fields]
    close = difflib.get_close_matches(name.upper().removeprefix(ENV_PREFIX), plain, n=1)
    return "no such setting" + (f", did you mean {ENV_PREFIX}{close[0]}?" if close else "")


def _is_service_link(name: str) -> bool:
    # COLDFUSION_<SERVICE>_PORT holds a URL; with a number it is a misspelt setting of ours.
    is_url = name.endswith("_PORT") and "://" in os.environ[name]
    return is_url or _SERVICE_LINK.search(name) is not None
