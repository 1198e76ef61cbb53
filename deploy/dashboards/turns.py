"""Panels on turns: those that train now, and those that ended."""

from __future__ import annotations

from coldfusion_queue.metrics import catalogue
from coldfusion_queue.overview import thresholds
from deploy.dashboards.board import Tile
from deploy.dashboards.panels import bars, lines
from deploy.dashboards.queries import Scope, by_worker
from deploy.dashboards.shared import Query, Text
from deploy.dashboards.tables import Column, rows

__all__ = ["endings", "silence", "turns"]

ENDINGS = {
    "committed": "green",
    "duplicate": "blue",
    "superseded": "light-blue",
    "cancelled": "purple",
    "interrupted": "yellow",
    "retried": "orange",
    "failed": "red",
    "killed": "dark-red",
}


def running(here: Scope) -> str:
    """When each turn that trains now began."""
    return f"{here.select(catalogue.TURN_STARTED)} > 0"


def silence(here: Scope) -> str:
    """Seconds since each running turn said something; what one before it said does not count."""
    started = here.select(catalogue.TURN_STARTED)
    reported = here.select(catalogue.TURN_REPORTED)
    return f"time() - (({reported} > {started} or {started}) and {running(here)})"


def turns(here: Scope) -> list[Tile]:
    """What trains now, how long finetunes take, and what begins again."""
    runs = running(here)

    def each(expression: str) -> str:
        return f"max by (worker, site) ({by_worker(expression)})"

    started = here.select(catalogue.TURN_STARTED)
    progress = here.select(catalogue.TURN_PROGRESS)
    reports = f"{here.select(catalogue.TURN_REPORTED)} > {started} and {runs}"
    done = f"{progress} and {reports}"
    late = [(300, "yellow"), (thresholds.SILENT_TURN_SECONDS, "red")]
    left = f"(time() - {started}) * (1 / ({progress} > 0) - 1) and {reports}"
    return [
        Tile(
            rows(
                Text(
                    "Turns that train now",
                    "The slowest first. A straggler has much time left while others are done, "
                    "at the pace so far; a silent one may hang. What it is of: `coldfusion "
                    "status`. To take it away, end the worker with SIGTERM: another one goes on "
                    "from a checkpoint.",
                ),
                {"worker": "worker", "site": "site"},
                [
                    Column("runs for", each(f"time() - ({runs})"), "s"),
                    Column("done", each(done), "percentunit"),
                    Column("left", each(left), "s", "text", [(3600, "yellow")]),
                    Column("silent for", each(silence(here)), "s", "green", late),
                    Column("loss", each(f"{here.select(catalogue.LOSS)} and {reports}"), "none"),
                ],
                order="left",
                empty="none trains",
            ),
            14,
        ),
        Tile(
            lines(
                Text(
                    "Time of a finetune",
                    "Wall time, downloads and upload included: the middle one, and what 95 of 100 "
                    "stay below. The two far apart: some workers or datasets are slow; a long "
                    "tail makes contributions stale.",
                ),
                [
                    Query(here.quantile(0.5, catalogue.FINETUNE_DURATION), "the middle one"),
                    Query(here.quantile(0.95, catalogue.FINETUNE_DURATION), "95 of 100"),
                ],
                unit="s",
                every="15m",
            ),
            10,
        ),
        Tile(
            lines(
                Text(
                    "Progress of turns",
                    "Part of its steps that each running turn has done. A flat line is a turn "
                    "that hangs; one with a small slope is a straggler.",
                ),
                [Query(by_worker(done), "{{worker}}")],
                unit="percentunit",
                top=1,
                last="1h",
            ),
            12,
        ),
        Tile(
            bars(
                Text(
                    "Put back on the queue, and gone on with",
                    "`interrupted`: told to stop, with a checkpoint. `passed_on`: prepared, but "
                    "the device stayed busy. Both are ordinary. `retried`: an error that may pass. "
                    "`worker_lost`: killed. `missing`: the broker lost it. These again and again "
                    "are a fault: see the workers' logs, `kubectl get events`, and the broker.",
                    alert="ColdFusionTasksRequeued",
                ),
                [
                    Query(here.grown(catalogue.REQUEUES, "task", "reason"), "{{task}} {{reason}}"),
                    Query(here.grown(catalogue.RESUMES), "went on from a checkpoint"),
                ],
                colors={"went on from a checkpoint": "green"},
            ),
            12,
        ),
    ]


def endings(here: Scope) -> list[Tile]:
    """How finetunes end, and whether they learn."""
    return [
        Tile(
            bars(
                Text(
                    "Finetunes that ended, by outcome",
                    "`failed`: the data or the model, `coldfusion status --all` says what. "
                    "`killed`: torn down before it could save, raise "
                    "`COLDFUSION_SOFT_SHUTDOWN_SECONDS`. A process that dies is not counted here "
                    "but put back as `worker_lost`. "
                    "`superseded`, `duplicate`: another worker was first, nothing is lost.",
                    alert="ColdFusionFinetunesFailing",
                ),
                [Query(here.grown(catalogue.FINETUNES, "outcome"), "{{outcome}}")],
                colors=ENDINGS,
            ),
            12,
        ),
        Tile(
            lines(
                Text(
                    "Training loss",
                    "Mean loss of each running turn's last report. Not a number or growing: the "
                    "learning rate is too high for its data.",
                ),
                [
                    Query(
                        by_worker(f"{here.select(catalogue.LOSS)} and {running(here)}"),
                        "{{worker}}",
                    )
                ],
                unit="none",
                last="1h",
            ),
            12,
        ),
    ]
