"""Panels on contributions: what was decided on them, and what they are like."""

from __future__ import annotations

from coldfusion_queue.metrics import catalogue
from coldfusion_queue.metrics.spec import Spec
from deploy.dashboards.board import Tile
from deploy.dashboards.panels import bars, heat, ranking
from deploy.dashboards.queries import Scope
from deploy.dashboards.shared import Query, Text

__all__ = ["decisions", "distributions"]

OUTCOMES = {"fused": "green", "refused": "red", "expired": "yellow"}


def decisions(here: Scope) -> list[Tile]:
    """What became of contributions."""
    decided = here.decided(catalogue.CONTRIBUTIONS, "outcome", "rule")
    refused = here.decided_in_range(catalogue.CONTRIBUTIONS, "rule", outcome="refused")
    return [
        Tile(
            bars(
                Text(
                    "Contributions that were decided",
                    "Exact, from the ledger. Expired ones were too stale by the policy's "
                    "`max_staleness`: workers are slow, or fusions too frequent. Those fused by "
                    "an operator's word exceed a limit and are among the fused.",
                    alert="ColdFusionRefusalsRising",
                ),
                [
                    Query(f"sum by (outcome) ({decided})", "{{outcome}}"),
                ],
                colors=OUTCOMES,
            ),
            10,
        ),
        Tile(
            ranking(
                Text(
                    "Refused in this range, by rule",
                    "docs/fusion.md has the rules. `file` and `record`: storage or an attack. "
                    "`model`: a client of another base. `finite`: a finetune that diverged. "
                    "Norms and cosines: learning rate or data of one contributor; see who with "
                    "`coldfusion history`, and if it is right, `coldfusion contribute --override`.",
                    alert="ColdFusionRefusalsRising",
                ),
                Query(f"({refused}) > 0", "{{rule}}"),
                unit="none",
                steps=[(5, "yellow")],
            ),
            7,
        ),
        Tile(
            bars(
                Text(
                    "Fused by an operator's word",
                    "Contributions that exceed a limit and were fused with `--override`. Each is "
                    "a decision of a person: `coldfusion history` has the reason.",
                ),
                [Query(here.decided(catalogue.OVERRIDES), "overridden")],
                colors={"overridden": "orange"},
            ),
            7,
        ),
    ]


def distributions(here: Scope) -> list[Tile]:
    """What they are like."""

    def of(spec: Spec) -> str:
        others = [name for name in spec.labels if name != "repository"]
        each = here.decided(spec, "le", *others, suffix="_bucket")
        return f"sum by (le) ({each})" if others else each

    return [
        Tile(
            heat(
                Text(
                    "Staleness of what was fused",
                    "How many versions were published while it was trained. If it rises, turns "
                    "are slower than fusions: more workers, or a larger `min_contributions`.",
                ),
                of(catalogue.STALENESS),
                unit="none",
            ),
            8,
        ),
        Tile(
            heat(
                Text(
                    "Norm of updates, as a multiple of the base",
                    "Of all that was decided. Most are of one size; one that is ten times as long "
                    "pulls the model to itself, and is refused by `relative_norm` or `norm_z`.",
                    alert="ColdFusionRefusalsRising",
                ),
                of(catalogue.RELATIVE_NORM),
                unit="none",
            ),
            8,
        ),
        Tile(
            heat(
                Text(
                    "Cosine of updates to the others'",
                    "Around 0 and above is ordinary for different tasks. Below zero works "
                    "against the others: refused by `cosine`. Near 1 is a copy: refused by `copy`.",
                    alert="ColdFusionRefusalsRising",
                ),
                of(catalogue.COSINE),
                unit="none",
            ),
            8,
        ),
    ]
