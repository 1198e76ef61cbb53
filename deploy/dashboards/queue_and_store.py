"""The dashboard *Queue and store*: is anything stuck, and do store and broker answer?"""

from __future__ import annotations

from coldfusion_queue.metrics import catalogue
from coldfusion_queue.overview import thresholds
from deploy.dashboards.answers import broker, store
from deploy.dashboards.board import Board, Row, Tile
from deploy.dashboards.panels import bars, lines, numbers
from deploy.dashboards.queries import Scope
from deploy.dashboards.shared import Query, Text

__all__ = ["queue_and_store_board"]

HERE = Scope(sites=True)


def queue_and_store_board() -> Board:
    """The dashboard of queues, broker and store."""
    return Board(
        uid="coldfusion-queue-store",
        title="ColD Fusion: queue and store",
        description="Is anything stuck, and do store and broker answer?",
        scope=HERE,
        since="now-6h",
        rows=[
            Row("Is it all right?", _state()),
            Row("Is anything stuck?", _queues()),
            Row("Does the store answer?", store(HERE)),
            Row("Does the broker answer?", broker(HERE)),
        ],
    )


def _state() -> list[Tile]:
    asked = HERE.rate(catalogue.STORE_DURATION, window="15m", suffix="_count")
    failed = HERE.rate(catalogue.STORE_ERRORS, window="15m")
    panels = [
        numbers(
            Text(
                "Waiting",
                "Messages that no worker has taken yet, of all queues. It is the work to do; bad "
                "is alone that the oldest one gets old.",
                alert="ColdFusionQueueGrowing",
            ),
            [Query(HERE.total(catalogue.QUEUE_LENGTH), "Waiting")],
            unit="none",
        ),
        numbers(
            Text(
                "Oldest message",
                "How long the oldest message has waited. Beyond an hour: too few workers for the "
                "queue, or none of its site. Below, see which queue.",
                alert="ColdFusionQueueGrowing",
            ),
            [Query(HERE.latest(catalogue.QUEUE_AGE), "Age")],
            unit="s",
            base="green",
            steps=[
                (thresholds.UNSERVED_SECONDS, "yellow"),
                (4 * thresholds.UNSERVED_SECONDS, "red"),
            ],
        ),
        numbers(
            Text(
                "Taken",
                "Messages that workers have: tasks that run, and turns that are prepared.",
            ),
            [Query(HERE.total(catalogue.TAKEN_TASKS), "Taken")],
            unit="none",
        ),
        numbers(
            Text(
                "Beat, messages in 15 minutes",
                "None: beat does not run, and nothing is fused, retried or collected. `kubectl "
                "logs deploy/...-beat`; a fusion by hand is `coldfusion fuse`.",
                alert="ColdFusionBeatSilent",
            ),
            [Query(HERE.grown(catalogue.BEAT_MESSAGES, window="15m"), "Messages")],
            base="red",
            steps=[(0.5, "green")],
            whole=True,
            empty="no beat",
        ),
        numbers(
            Text(
                "Store: failed in 15 minutes",
                "Part of the requests to the store that got no answer, or a refusal, after all "
                "retries. Tasks are tried again, so nothing is lost: `coldfusion doctor`.",
                alert="ColdFusionStoreErrors",
            ),
            [Query(f"({failed} or vector(0)) / ({asked} > 0)", "Failed")],
            unit="percentunit",
            base="green",
            steps=[(0.001, "yellow"), (0.05, "red")],
            empty="none",
        ),
        numbers(
            Text(
                "Broker: errors in 15 minutes",
                "Requests to the broker that failed. Workers go on when it is back, and what "
                "it lost is sent again: `coldfusion doctor`.",
                alert="ColdFusionBrokerErrors",
            ),
            [Query(HERE.grown(catalogue.BROKER_ERRORS, window="15m"), "Errors")],
            base="green",
            steps=[(1, "yellow"), (20, "red")],
            whole=True,
            empty="0",
        ),
    ]
    return [Tile(panel, 4, 4) for panel in panels]


def _queues() -> list[Tile]:
    return [
        Tile(
            lines(
                Text(
                    "Messages that wait",
                    "By queue; those of a site are `finetune.<site>`. It grows for an hour: more "
                    "workers of that queue, or find out why those that are there do not take.",
                    alert="ColdFusionQueueGrowing",
                ),
                [Query(HERE.total(catalogue.QUEUE_LENGTH, "queue"), "{{queue}}")],
                unit="none",
            ),
            8,
        ),
        Tile(
            lines(
                Text(
                    "Age of the oldest message",
                    "A line that rises by a second each second is a queue that nobody takes from: "
                    "no worker, or a site that is away. `coldfusion status` has the workers.",
                    alert="ColdFusionQueueGrowing",
                ),
                [Query(HERE.latest(catalogue.QUEUE_AGE, "queue"), "{{queue}}")],
                unit="s",
                limits=[(thresholds.UNSERVED_SECONDS, "yellow")],
            ),
            8,
        ),
        Tile(
            lines(
                Text(
                    "Messages that workers have",
                    "Taken and not acknowledged, by queue and pool. Zero while messages wait: "
                    "nobody takes them.",
                ),
                [Query(HERE.total(catalogue.TAKEN_TASKS, "queue", "pool"), "{{queue}} {{pool}}")],
                unit="none",
                stacked=True,
                stepped=True,
            ),
            8,
        ),
        Tile(
            lines(
                Text(
                    "Leases",
                    "Turns and evaluations of this repository that a worker holds. One that is "
                    "lost ends after `COLDFUSION_LEASE_SECONDS`; then another worker begins.",
                ),
                [Query(HERE.latest(catalogue.LEASES, "task"), "{{task}}")],
                unit="none",
                stepped=True,
            ),
            8,
        ),
        Tile(
            lines(
                Text(
                    "What is asked for",
                    "Submissions that may have turns left, and evaluations that are not done. "
                    "They stay while nothing waits in the queues: the next reconciliation sends "
                    "what the broker lost.",
                ),
                [
                    Query(HERE.latest(catalogue.OPEN_SUBMISSIONS), "open submissions"),
                    Query(HERE.latest(catalogue.WANTED_EVALUATIONS), "wanted evaluations"),
                ],
                unit="none",
                stepped=True,
            ),
            8,
        ),
        Tile(
            bars(
                Text(
                    "Messages of beat",
                    "`passed_over`: too many of its messages wait already, so no worker takes "
                    "from the queue `fusion`. No bars: beat does not run.",
                    alert="ColdFusionBeatSilent",
                ),
                [
                    Query(HERE.grown(catalogue.BEAT_MESSAGES, "task", outcome="sent"), "{{task}}"),
                    Query(
                        HERE.grown(catalogue.BEAT_MESSAGES, outcome="passed_over"), "passed over"
                    ),
                ],
                colors={"passed over": "red"},
            ),
            8,
        ),
    ]
