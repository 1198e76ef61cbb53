"""``coldfusion gc``: what it says, and that a dry run leaves everything."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from coldfusion_queue.cli.main import cli
from coldfusion_queue.repository.repository import Repository
from tests.integration.leftovers import ATTEMPT, keys_of, put


@pytest.fixture
def doomed(repository: Repository) -> set[str]:
    return put(
        repository,
        f"contributions/x.t00001/{ATTEMPT}/head.safetensors",
        f"contributions/x.t00001/{ATTEMPT}/shared.safetensors",
    )


def run(*arguments: str) -> tuple[str, str]:
    result = CliRunner().invoke(cli, ["gc", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout, result.stderr


def test_a_dry_run_names_each_item_with_its_reason_and_leaves_it(
    repository: Repository, doomed: set[str]
) -> None:
    before = keys_of(repository)

    out, err = run("--dry-run", "--grace-seconds", "0")

    assert f"attempt  x.t00001/{ATTEMPT}: nobody committed it" in out
    assert out.splitlines()[-1].split() == ["attempt", "1", "2", "20", "bytes"]
    assert err == ""
    assert keys_of(repository) == before


def test_it_collects_and_warns_of_a_short_grace(repository: Repository, doomed: set[str]) -> None:
    before = keys_of(repository)

    out, err = run("--grace-seconds", "0")

    assert out.splitlines()[0].split() == ["gone", "items", "objects", "size"]
    assert "nothing else may run meanwhile" in err
    assert keys_of(repository) == before - doomed


def test_the_grace_is_the_settings(repository: Repository, doomed: set[str]) -> None:
    assert run() == ("nothing to collect\n", "")
    assert doomed <= keys_of(repository)


def test_json_has_totals_and_items(repository: Repository, doomed: set[str]) -> None:
    out, _ = run("--json", "--dry-run", "--grace-seconds", "0")

    data = json.loads(out)
    assert data["kinds"] == {"attempt": {"items": 1, "objects": 2, "bytes": 20}}
    assert {key.removeprefix(f"{repository.name}/") for key in data["items"][0]["keys"]} == doomed
