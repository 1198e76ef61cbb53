"""The benchmarks still run, with small sizes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from coldfusion_queue.fusion.methods import METHODS

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> dict[str, Any]:
    """Run a benchmark and read the one line that it prints."""
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    (line,) = done.stdout.splitlines()
    report: dict[str, Any] = json.loads(line)
    return report


def test_the_bookkeeping_of_a_fusion_asks_for_no_more_than_its_floor() -> None:
    report = run("benchmarks.protocol", "--quick", "--repetitions", "1")

    assert report["benchmark"] == "protocol"
    assert report["ratio_100_to_10"] > 0
    small, large, fewer, control = report["results"]
    assert (small["decided"], large["decided"]) == (16, 104)
    assert small["requests"] == control["requests"]
    for result in report["results"]:
        requests, pending = result["requests"], result["pending"]
        assert requests["look"] == 2 * pending + 1
        assert requests["settle"] == 2 * 8 + 1
        assert requests["select"] == 1
        assert requests["newest"] <= 10
    assert (large["pending"], fewer["pending"]) == (20, 10)


def test_the_fusion_is_measured_against_its_floor() -> None:
    report = run("benchmarks.fusion", "--quick", "--repetitions", "1", "--contributions", "3")

    assert report["benchmark"] == "fusion"
    assert (report["contributions"], report["repetitions"]) == (3, 1)
    parts = {"get", "put", "both", "fuse", "shards", "many", "digest", "inspect", "torch"}
    assert set(report["seconds"]) - {"mergekit"} == parts
    assert all(seconds > 0 for each in report["seconds"].values() for seconds in each)
    assert report["shards"] > 1
    for ratio in (
        "shards_ratio",
        "ratio_to_floor",
        "ratio_to_overlapped_floor",
        "speedup_vs_torch",
    ):
        assert report[ratio] > 0
    assert set(METHODS) < set(report["method_ratio"]) == set(report["method_cpu_ratio"])
    assert all(ratio > 0 for ratio in report["method_ratio"].values())
    assert 0 < report["peak_rss_growth_mb"] < 400
    ratios = report["contribution_bytes_ratio"]
    assert ratios["float32"] == pytest.approx(1, abs=0.01)
    assert ratios["bfloat16"] == ratios["float16"] == pytest.approx(0.5, abs=0.01)
    assert ratios["quantised"] < 1 / 8


def test_low_rank_contributions_are_measured_against_float32() -> None:
    report = run("benchmarks.low_rank", "--quick", "--repetitions", "1", "--contributions", "3")

    assert report["benchmark"] == "low_rank"
    assert set(report["seconds"]) == {"float32", "8", "32"}
    assert all(ratio > 0 for ratio in report["seconds_ratio"].values())
    # 2 x 6 matrices of width 128, of a model that is mostly embeddings.
    assert 0 < report["bytes_ratio"]["8"] < 0.05
    assert report["bytes_ratio"]["32"] == pytest.approx(4 * report["bytes_ratio"]["8"], rel=0.1)


@pytest.mark.timeout(300)
def test_compact_contributions_are_measured_against_float32(tmp_path: Path) -> None:
    schemes = ("float32", "quantised")
    report = run("benchmarks.compact", "--quick", "--cache", str(tmp_path), "--schemes", *schemes)

    assert report["benchmark"] == "compact"
    plain, quantised = (report["schemes"][name] for name in schemes)
    assert plain["contribution_bytes_ratio"] == 1
    assert 0.09 < quantised["contribution_bytes_ratio"] < 0.1
    assert plain["rounds"][1]["sum_relative_error"] < 1e-3
    for course in (plain, quantised):
        assert len(course["rounds"]) == 2
        assert all(0 <= each["probe"] <= 100 for each in course["rounds"])
    assert all(1e-3 < each["relative_error"] < 0.3 for each in quantised["rounds"])


@pytest.mark.timeout(300)
def test_attacks_are_measured_and_the_blunt_ones_are_kept_out() -> None:
    report = run("benchmarks.attacks", "--quick")

    assert report["benchmark"] == "attacks"
    assert report["control"]["honest_refused"] == {}
    scaled, nan = (report["attacks"][name]["1"] for name in ("scaled_1e9", "nan"))
    assert list(scaled["attackers_refused"].values()) == ["relative_norm"]
    assert list(nan["attackers_refused"].values()) == ["finite"]
    assert scaled["honest_refused"] == nan["honest_refused"] == {}
    assert nan["methods"] == {"mean": "refused", "median": "refused"}
    assert scaled["methods"]["mean"]["damage"] > 1e6 > 10 > scaled["methods"]["median"]["damage"]


@pytest.mark.timeout(300)
def test_the_finetune_loop_is_measured_beside_the_trainer_of_transformers() -> None:
    report = run("benchmarks.finetune", "--quick")

    assert report["benchmark"] == "finetune"
    assert (report["seeds"], report["examples"]) == (1, 64)
    assert report["speedup"] > 0
    assert 0 < report["mfu_stock"] < 1.5
    assert 0 < report["mfu"] < 1.5
    assert 0 <= report["accuracy"] <= 100


@pytest.mark.timeout(300)
def test_the_idle_time_between_turns_is_measured() -> None:
    report = run("benchmarks.between", "--quick")

    assert report["benchmark"] == "between"
    result = report["results"]["two"]
    assert (result["turns"], result["overlaps"]) == (4, 0)
    assert result["busy_seconds_median"] > 0
    assert 0 < result["idle_share"] < 1


@pytest.mark.timeout(300)
def test_warm_heads_are_measured_against_fresh_ones() -> None:
    report = run("benchmarks.heads", "--quick")

    assert report["benchmark"] == "heads"
    warm, fresh = report["arms"]["warm"], report["arms"]["fresh"]
    assert [each["iteration"] for each in warm] == [each["iteration"] for each in fresh] == [1, 2]
    # The first turns are the same, because there is no head yet to go on with.
    assert warm[0]["accuracy"] == fresh[0]["accuracy"]
    assert warm[0]["accuracy_difference"] == [0, 0]
    assert warm[1]["delta_norm"] > 0
    assert 0 <= warm[1]["probe_unseen"] <= 100


def test_a_scrape_of_the_exporter_is_measured_against_its_floor() -> None:
    report = run("benchmarks.exporter", "--quick")

    assert report["benchmark"] == "exporter"
    (result,) = report["results"]
    assert (result["decided"], result["pending"]) == (160, 10)
    # Of the store: the newest entry and whether there is a next, three listings, its clock, the
    # candidate; now and then the evaluations. Of the broker: pools, sites, leases, all else at
    # once.
    assert 7 <= result["requests"]["store"] <= 8
    assert result["requests"]["broker"] == 4
    assert 0 < result["scrape_seconds"]["p50"] <= result["scrape_seconds"]["p95"] < 5
    assert result["floor_seconds"] > 0
    assert result["cpu_seconds"] > 0
    assert result["meanwhile_seconds"] < 5
