"""Minutes of chaos end in order: ``make soak`` runs the long one, every test run a short one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from coldfusion_queue.records import Policy
from tests.acceptance.own_servers import Servers
from tests.acceptance.soak import Size, Soak
from tests.acceptance.world import open_world
from tests.rows import rows, write_rows

SIZES = {
    "short": Size(
        submissions=12,
        workers=2,
        seconds=20,
        kill_every_seconds=2,
        outage_seconds=5,
        patience_seconds=240,
    ),
    "long": Size(
        submissions=200,
        workers=4,
        seconds=180,
        kill_every_seconds=2,
        outage_seconds=60,
        patience_seconds=900,
    ),
}

QUICK = {
    "COLDFUSION_LEASE_SECONDS": "6",
    "COLDFUSION_RECONCILE_INTERVAL_SECONDS": "1",
    "COLDFUSION_FUSION_INTERVAL_SECONDS": "1",
    "COLDFUSION_FUSION_LOCK_SECONDS": "6",
    "COLDFUSION_S3_MAX_ATTEMPTS": "3",
}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_everything_is_decided_once_after_minutes_of_chaos(
    tmp_path: Path, tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size = SIZES[os.environ.get("SOAK", "short")]
    seed = int(os.environ.get("SOAK_SEED", "20221201"))
    # All submit one dataset, which makes copies.
    policy = Policy(
        min_contributions=4, max_wait_seconds=5, max_contributions=16, max_copy_cosine=None
    )
    servers = Servers(tmp_path / "servers")
    try:
        with open_world(
            servers.variables, tmp_path / "world", tiny_model_dir, policy, **QUICK
        ) as world:
            first = world.submit(write_rows(world.data / "notes.jsonl", rows("single")))
            dataset_id = world.repository.submissions.get(first).dataset_id
            assert dataset_id is not None
            world.repository.submissions.cancel(first)

            report = Soak(world, servers, size, seed).run(dataset_id)
    finally:
        servers.close()

    with capsys.disabled():
        print("\n" + json.dumps({"benchmark": "soak", "seed": seed, **report}))
    assert sum(report["kills"].values()) > size.seconds / size.kill_every_seconds / 2
    assert report["ended_unasked"] == {}
    assert report["states"] == {"complete": size.submissions}
    assert (report["lost"], report["doubled"]) == (0, 0)
    assert (report["findings"], report["findings_after_collection"]) == (0, 0)
