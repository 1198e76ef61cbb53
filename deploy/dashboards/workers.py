"""The dashboard *Workers*: who is slow, what fails, and are the GPUs busy?"""

from __future__ import annotations

from coldfusion_queue.metrics import catalogue
from coldfusion_queue.metrics.spec import Spec
from deploy.dashboards.board import Board, Row, Tile
from deploy.dashboards.panels import Column, Query, Text, bars, lines, numbers, rows
from deploy.dashboards.queries import Scope, by_worker, named_site

__all__ = ["workers_board"]

HERE = Scope(sites=True)
RUNS = f"{HERE.select(catalogue.TURN_STARTED)} > 0"
FAILED = "~failed|killed"
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
            Row("Who is slow?", _turns()),
            Row("What fails?", _endings()),
            Row("Are the GPUs busy?", _devices()),
            Row("How do evaluations go?", _evaluations()),
        ],
    )


def _state() -> list[Tile]:
    busy, idle = HERE.rate(catalogue.DEVICE_BUSY), HERE.rate(catalogue.DEVICE_IDLE)
    ended = HERE.grown(catalogue.FINETUNES, window="$__range")
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
            [Query(f"max({_silence()})", "Silence")],
            unit="s",
            base="green",
            steps=[(300, "yellow"), (900, "red")],
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
            steps=[(0.05, "yellow"), (0.25, "red")],
            empty="none ended",
        ),
        numbers(
            Text(
                "Put back",
                "Turns and evaluations that were put on their queue once more in this range. "
                "Some are ordinary in a rollout or on spot nodes; below, see why.",
                alert="ColdFusionTasksRequeued",
            ),
            [Query(HERE.grown(catalogue.REQUEUES, window="$__range"), "Put back")],
            base="green",
            steps=[(10, "yellow"), (50, "red")],
            whole=True,
            empty="0",
        ),
    ]
    return [Tile(panel, 4, 4) for panel in panels]


def _silence() -> str:
    """Seconds since each running turn said something; what one before it said does not count."""
    started = HERE.select(catalogue.TURN_STARTED)
    reported = HERE.select(catalogue.TURN_REPORTED)
    return f"time() - (({reported} > {started} or {started}) and {RUNS})"


def _turns() -> list[Tile]:
    def each(expression: str) -> str:
        return f"max by (worker, site) ({by_worker(expression)})"

    started = HERE.select(catalogue.TURN_STARTED)
    progress = HERE.select(catalogue.TURN_PROGRESS)
    reports = f"{HERE.select(catalogue.TURN_REPORTED)} > {started} and {RUNS}"
    done = f"{progress} and {reports}"
    late = [(300, "yellow"), (900, "red")]
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
                    Column("runs for", each(f"time() - ({RUNS})"), "s"),
                    Column("done", each(done), "percentunit"),
                    Column("left", each(left), "s", "text", [(3600, "yellow")]),
                    Column("silent for", each(_silence()), "s", "green", late),
                    Column("loss", each(f"{HERE.select(catalogue.LOSS)} and {reports}"), "none"),
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
                    Query(HERE.quantile(0.5, catalogue.FINETUNE_DURATION), "the middle one"),
                    Query(HERE.quantile(0.95, catalogue.FINETUNE_DURATION), "95 of 100"),
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
                    Query(HERE.grown(catalogue.REQUEUES, "task", "reason"), "{{task}} {{reason}}"),
                    Query(HERE.grown(catalogue.RESUMES), "went on from a checkpoint"),
                ],
                colors={"went on from a checkpoint": "green"},
            ),
            12,
        ),
    ]


def _endings() -> list[Tile]:
    return [
        Tile(
            bars(
                Text(
                    "Finetunes that ended, by outcome",
                    "`failed`: the data or the model, `coldfusion status --all` says what. "
                    "`killed`: over the time limit, or out of memory. `retried`: it goes on. "
                    "`superseded` and `duplicate`: another worker was first, nothing is lost.",
                    alert="ColdFusionFinetunesFailing",
                ),
                [Query(HERE.grown(catalogue.FINETUNES, "outcome"), "{{outcome}}")],
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
                        by_worker(f"{HERE.select(catalogue.LOSS)} and {RUNS}"),
                        "{{worker}}",
                    )
                ],
                unit="none",
            ),
            12,
        ),
    ]


def _devices() -> list[Tile]:
    def rate(spec: Spec) -> str:
        return f"rate({HERE.select(spec)}[$__rate_interval])"

    busy = f"sum by (worker) ({by_worker(rate(catalogue.DEVICE_BUSY))})"
    idle = f"sum by (worker) ({by_worker(rate(catalogue.DEVICE_IDLE))})"
    examples = named_site(HERE.rate(catalogue.TRAINED_EXAMPLES, "site"))
    tokens = named_site(HERE.rate(catalogue.TRAINED_TOKENS, "site"))
    memory = f"max by (worker) ({by_worker(HERE.select(catalogue.MEMORY))})"
    return [
        Tile(
            lines(
                Text(
                    "Busy part of each device",
                    "Time for which turns have the device. Gaps between turns are downloads and "
                    "uploads: raise `COLDFUSION_PREPARE_AHEAD_SECONDS`, or see the store. Near "
                    "zero while turns wait: the worker is stuck.",
                    alert="ColdFusionDeviceIdle",
                ),
                [Query(f"{busy} / ({busy} + {idle})", "{{worker}}")],
                unit="percentunit",
                top=1,
            ),
            12,
        ),
        Tile(
            lines(
                Text(
                    "Workers that are there, and lost",
                    "By the queue that they take from. A step down without a rollout or a "
                    "scale-in is a node that went away.",
                    alert="ColdFusionWorkerLost",
                ),
                [
                    Query(HERE.total(catalogue.WORKERS, "queue"), "{{queue}}"),
                    Query(f"{HERE.total(catalogue.LOST_WORKERS, 'queue')} > 0", "{{queue}}, lost"),
                ],
                unit="none",
                stepped=True,
            ),
            12,
        ),
        Tile(
            lines(
                Text(
                    "Examples per second",
                    "What finetunes train on. Compare it with yesterday's at the same number of "
                    "workers: less is a slower GPU, or longer texts.",
                ),
                [Query(examples, "{{site}}")],
                unit="suffix: /s",
                stacked=True,
            ),
            8,
        ),
        Tile(
            lines(
                Text(
                    "Tokens per second",
                    "The same in tokens without padding, which does not depend on the length of "
                    "texts. Low at full devices: raise `COLDFUSION_MICRO_BATCH_TOKENS`.",
                ),
                [Query(tokens, "{{site}}")],
                unit="suffix: /s",
                stacked=True,
            ),
            8,
        ),
        Tile(
            lines(
                Text(
                    "Peak memory of the last finetune",
                    "Of the GPU, or on a CPU of the process. Close to the limit: lower "
                    "`COLDFUSION_MICRO_BATCH_TOKENS` before one is killed.",
                ),
                [Query(memory, "{{worker}}")],
                unit="bytes",
                stepped=True,
            ),
            8,
        ),
    ]


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
