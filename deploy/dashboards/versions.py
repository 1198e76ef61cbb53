"""Panels on base versions: what they were made of, and whether they get better."""

from __future__ import annotations

from coldfusion_queue.metrics import catalogue
from coldfusion_queue.metrics.spec import Spec
from deploy.dashboards.board import Tile
from deploy.dashboards.panels import bars, lines, ranking
from deploy.dashboards.queries import Scope, grouped
from deploy.dashboards.shared import Query, Text
from deploy.dashboards.tables import Column, rows

__all__ = ["gate", "lineage", "quality"]


def lineage(here: Scope) -> Tile:
    """What each of the last versions was made of: the ledger, as far as Prometheus saw it."""
    newest = f'count_values("version", {here.latest(catalogue.BASE_VERSION)})'
    times = f"(time() + 0 * {newest})[$__range:1m]"

    def within(spec: Spec, *labels: str, suffix: str = "", **values: str) -> str:
        """How much a count grew while each version was the newest one: minute by minute."""
        series = here.select(spec, suffix, **values)
        now = f"max{grouped(labels)}({series})"
        before = f"max{grouped(labels)}(last_over_time({series}[5m] offset 1m))"
        return f"sum_over_time(({newest} * on () group_left () sum({now} - {before}))[$__range:1m])"

    fused = within(catalogue.CONTRIBUTIONS, "outcome", "rule", outcome="fused")
    others = within(catalogue.CONTRIBUTIONS, "outcome", "rule", outcome="~refused|expired")
    staleness = within(catalogue.STALENESS, suffix="_sum")
    number = within(catalogue.STALENESS, suffix="_count")
    return Tile(
        rows(
            Text(
                "Lineage of the last versions",
                "When each was published in this range, what was fused into it and refused with "
                "it, and how stale that was. Few fused: they were pending for too long, see the "
                "policy's `min_contributions`. Who they were of: `coldfusion show VERSION`.",
            ),
            {"version": "version"},
            [
                Column("published, ago", f"time() - min_over_time({times})", "s"),
                Column("newest for", f"max_over_time({times}) - min_over_time({times})", "s"),
                Column("fused", fused, "none"),
                Column("refused, expired", others, "none", "text", [(1, "yellow")]),
                Column("mean staleness", f"{staleness} / ({number} > 0)", "none"),
            ],
            order="published, ago",
            rising=True,
            empty="no version",
        ),
        14,
    )


def quality(here: Scope) -> list[Tile]:
    """How good each version is."""
    behind = (
        f"scalar({here.latest(catalogue.BASE_VERSION)}) - "
        f"{here.latest(catalogue.QUALITY_VERSION, 'name', 'kind')}"
    )
    score = here.latest(catalogue.QUALITY, "name", "kind")
    return [
        Tile(
            lines(
                Text(
                    "Quality over versions",
                    "Score of the newest evaluated version on each dataset; blue marks are new "
                    "versions. One dataset falls and the others rise: that is what fusing costs. "
                    "All fall: `coldfusion rollback VERSION`, then look into what was fused since.",
                    alert="ColdFusionQualityDrop",
                ),
                [Query(score, "{{name}} {{kind}}")],
                unit="none",
                stepped=True,
                bottom=None,
            ),
            14,
            10,
        ),
        Tile(
            rows(
                Text(
                    "Quality now",
                    "The scores, by how much they changed since the beginning of this range, and "
                    "how many versions have come since the one that was evaluated. Many: "
                    "`coldfusion evaluate --dataset NAME`.",
                    alert="ColdFusionQualityDrop",
                ),
                {"name": "dataset", "kind": "kind"},
                [
                    Column("score", score, "none"),
                    Column(
                        "change",
                        f"delta(({score})[$__range:1m]) and {score}",
                        "none",
                        "red",
                        [(-0.01, "text"), (0.01, "green")],
                    ),
                    Column("versions since", behind, "none", "text", [(5, "yellow")]),
                ],
                order="change",
                rising=True,
                empty="nothing was evaluated",
            ),
            10,
            10,
        ),
    ]


def gate(here: Scope) -> list[Tile]:
    """What was held back, undone, or moves the base too much."""
    return [
        Tile(
            lines(
                Text(
                    "Gate: scores of the published version",
                    "What the gate measured before it published. None if the policy has no "
                    "`gate_datasets`: then nothing keeps a bad fusion from being published.",
                ),
                [Query(here.latest(catalogue.GATE_SCORE, "name"), "{{name}}")],
                unit="none",
                stepped=True,
                bottom=None,
            ),
            8,
        ),
        Tile(
            bars(
                Text(
                    "Published, withheld, rolled back",
                    "Verdicts of the gate, and rollbacks. Withheld again and again: a contributor "
                    "harms the model and it is not found out who; `coldfusion history` has the "
                    "scores, `coldfusion policy --set gate_leave_out=true` tries without each.",
                ),
                [
                    Query(here.decided(catalogue.GATE_VERDICTS, "verdict"), "{{verdict}}"),
                    Query(here.decided(catalogue.ROLLBACKS), "rolled back"),
                ],
                colors={"published": "green", "withheld": "yellow", "rolled back": "red"},
            ),
            8,
        ),
        Tile(
            ranking(
                Text(
                    "Who moves the base: share of the last 16 fusions",
                    "Sum of each contributor's coefficients. One with more than half decides "
                    "alone where the model goes: `coldfusion policy --set balance=contributors`.",
                ),
                Query(here.latest(catalogue.CONTRIBUTOR_SHARE, "contributor"), "{{contributor}}"),
                unit="percentunit",
                steps=[(0.5, "yellow"), (0.8, "red")],
                top=1,
            ),
            8,
        ),
    ]
