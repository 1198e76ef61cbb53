"""The dashboard *Repository*: is the base getting better, and what goes into it?"""

from __future__ import annotations

from coldfusion_queue.metrics import catalogue
from coldfusion_queue.overview import thresholds
from deploy.dashboards.board import Board, Row, Tile
from deploy.dashboards.contributions import decisions, distributions
from deploy.dashboards.costs import fusions, storage
from deploy.dashboards.panels import numbers
from deploy.dashboards.queries import Scope
from deploy.dashboards.shared import Query, Text
from deploy.dashboards.tables import Column, rows
from deploy.dashboards.versions import gate, lineage, quality

__all__ = ["repository_board"]

HERE = Scope(sites=False)
ALERTS = 'alertname=~"ColdFusion.*", repository=~"$repository|", namespace=~"$namespace|"'


def repository_board() -> Board:
    """The dashboard of one repository."""
    return Board(
        uid="coldfusion-repository",
        title="ColD Fusion: repository",
        description="Is the base getting better, what goes into it, and what does it cost?",
        scope=HERE,
        since="now-24h",
        rows=[
            Row("Is it all right?", [*_state(), lineage(HERE), _alerts()]),
            Row("Is the base getting better?", [*quality(HERE), *gate(HERE)]),
            Row("What is refused, and why?", [*decisions(HERE), *distributions(HERE)]),
            Row("What does an iteration cost?", [*fusions(HERE), *storage(HERE)]),
        ],
    )


def _state() -> list[Tile]:
    waited = HERE.latest(catalogue.PENDING_AGE)
    limit = HERE.latest(catalogue.POLICY_MAX_WAIT)
    refused = HERE.decided_in_range(catalogue.CONTRIBUTIONS, "outcome", "rule", outcome="refused")
    all_decided = HERE.decided_in_range(catalogue.CONTRIBUTIONS, "outcome", "rule")
    panels = [
        numbers(
            Text(
                "Store and broker",
                "Whether the exporter could read both. If not, what it could not read is missing "
                "below: `coldfusion doctor` says which of them it is, and why. Nothing is lost.",
                alert="ColdFusionUnreachable",
            ),
            [Query(f"min({HERE.select(catalogue.UP)})", "Up")],
            words={"0": ("unreachable", "red"), "1": ("answer", "green")},
            empty="no exporter",
        ),
        numbers(
            Text(
                "Base version",
                "The newest published version, and the newest entry of the ledger. The entry "
                "grows and the version does not? Then contributions are refused or models "
                "withheld: `coldfusion history`.",
            ),
            [
                Query(HERE.latest(catalogue.BASE_VERSION), "version"),
                Query(HERE.latest(catalogue.LEDGER_SEQUENCE), "ledger entry"),
            ],
            unit="none",
        ),
        numbers(
            Text(
                "Published, ago",
                "Time since the newest version was published. It is bad only while enough is "
                "pending: see the next two.",
                alert="ColdFusionNoFusion",
            ),
            [Query(f"min({HERE.select(catalogue.BASE_VERSION_AGE)})", "Age")],
            unit="s",
        ),
        numbers(
            Text(
                "Pending",
                "Contributions that wait to be fused, and how many make a fusion. More than that "
                "for long: see whether the fusion worker and beat run, `coldfusion status`.",
                alert="ColdFusionNoFusion",
            ),
            [
                Query(HERE.latest(catalogue.PENDING), "pending"),
                Query(HERE.latest(catalogue.POLICY_MIN_CONTRIBUTIONS), "needed"),
            ],
            unit="none",
        ),
        numbers(
            Text(
                "Oldest wait / limit",
                "Age of the oldest pending contribution, as a part of the policy's "
                "`max_wait_seconds`, after which it is fused whatever else is there. Beyond twice "
                "that no fusion runs: look at the fusion worker's log.",
                alert="ColdFusionPendingTooOld",
            ),
            [Query(f"{waited} / clamp_min({limit}, 60)", "Waited")],
            unit="percentunit",
            base="green",
            steps=[(1.2, "yellow"), (thresholds.PENDING_FACTOR, "red")],
        ),
        numbers(
            Text(
                "Refused",
                "Part of the contributions decided in this range that was refused. Below, see by "
                "which rule; `coldfusion history` names them and their contributors.",
                alert="ColdFusionRefusalsRising",
            ),
            [Query(f"sum({refused}) / (sum({all_decided}) > 0)", "Refused")],
            unit="percentunit",
            base="green",
            steps=[(0.05, "yellow"), (thresholds.REFUSED_SHARE, "red")],
            empty="none decided",
        ),
        numbers(
            Text(
                "Gate",
                "Whether a fused model waits to be judged. For long: see whether an evaluation "
                "worker runs, and whether its probes fail, on the dashboard of the workers.",
                alert="ColdFusionCandidateStuck",
            ),
            [Query(HERE.latest(catalogue.CANDIDATE_WAITING), "Candidate")],
            words={"0": ("free", "green"), "1": ("judges", "blue")},
        ),
        numbers(
            Text(
                "Program",
                "Version of the exporter. Two of them are a rollout; if that does not end, see "
                "`kubectl rollout status`.",
            ),
            [Query(f"count by (version) ({HERE.select(catalogue.BUILD)})", "{{version}}")],
            names=True,
        ),
    ]
    return [Tile(panel, 3, 4) for panel in panels]


def _alerts() -> Tile:
    since = f"(time() - ALERTS_FOR_STATE{{{ALERTS}}})"
    firing = f'ALERTS{{{ALERTS}, alertstate="firing"}}'
    return Tile(
        rows(
            Text(
                "Alerts that fire",
                "Each has a section in docs/runbook.md by its name. It is empty as well when "
                "this Prometheus has no rules of the chart.",
            ),
            {"alertname": "alert", "severity": "severity", "site": "site", "queue": "queue"},
            [Column("for", f"{since} and ignoring (alertstate) {firing}", "s")],
            order="for",
            empty="none fires",
        ),
        10,
    )
