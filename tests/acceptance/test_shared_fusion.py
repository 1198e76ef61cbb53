"""A base model of several files, from ``init`` to ``pull``, fused by two workers together."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from coldfusion_queue.audit import audit
from coldfusion_queue.crash_points import CrashPoint
from tests.acceptance.conftest import MakeWorld
from tests.acceptance.world import World, eventually
from tests.injector import Injector
from tests.rows import rows, write_rows

pytestmark = pytest.mark.slow

_EPOCH = ("--set", "epochs=1", "--set", "batch_size=8", "--wait")


@pytest.fixture(scope="module")
def world(make_empty_world: MakeWorld, tiny_model_dir: Path, injector: Injector) -> Iterator[World]:
    variables = {
        "COLDFUSION_FUSION_SHARE_BYTES": "0",
        "COLDFUSION_FUSION_LOCK_SECONDS": "1",
        "COLDFUSION_FUSION_INTERVAL_SECONDS": "0.5",
        "COLDFUSION_RECONCILE_INTERVAL_SECONDS": "0.5",
        "COLDFUSION_LEASE_SECONDS": "3",
    }
    with make_empty_world(**variables) as opened:
        done = opened.run(
            *("coldfusion", "init", "--base", tiny_model_dir, "--max-shard-size", "20KB"),
            *("--set", "min_contributions=2", "--set", "method=ties"),
        )
        assert done.code == 0, done.err
        opened.start_warm("finetune_worker", "finetune0")
        opened.start_warm("beat")
        yield opened


def test_two_workers_fuse_what_two_contributed(
    world: World, injector: Injector, tmp_path: Path
) -> None:
    from transformers import AutoModel

    # Given a worker that dies in its first piece, and one that is there when it is gone
    injector.arm(CrashPoint.SHARE_KEPT, "kill")
    world.start_warm("fusion_worker", "fusion0", INJECTOR_DIRECTORY=str(injector.directory))
    names = []
    for seed in range(2):
        data = write_rows(world.data / f"notes{seed}.jsonl", rows("single", seed=seed))
        names.append(world.submit(data, *_EPOCH))
    eventually(lambda: not world.runs("fusion0"), 60)

    # When two others take over
    for name in ("fusion1", "fusion2"):
        world.start_warm("fusion_worker", name)
    world.wait_complete(*names)

    # Then the version is whole, shared, and loads as transformers loads shards
    base = world.repository.ledger.base_version(1)
    assert len(base.model_files) > 2
    assert {line.contribution_id for line in base.fused} == {f"{name}.t00001" for name in names}
    helped = [
        event.get("pieces", 0)
        for name in ("fusion1", "fusion2")
        for event in world.events(name)
        if event.get("event") == "fusion_helped"
    ]
    assert sum(helped) > 0, helped
    pulled = tmp_path / "pulled"
    assert world.run("coldfusion", "pull", pulled).code == 0
    index = json.loads((pulled / "model.safetensors.index.json").read_text(encoding="utf-8"))
    assert set(index["weight_map"].values()) == set(base.model_names)
    model, info = AutoModel.from_pretrained(pulled, output_loading_info=True)
    assert not info["missing_keys"]
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    assert audit(world.settings, world.repository.name).findings == ()


def test_a_model_from_elsewhere_is_compared_to_all_shards(world: World, tmp_path: Path) -> None:
    from transformers import AutoModel

    base = tmp_path / "base"
    assert world.run("coldfusion", "pull", base).code == 0
    model = AutoModel.from_pretrained(base)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1e-3
    model.save_pretrained(tmp_path / "finetuned")

    done = world.run(
        "coldfusion", "contribute", tmp_path / "finetuned", "--base-version", "1", "--json"
    )

    assert done.code == 0, done.err
    assert done.json()["contribution"].endswith(".t00001")


@pytest.mark.parametrize("size", ["5", "0GB", "lots", "5 GiB", "-1GB"])
def test_a_shard_size_that_is_none_costs_nothing(
    size: str, make_empty_world: MakeWorld, tiny_model_dir: Path
) -> None:
    with make_empty_world() as empty:
        done = empty.run_warm("init", "--base", tiny_model_dir, f"--max-shard-size={size}")

    assert done.code == 2
    assert "--max-shard-size" in done.err
