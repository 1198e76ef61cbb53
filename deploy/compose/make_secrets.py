#!/usr/bin/env python3
"""Make the secrets that ``compose.yaml`` mounts; what is there stays as it is.

``python3 deploy/compose/make_secrets.py [DIRECTORY]``. It needs nothing but an interpreter. The
directory, ``secrets`` beside this file, is for its owner alone. The files in it can be read by all,
because containers have users of their own and get the files as they are.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Write what is missing, and say what that was."""
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "secrets"
    made = make_secrets(directory)
    print(f"{directory}: {', '.join(made) if made else 'all there, nothing changed'}")


def make_secrets(directory: Path) -> list[str]:
    """Make the files that are not there.

    A second call changes nothing. The two files that servers read repeat what is in those of the
    clients, also if only one of them was lost.

    Returns:
        Names of the files that were made.
    """
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    directory.chmod(0o700)
    made: list[str] = []

    def keep(name: str, content: str) -> str:
        path = directory / name
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444)
        except FileExistsError:
            return path.read_text(encoding="utf-8").strip()
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(f"{content}\n")
        path.chmod(0o444)  # whatever the umask
        made.append(name)
        return content

    password = keep("COLDFUSION_BROKER_PASSWORD", secrets.token_urlsafe(24))
    access_key = keep("COLDFUSION_S3_ACCESS_KEY", secrets.token_hex(10))
    secret_key = keep("COLDFUSION_S3_SECRET_KEY", secrets.token_urlsafe(30))
    keep("valkey_password.conf", f"requirepass {password}")
    identity = {
        "name": "coldfusion",
        "credentials": [{"accessKey": access_key, "secretKey": secret_key}],
        "actions": ["Admin"],
    }
    keep("s3.json", json.dumps({"identities": [identity]}))
    keep("grafana_password", secrets.token_urlsafe(18))
    return made


if __name__ == "__main__":
    main()
