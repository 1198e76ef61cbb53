"""Which rights at the store a site's worker needs: those of its policy, and no more."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import urllib3

from coldfusion_queue.queue import turns
from coldfusion_queue.records import Hyperparameters, SiteData
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.settings import Settings
from coldfusion_queue.store import Store, check_conditional_writes
from coldfusion_queue.turn import run_turn
from tests.acceptance.access import policy
from tests.acceptance.recording import Request, allows
from tests.integration.deliveries import open_bench
from tests.rows import rows, write_rows

SITE = "hospital-a"

#: What the policy calls what is asked of the store.
ACTIONS = {
    "read": "s3:GetObject",
    "write": "s3:PutObject",
    "delete": "s3:DeleteObject",
    "list": "s3:ListBucket",
}


class Requests:
    """What was asked of the store: reads, writes, deletions and listings, by key."""

    def __init__(self, bucket: str, prefix: str) -> None:
        self._bucket, self._prefix = bucket, prefix
        self.keys: dict[str, set[str]] = {"read": set(), "write": set(), "delete": set()}
        self.keys["list"] = set()

    def note(self, method: str, url: str, body: object) -> None:
        parts = urlsplit(url)
        query = parse_qs(parts.query, keep_blank_values=True)
        key = unquote(parts.path).removeprefix(f"/{self._bucket}").removeprefix("/")
        if key:
            kinds = {"GET": "read", "HEAD": "read", "PUT": "write", "POST": "write"}
            self._add(kinds.get(method, "delete"), key)
        elif "delete" in query:
            for name in re.findall(r"<Key>([^<]+)</Key>", bytes(body or b"").decode()):  # type: ignore[call-overload]
                self._add("delete", name)
        elif "prefix" in query:
            self._add("list", query["prefix"][0])

    def _add(self, kind: str, key: str) -> None:
        assert key.startswith(self._prefix), key
        self.keys[kind].add(key.removeprefix(self._prefix))


@pytest.fixture
def requests(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Requests]:
    noted = Requests(settings.s3_bucket, f"{settings.repository}/")
    urlopen: Callable[..., Any] = urllib3.PoolManager.urlopen

    def note(pool: urllib3.PoolManager, method: str, url: str, *rest: Any, **options: Any) -> Any:
        noted.note(method, url, options.get("body"))
        return urlopen(pool, method, url, *rest, **options)

    monkeypatch.setattr(urllib3.PoolManager, "urlopen", note)
    return noted


def test_a_sites_worker_asks_the_store_for_no_more_than_its_policy_says(
    repository: Repository,
    settings: Settings,
    requests: Requests,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Given one submission of good data and one of bad
    write_rows(tmp_path / "good.jsonl", rows("single"))
    (tmp_path / "bad.jsonl").write_text("{")
    at_site = settings.model_copy(
        update={"site": SITE, "site_data_dir": tmp_path, "checkpoint_seconds": 1e-9}
    )
    bench = open_bench(repository, at_site, monkeypatch)
    bench.queue = f"finetune.{SITE}"
    monkeypatch.setattr(turns, "run_turn", run_turn)
    quick = Hyperparameters(epochs=1, batch_size=8, max_length=16)
    for name in ("good", "bad"):
        repository.submissions.create(
            name,
            dataset_id=None,
            turns=2,
            hyperparameters=quick,
            submission_id=name,
            site_data=SiteData(site=SITE, path=f"{name}.jsonl"),
        )
    for found in requests.keys.values():
        found.clear()

    # When the worker starts, and runs what there is to run
    check_conditional_writes(Store.open(at_site), f"{repository.name}/")
    for name, num_turns in (("good", 2), ("bad", 1)):
        bench.process.sender(repository.name).send(name, 1, SITE)
        for _ in range(num_turns):
            assert bench.deliver() == "SUCCESS"

    asked = {kind: set(keys) for kind, keys in requests.keys.items()}

    # Then
    states = [
        item.state for item in map(repository.submissions.status, repository.submissions.all())
    ]
    assert sorted(states) == ["complete", "failed"]
    own = policy("site", settings.s3_bucket, settings.repository)
    bucket = f"arn:aws:s3:::{settings.s3_bucket}"
    for kind, action in ACTIONS.items():
        assert asked[kind]
        beyond = set()
        for key in asked[kind]:
            whole = f"{settings.repository}/{key}"
            resource, prefix = (bucket, whole) if kind == "list" else (f"{bucket}/{whole}", None)
            if not allows(own, Request(action, resource, prefix)):
                beyond.add(key)
        assert beyond == set(), kind
