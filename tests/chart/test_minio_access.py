"""What the job that makes the users of an embedded MinIO asks of it; there is no MinIO here."""

from __future__ import annotations

import importlib.util
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.chart.rendering import CHART

ROLES = ("finetune", "fusion")


class _Admin(BaseHTTPRequestHandler):
    """Says yes to everything, and remembers what it was asked."""

    server: Any

    def log_message(self, *_: object) -> None:
        pass

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.server.asked.append((parts.path.rpartition("/")[2], query, body))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture
def minio() -> Iterator[Any]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Admin) as server:
        server.asked = []  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()


def test_each_role_has_a_user_with_its_policy(
    minio: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policies, credentials = tmp_path / "policies", tmp_path / "credentials"
    policies.mkdir()
    credentials.mkdir()
    for name in ("store-root-user", "store-root-password"):
        (credentials / name).write_text("root-of-it")
    for role in ROLES:
        (policies / f"{role}.json").write_text(json.dumps({"Statement": [role]}))
        (credentials / f"{role}-s3-access-key").write_text(f"key-of-{role}")
        (credentials / f"{role}-s3-secret-key").write_text(f"secret-of-{role}")
    spec = importlib.util.spec_from_file_location("access", CHART / "files" / "minio_access.py")
    assert spec is not None
    assert spec.loader is not None
    access = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(access)
    monkeypatch.setattr(access, "POLICIES", policies)
    monkeypatch.setattr(access, "CREDENTIALS", credentials)
    monkeypatch.setenv("COLDFUSION_S3_ENDPOINT", f"http://127.0.0.1:{minio.server_port}")

    access.main()

    asked = [(name, query) for name, query, _ in minio.asked]
    for role in ROLES:
        policy, user = f"coldfusion-{role}", f"key-of-{role}"
        at = [
            asked.index(("add-canned-policy", {"name": policy})),
            asked.index(("add-user", {"accessKey": user})),
        ]
        (attached,) = (
            number
            for number, (name, query) in enumerate(asked)
            if name == "set-user-or-group-policy" and query["userOrGroup"] == user
        )
        assert asked[attached][1]["policyName"] == policy
        assert at == sorted(at)
        assert at[-1] < attached
    bodies = [body for name, _, body in minio.asked if name == "add-canned-policy"]
    assert [json.loads(body)["Statement"] for body in bodies] == [[role] for role in ROLES]
    assert not any(b"secret-of" in body for _, _, body in minio.asked)  # they travel encrypted
