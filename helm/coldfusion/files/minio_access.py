"""Makes the users of an embedded MinIO and what each may do; every run sets all of it anew.

``python minio_access.py``: policies are read from ``/policies/<role>.json``, keys from
``/credentials/<role>-s3-access-key`` and ``-s3-secret-key``, root's from ``/credentials`` too.
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import urllib3
from minio import MinioAdmin
from minio.credentials import StaticProvider

POLICIES = Path("/policies")
CREDENTIALS = Path("/credentials")


def main() -> None:
    """Policies first, then users, then who has which."""
    scheme, _, address = os.environ["COLDFUSION_S3_ENDPOINT"].partition("://")
    authority = os.environ.get("COLDFUSION_S3_CA_FILE")
    context = ssl.create_default_context(cafile=authority)
    admin = MinioAdmin(
        endpoint=address,
        credentials=StaticProvider(
            _credential("store-root-user"), _credential("store-root-password")
        ),
        secure=scheme == "https",
        http_client=urllib3.PoolManager(ssl_context=context),
    )
    for path in sorted(POLICIES.glob("*.json")):
        role = path.stem
        user = _credential(f"{role}-s3-access-key")
        admin.policy_add(f"coldfusion-{role}", path)
        admin.user_add(user, _credential(f"{role}-s3-secret-key"))
        admin.policy_set(f"coldfusion-{role}", user=user)
        print(f"{role}: user and policy are set")


def _credential(name: str) -> str:
    return (CREDENTIALS / name).read_text(encoding="utf-8")


if __name__ == "__main__":
    main()
