"""Panels on what an iteration costs: the time of fusions, and bytes in the bucket."""

from __future__ import annotations

from coldfusion_queue.metrics import catalogue
from deploy.dashboards.board import Tile
from deploy.dashboards.panels import bars, lines
from deploy.dashboards.queries import Scope
from deploy.dashboards.shared import Query, Text
from deploy.dashboards.tables import Column, rows

__all__ = ["fusions", "storage"]


def fusions(here: Scope) -> list[Tile]:
    """What a fusion takes."""
    number = here.rate(catalogue.FUSION_DURATION, suffix="_count")
    seconds = here.rate(catalogue.FUSION_DURATION, suffix="_sum")
    phases = here.rate(catalogue.FUSION_PHASE, "phase", suffix="_sum")
    return [
        Tile(
            bars(
                Text(
                    "A fusion's wall time, by phase",
                    "The mean of the fusions in each step. `read` or `write` large: the store or "
                    "the network is slow; see the dashboard of queue and store. `compute` large: "
                    "more CPUs or `fusion.replicas`. `admit` large: many pending to inspect.",
                ),
                [Query(f"{phases} / on () group_left () {number}", "{{phase}}")],
                unit="s",
                every="15m",
                summary="mean",
            ),
            10,
        ),
        Tile(
            bars(
                Text(
                    "Fusions that ended",
                    "`lost`: another fuser was first, nothing is wrong. `failed`: the worker's "
                    "log has the reason, and the next one tries again.",
                    alert="ColdFusionNoFusion",
                ),
                [Query(here.grown(catalogue.FUSIONS, "outcome"), "{{outcome}}")],
                colors={
                    "committed": "green",
                    "candidate": "blue",
                    "lost": "yellow",
                    "failed": "red",
                },
            ),
            7,
        ),
        Tile(
            lines(
                Text(
                    "Bytes per second of a fusion",
                    "What fusions read and wrote, by their whole wall time. Far below what the "
                    "network gives: raise `COLDFUSION_FUSION_THREADS`, or see the store.",
                ),
                [
                    Query(f"{here.rate(catalogue.FUSION_READ)} / {seconds}", "read"),
                    Query(f"{here.rate(catalogue.FUSION_WRITTEN)} / {seconds}", "written"),
                ],
                unit="Bps",
                every="15m",
            ),
            7,
        ),
    ]


def storage(here: Scope) -> list[Tile]:
    """What is kept, and what is not."""
    stored = here.latest(catalogue.STORED_BYTES, "room")
    return [
        Tile(
            lines(
                Text(
                    "Stored in the bucket",
                    "By the first part of the keys, when garbage was collected last. It levels "
                    "off once the policy's `retain_base_versions` and `retain_contributions` are "
                    "reached; if it does not, `coldfusion gc --dry-run --verbose`.",
                    alert="ColdFusionBucketGrowth",
                ),
                [Query(stored, "{{room}}")],
                unit="bytes",
                stacked=True,
            ),
            10,
        ),
        Tile(
            rows(
                Text(
                    "What it is",
                    "Bytes, growth in this range, and objects of each room.",
                    alert="ColdFusionBucketGrowth",
                ),
                {"room": "room"},
                [
                    Column("bytes", stored, "bytes"),
                    Column("growth", f"delta(({stored})[$__range:1m])", "bytes"),
                    Column("objects", here.latest(catalogue.STORED_OBJECTS, "room"), "short"),
                ],
                order="bytes",
                empty="garbage was not collected yet",
            ),
            7,
        ),
        Tile(
            bars(
                Text(
                    "Collected as garbage",
                    "Bytes that fusion workers deleted. None for a day while the bucket grows: "
                    "`coldfusion gc --dry-run` says what would go, the worker's log why it does "
                    "not.",
                    alert="ColdFusionBucketGrowth",
                ),
                [Query(here.grown(catalogue.COLLECTED_BYTES), "collected")],
                unit="bytes",
                every="15m",
            ),
            7,
        ),
    ]
