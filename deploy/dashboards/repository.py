"""The dashboard *Repository*: is the base getting better, and what goes into it?"""

from __future__ import annotations

from coldfusion_queue.metrics import catalogue
from coldfusion_queue.metrics.spec import Spec
from deploy.dashboards.board import Board, Row, Tile
from deploy.dashboards.panels import (
    Column,
    Query,
    Text,
    bars,
    heat,
    lines,
    numbers,
    ranking,
    rows,
    timeline,
)
from deploy.dashboards.queries import WINDOW, Scope

__all__ = ["repository_board"]

HERE = Scope(sites=False)
OUTCOMES = {"fused": "green", "refused": "red", "expired": "yellow"}

ALERTS = 'alertname=~"ColdFusion.*", repository=~"$repository|"'


def repository_board() -> Board:
    """The dashboard of one repository."""
    return Board(
        uid="coldfusion-repository",
        title="ColD Fusion: repository",
        description="Is the base getting better, what goes into it, and what does it cost?",
        scope=HERE,
        since="now-24h",
        rows=[
            Row("Is it all right?", [*_state(), *_history()]),
            Row("Is the base getting better?", [*_quality(), *_gate()]),
            Row("What is refused, and why?", [*_decisions(), *_distributions()]),
            Row("What does an iteration cost?", [*_fusions(), *_storage()]),
        ],
    )


def _state() -> list[Tile]:
    waited = HERE.latest(catalogue.PENDING_AGE)
    limit = HERE.latest(catalogue.POLICY_MAX_WAIT)
    refused = HERE.decided(
        catalogue.CONTRIBUTIONS, "outcome", "rule", window="$__range", outcome="refused"
    )
    all_decided = HERE.decided(catalogue.CONTRIBUTIONS, "outcome", "rule", window="$__range")
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
                "Published",
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
                "Oldest waits, of its limit",
                "Age of the oldest pending contribution, as a part of the policy's "
                "`max_wait_seconds`, after which it is fused whatever else is there. Beyond twice "
                "that no fusion runs: look at the fusion worker's log.",
                alert="ColdFusionPendingTooOld",
            ),
            [Query(f"{waited} / clamp_min({limit}, 60)", "Waited")],
            unit="percentunit",
            base="green",
            steps=[(1.2, "yellow"), (2, "red")],
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
            steps=[(0.05, "yellow"), (0.25, "red")],
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


def _history() -> list[Tile]:
    since = f"(time() - ALERTS_FOR_STATE{{{ALERTS}}})"
    firing = f'ALERTS{{{ALERTS}, alertstate="firing"}}'
    return [
        Tile(
            timeline(
                Text(
                    "Lineage: versions that were published and evaluated",
                    "Each block is a version, from when it was published to when the next one was. "
                    "An evaluation that lags by many versions says little of the newest: "
                    "`coldfusion evaluate`. What went into a version: `coldfusion show VERSION`.",
                ),
                [
                    Query(HERE.latest(catalogue.BASE_VERSION), "published"),
                    Query(HERE.latest(catalogue.QUALITY_VERSION), "evaluated"),
                ],
            ),
            14,
            6,
        ),
        Tile(
            rows(
                Text(
                    "Alerts that fire",
                    "Each has a section in docs/runbook.md by its name. It is empty as well when "
                    "this Prometheus has no rules of the chart.",
                ),
                {
                    "alertname": "alert",
                    "severity": "severity",
                    "site": "site",
                    "queue": "queue",
                },
                [Column("for", f"{since} and ignoring (alertstate) {firing}", "s")],
                order="for",
                empty="none fires",
            ),
            10,
            6,
        ),
    ]


def _quality() -> list[Tile]:
    behind = (
        f"scalar({HERE.latest(catalogue.BASE_VERSION)}) - "
        f"{HERE.latest(catalogue.QUALITY_VERSION, 'dataset', 'kind')}"
    )
    score = HERE.latest(catalogue.QUALITY, "dataset", "kind")
    before = f"max by (dataset, kind) ({HERE.select(catalogue.QUALITY)} offset $__range)"
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
                [Query(score, "{{dataset}} {{kind}}")],
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
                {"dataset": "dataset", "kind": "kind"},
                [
                    Column("score", score, "none"),
                    Column(
                        "change",
                        f"{score} - {before}",
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


def _gate() -> list[Tile]:
    return [
        Tile(
            lines(
                Text(
                    "Gate: scores of the published version",
                    "What the gate measured before it published. None if the policy has no "
                    "`gate_datasets`: then nothing keeps a bad fusion from being published.",
                ),
                [Query(HERE.latest(catalogue.GATE_SCORE, "dataset"), "{{dataset}}")],
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
                    Query(HERE.decided(catalogue.GATE_VERDICTS, "verdict"), "{{verdict}}"),
                    Query(HERE.decided(catalogue.ROLLBACKS), "rolled back"),
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
                Query(HERE.latest(catalogue.CONTRIBUTOR_SHARE, "contributor"), "{{contributor}}"),
                unit="percentunit",
                steps=[(0.5, "yellow"), (0.8, "red")],
                top=1,
            ),
            8,
        ),
    ]


def _decisions() -> list[Tile]:
    decided = HERE.decided(catalogue.CONTRIBUTIONS, "outcome", "rule")
    refused = HERE.decided(catalogue.CONTRIBUTIONS, "rule", window="$__range", outcome="refused")
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
                [Query(HERE.decided(catalogue.OVERRIDES), "overridden")],
                colors={"overridden": "orange"},
            ),
            7,
        ),
    ]


def _distributions() -> list[Tile]:
    def of(spec: Spec) -> str:
        others = [name for name in spec.labels if name != "repository"]
        each = HERE.decided(spec, "le", *others, window=WINDOW, suffix="_bucket")
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


def _fusions() -> list[Tile]:
    number = HERE.rate(catalogue.FUSION_DURATION, suffix="_count")
    seconds = HERE.rate(catalogue.FUSION_DURATION, suffix="_sum")
    phases = HERE.rate(catalogue.FUSION_PHASE, "phase", suffix="_sum")
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
                [Query(HERE.grown(catalogue.FUSIONS, "outcome"), "{{outcome}}")],
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
                    Query(f"{HERE.rate(catalogue.FUSION_READ)} / {seconds}", "read"),
                    Query(f"{HERE.rate(catalogue.FUSION_WRITTEN)} / {seconds}", "written"),
                ],
                unit="Bps",
                every="15m",
            ),
            7,
        ),
    ]


def _storage() -> list[Tile]:
    stored = HERE.latest(catalogue.STORED_BYTES, "room")
    before = f"max by (room) ({HERE.select(catalogue.STORED_BYTES)} offset $__range)"
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
                    Column("growth", f"{stored} - {before}", "bytes"),
                    Column("objects", HERE.latest(catalogue.STORED_OBJECTS, "room"), "short"),
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
                [Query(HERE.grown(catalogue.COLLECTED_BYTES), "collected")],
                unit="bytes",
                every="15m",
            ),
            7,
        ),
    ]
