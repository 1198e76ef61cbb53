"""The auditor against the real store: a healthy repository, and each way to damage it."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner

from coldfusion_queue.audit import Check
from coldfusion_queue.cli.main import cli
from coldfusion_queue.errors import AuditFailedError, NotFoundError
from coldfusion_queue.repository.collecting import collect_garbage
from coldfusion_queue.repository.fusing import fuse_once
from coldfusion_queue.repository.policy import change_policy
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.repository.settling import settle
from coldfusion_queue.settings import Settings
from coldfusion_queue.store import Store
from tests.integration.audited import ATTEMPT, DAY, Bench, build
from tests.integration.conftest import Contribute
from tests.integration.damages import CASES, Case, Damage, delete, flip, garble, put, record


@pytest.fixture(scope="module")
def template() -> dict[str, bytes]:
    """Objects of a healthy repository; the first test fills it."""
    return {}


@pytest.fixture
def bench(
    template: dict[str, bytes],
    store: Store,
    settings: Settings,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> Bench:
    """A healthy repository with one of everything in it, made by the writer's own code."""
    bench = Bench(Repository(store, settings.repository), settings)
    if template:
        bench.load(template)
    else:
        request.getfixturevalue("repository")
        build(bench, request.getfixturevalue("contribute"), tmp_path)
        template.update(bench.dump())
    return bench


def test_a_healthy_repository_has_no_findings(bench: Bench) -> None:
    report = bench.audit()

    assert report.findings == ()
    assert report.num_entries == 6
    assert report.num_versions == 4
    assert report.num_contributions == 7
    assert report.num_submissions == 3
    assert report.num_datasets == 1
    assert report.num_digested == report.num_files > 10
    assert report.bytes_digested > 100_000


def test_a_repository_that_goes_on_from_there_is_healthy_too(bench: Bench) -> None:
    settle(bench.repository, bench.repository.ledger.newest())

    assert bench.audit().findings == ()


def test_what_the_garbage_collection_leaves_is_healthy(bench: Bench) -> None:
    change_policy(bench.repository, {"retain_base_versions": 1, "retain_contributions": 0})
    # Without its own grace: what bench has in flight, a checkpoint, is kept by its submission.
    collected = collect_garbage(bench.repository, -DAY)

    assert {"weights", "base_version"} <= {str(item.kind) for item in collected}
    assert bench.audit().findings == ()


def test_a_repository_in_use_has_no_findings(
    repository: Repository, contribute: Contribute, settings: Settings
) -> None:
    bench = Bench(repository, settings)

    def use() -> None:
        for number in range(8):
            contribute(f"user{number}", seed=number)
            fuse_once(repository, settings)

    with ThreadPoolExecutor(1) as user:
        using = user.submit(use)
        reports = []
        while not using.done():
            reports.append(bench.audit(DAY))
        using.result()

    assert [report.findings for report in reports] == [()] * len(reports)
    assert len({report.num_entries for report in reports}) > 2


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES])
def test_a_damage_is_found_by_its_check_alone(bench: Bench, case: Case) -> None:
    case.damage(bench)

    findings = bench.audit().findings

    assert {finding.check for finding in findings} == {case.check, case.also or case.check}


def test_every_check_has_a_damage() -> None:
    assert {case.check for case in CASES} == set(Check)


REFUSED = "contributions/bad.t00001/contribution.json"


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(put("inbox/late.t00001", b""), id="marker-of-a-late-duplicate"),
        pytest.param(put("inbox/carol.t00001", b""), id="marker-of-an-unsettled-contribution"),
        pytest.param(flip(r"contributions/bad\..*/shared\.safetensors"), id="refused-is-damaged"),
        pytest.param(delete(r"contributions/bad\..*/shared\.safetensors"), id="refused-is-gone"),
        pytest.param(record(REFUSED, base_version=9), id="refused-is-from-nowhere"),
        pytest.param(
            record("contributions/eve.t00001/contribution.json", base_version=9),
            id="pending-is-from-nowhere",
        ),
        pytest.param(put(".probe-0123"), id="trial-of-conditional-writes"),
        pytest.param(delete("open/alice"), id="failed-is-not-open"),
    ],
)
def test_what_the_protocol_allows_is_no_finding(bench: Bench, change: Damage) -> None:
    bench.repository.submissions.fail("alice", 3, ValueError())
    bench.put("open/alice")

    change(bench)

    assert bench.audit().findings == ()


def test_an_unreadable_contribution_is_no_finding_once_it_was_refused(bench: Bench) -> None:
    garble(REFUSED)(bench)

    assert bench.audit().findings == ()


@pytest.mark.parametrize(
    "path",
    [
        "inbox/frank.t00001",
        "open/frank",
        f"contributions/frank.t00001/{ATTEMPT}/shared.safetensors",
        f"base/000005-{ATTEMPT}/model.safetensors",
        f"checkpoints/alice.t00003/{'f' * 16}/checkpoint.safetensors",
        f"datasets/{'1' * 32}/train.parquet",
        "notes.txt",
    ],
)
def test_what_is_younger_than_the_grace_may_be_under_way(bench: Bench, path: str) -> None:
    bench.put(path)

    assert bench.audit(DAY).findings == ()
    assert len(bench.audit().findings) == 1


def test_without_digests_only_sizes_are_compared(bench: Bench) -> None:
    flip(r"base/000003-\w+/model\.safetensors")(bench)

    report = bench.audit(digests=False)

    assert report.findings == ()
    assert report.num_files > report.num_digested == report.bytes_digested == 0


def test_progress_is_told_every_byte_that_is_read(bench: Bench) -> None:
    pieces: list[int] = []

    report = bench.audit(progress=pieces.append)

    assert sum(pieces) == report.bytes_digested


def test_a_finding_says_what_was_got_and_what_was_expected(bench: Bench) -> None:
    key = bench.key(r"contributions/dave\.t00001/\w+/shared\.safetensors")
    size = bench.store.stat(key).num_bytes
    bench.store.put(key, b"short")

    (finding,) = bench.audit().findings

    assert (finding.check, finding.subject) == ("contributions.file", key)
    assert finding.problem == f"it has 5 bytes, expected {size}"


def test_a_repository_that_is_not_there_is_not_found(settings: Settings, store: Store) -> None:
    with pytest.raises(NotFoundError, match="repository 'repository-"):
        Bench(Repository(store, settings.repository), settings).audit()


# --- command ----------------------------------------------------------------------------------


def test_the_command_counts_what_it_checked(bench: Bench) -> None:
    done = CliRunner().invoke(cli, ["audit"], catch_exceptions=False)

    assert done.exit_code == 0
    assert "base versions                   4" in done.stdout
    assert "nothing is wrong" in done.stdout


def test_the_command_prints_findings_as_json_and_fails(bench: Bench) -> None:
    delete("inbox/eve.t00001")(bench)

    done = CliRunner().invoke(cli, ["audit", "--json", "--skip-digests"])

    document = json.loads(done.stdout)
    assert document["checked"]["files_digested"] == 0
    assert [(item["check"], item["subject"]) for item in document["findings"]] == [
        ("contributions.marker", "eve.t00001")
    ]
    assert isinstance(done.exception, AuditFailedError)
    assert done.exception.exit_code == 19
    assert "1 findings, expected none" in str(done.exception)


def test_the_command_prints_each_finding_on_a_line(bench: Bench) -> None:
    bench.put("notes.txt")

    done = CliRunner().invoke(cli, ["audit", "--grace-seconds", "86400"])
    assert done.exit_code == 0

    delete("inbox/eve.t00001")(bench)
    done = CliRunner().invoke(cli, ["audit"])
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("wrong")]
    assert line.split()[1:3] == ["contributions.marker", "eve.t00001:"]
