"""The dashboard *Workers*: who is slow, what fails, and are the GPUs busy?"""

from __future__ import annotations

from coldfusion_queue.metrics import catalogue
from coldfusion_queue.overview import thresholds
from deploy.dashboards.board import Board, Row, Tile
from deploy.dashboards.devices import devices
from deploy.dashboards.panels import bars, lines, numbers
from deploy.dashboards.queries import Scope
from deploy.dashboards.shared import Query, Text
from deploy.dashboards.turns import endings, silence, turns

__all__ = ["workers_board"]

HERE = Scope(sites=True)
FAILED, OVER = "~failed|killed", "~committed|failed|killed"
FAULTS = "~worker_lost|retried|missing"


def workers_board() -> Board:
    """The dashboard of the workers that finetune and evaluate."""
    return Board(
        uid="coldfusion-workers",
        title="ColD Fusion: workers",
        description="Who is slow, what fails, and are the GPUs busy?",
        scope=HERE,
        since="now-6h",
        rows=[
            Row("Is it all right?", _state()),
            Row("Who is slow?", turns(HERE)),
            Row("What fails?", endings(HERE)),
            Row("Are the GPUs busy?", devices(HERE)),
            Row("How do evaluations go?", _evaluations()),
        ],
    )


def _state() -> list[Tile]:
    busy, idle = HERE.rate(catalogue.DEVICE_BUSY), HERE.rate(catalogue.DEVICE_IDLE)
    ended = HERE.grown(catalogue.FINETUNES, window="$__range", outcome=OVER)
    failed = HERE.grown(catalogue.FINETUNES, window="$__range", outcome=FAILED)
    panels = [
        numbers(
            Text(
                "Workers",
                "Workers that are there, by the queue that they take from. None of a queue that "
                "should have some: `kubectl get pods`; a pool that scales to zero has none "
                "while it has no work.",
                alert="ColdFusionWorkerLost",
            ),
            [Query(HERE.total(catalogue.WORKERS, "queue"), "{{queue}}")],
            unit="none",
            base="yellow",
            steps=[(1, "green")],
        ),
        numbers(
            Text(
                "Lost in the last hour",
                "Workers that fell silent without saying that they stop: killed, out of memory, "
                "or cut off. Their turns go on from the last checkpoint with another worker. "
                "`kubectl get events` says why.",
                alert="ColdFusionWorkerLost",
            ),
            [Query(HERE.total(catalogue.LOST_WORKERS), "Lost")],
            unit="none",
            base="green",
            steps=[(1, "red")],
        ),
        numbers(
            Text(
                "Devices busy",
                "Part of the time for which turns have the workers' devices. Low while turns "
                "wait: workers are stuck, see their logs. Low without work: fewer workers do.",
                alert="ColdFusionDeviceIdle",
            ),
            [Query(f"{busy} / ({busy} + {idle})", "Busy")],
            unit="percentunit",
            base="yellow",
            steps=[(0.5, "green")],
        ),
        numbers(
            Text(
                "Longest silence of a turn",
                "Time since the running turn that reported least recently did so, or began. "
                "Beyond five minutes: it loads a large dataset, or hangs. The table below says "
                "which; its log says what it does.",
            ),
            [Query(f"max({silence(HERE)})", "Silence")],
            unit="s",
            base="green",
            steps=[(300, "yellow"), (thresholds.SILENT_TURN_SECONDS, "red")],
            empty="none trains",
        ),
        numbers(
            Text(
                "Failed",
                "Part of the finetunes that ended in this range that failed or were killed. "
                "`coldfusion status --all` has the reason of each submission.",
                alert="ColdFusionFinetunesFailing",
            ),
            [Query(f"({failed} or vector(0)) / ({ended} > 0)", "Failed")],
            unit="percentunit",
            base="green",
            steps=[(0.05, "yellow"), (0.3, "red")],
            empty="none ended",
        ),
        numbers(
            Text(
                "Put back",
                "Turns and evaluations that were queued once more in this range, for an error, a "
                "lost worker or a lost message; what a rollout puts back is not counted. Below, "
                "see which.",
                alert="ColdFusionTasksRequeued",
            ),
            [Query(HERE.grown(catalogue.REQUEUES, window="$__range", reason=FAULTS), "Put back")],
            base="green",
            steps=[(4, "yellow"), (24, "red")],
            whole=True,
            empty="0",
        ),
    ]
    widths = (7, 3, 3, 4, 3, 4)
    return [Tile(panel, width, 4) for panel, width in zip(panels, widths, strict=True)]


def _evaluations() -> list[Tile]:
    return [
        Tile(
            bars(
                Text(
                    "Evaluations that ended, by outcome",
                    "`failed` is not tried again: see the evaluation worker's log, then "
                    "`coldfusion evaluate --again`. The gate waits for its own.",
                    alert="ColdFusionCandidateStuck",
                ),
                [Query(HERE.grown(catalogue.EVALUATIONS, "outcome"), "{{outcome}}")],
                colors={
                    "recorded": "green",
                    "duplicate": "blue",
                    "interrupted": "yellow",
                    "retried": "orange",
                    "dropped": "purple",
                    "failed": "red",
                },
            ),
            12,
        ),
        Tile(
            lines(
                Text(
                    "Time of an evaluation",
                    "What 95 of 100 stay below. Too long for the gate: fewer `gate_max_examples`, "
                    "or an evaluation worker with a GPU.",
                ),
                [
                    Query(
                        HERE.quantile(0.95, catalogue.EVALUATION_DURATION, "kind"),
                        "{{kind}}",
                    )
                ],
                unit="s",
                every="15m",
            ),
            12,
        ),
    ]
