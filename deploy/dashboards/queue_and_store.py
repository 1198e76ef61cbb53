"""The dashboard *Queue and store*: is anything stuck, and do store and broker answer?"""

from __future__ import annotations

from coldfusion_queue.metrics import catalogue
from deploy.dashboards.board import Board, Row, Tile
from deploy.dashboards.panels import Query, Text, bars, lines, numbers
from deploy.dashboards.queries import Scope

__all__ = ["queue_and_store_board"]

HERE = Scope(sites=True)
REASONS = {"unreachable": "red", "denied": "purple", "failed": "orange"}


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
            Row("Does the store answer?", _store()),
            Row("Does the broker answer?", _broker()),
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
            steps=[(1800, "yellow"), (7200, "red")],
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
                "None: beat does not run, and nothing is fused or collected. `kubectl logs "
                "deploy/...-beat`; a fusion by hand is `coldfusion fuse`.",
                alert="ColdFusionNoFusion",
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
                limits=[(7200, "red")],
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
                    alert="ColdFusionNoFusion",
                ),
                [
                    Query(
                        HERE.grown(catalogue.BEAT_MESSAGES, "task", "outcome"),
                        "{{task}} {{outcome}}",
                    )
                ],
            ),
            8,
        ),
    ]


def _store() -> list[Tile]:
    return [
        Tile(
            lines(
                Text(
                    "Time until the store answers, 95 of 100",
                    "By operation, retries included. All slow: the store or the network. `list` "
                    "alone: many objects, see what the bucket holds. `upload` alone: its parts "
                    "are large.",
                    alert="ColdFusionStoreErrors",
                ),
                [
                    Query(
                        HERE.quantile(0.95, catalogue.STORE_DURATION, "operation"),
                        "{{operation}}",
                    )
                ],
                unit="s",
                limits=[(5, "red")],
            ),
            8,
        ),
        Tile(
            lines(
                Text(
                    "Time until the store answers, all operations",
                    "The middle one, and what 95 and 99 of 100 stay below. The middle one slow: "
                    "the network. The last one alone: the store, now and then; see its metrics.",
                ),
                [
                    Query(HERE.quantile(0.5, catalogue.STORE_DURATION), "the middle one"),
                    Query(HERE.quantile(0.95, catalogue.STORE_DURATION), "95 of 100"),
                    Query(HERE.quantile(0.99, catalogue.STORE_DURATION), "99 of 100"),
                ],
                unit="s",
            ),
            8,
        ),
        Tile(
            lines(
                Text(
                    "Requests to the store",
                    "How many a second, by operation. What costs money at a cloud's store are "
                    "`list`, `create`, `write` and `upload`.",
                ),
                [
                    Query(
                        HERE.rate(catalogue.STORE_DURATION, "operation", suffix="_count"),
                        "{{operation}}",
                    )
                ],
                unit="reqps",
                stacked=True,
            ),
            8,
        ),
        Tile(
            bars(
                Text(
                    "Requests to the store that failed",
                    "`unreachable`: no answer; the network or the store. `denied`: the "
                    "credentials, see docs/access.md. `failed`: the store's own errors; its log.",
                    alert="ColdFusionStoreErrors",
                ),
                [
                    Query(
                        HERE.grown(catalogue.STORE_ERRORS, "operation", "reason"),
                        "{{operation}} {{reason}}",
                    )
                ],
            ),
            8,
        ),
        Tile(
            bars(
                Text(
                    "Requests to the store that were tried again",
                    "They cost time and nothing else. Many for long: the store is overloaded or "
                    "throttles; fewer `COLDFUSION_TRANSFER_THREADS` ask less at once.",
                    alert="ColdFusionStoreErrors",
                ),
                [Query(HERE.grown(catalogue.STORE_RETRIES, "operation"), "{{operation}}")],
            ),
            8,
        ),
        Tile(
            lines(
                Text(
                    "Bytes down and up",
                    "From the store, and to it. Workers keep base versions and datasets: a flat "
                    "high line down is a cache that is too small, `COLDFUSION_CACHE_BYTES`.",
                ),
                [
                    Query(HERE.rate(catalogue.STORE_READ), "down"),
                    Query(HERE.rate(catalogue.STORE_WRITTEN), "up"),
                ],
                unit="Bps",
            ),
            8,
        ),
    ]


def _broker() -> list[Tile]:
    return [
        Tile(
            lines(
                Text(
                    "Time until the broker answers",
                    "The middle one, and what 95 and 99 of 100 stay below. Above 0.1 s: its "
                    "machine is short of CPU, or it writes its file to a slow disk.",
                    alert="ColdFusionBrokerErrors",
                ),
                [
                    Query(HERE.quantile(0.5, catalogue.BROKER_DURATION), "the middle one"),
                    Query(HERE.quantile(0.95, catalogue.BROKER_DURATION), "95 of 100"),
                    Query(HERE.quantile(0.99, catalogue.BROKER_DURATION), "99 of 100"),
                ],
                unit="s",
                limits=[(0.1, "yellow")],
            ),
            8,
        ),
        Tile(
            lines(
                Text(
                    "Requests to the broker",
                    "How many a second; those of Celery itself are not counted. They grow with the "
                    "workers; a jump without more of them is a loop: see the logs.",
                ),
                [Query(HERE.rate(catalogue.BROKER_DURATION, suffix="_count"), "requests")],
                unit="reqps",
            ),
            8,
        ),
        Tile(
            bars(
                Text(
                    "Requests to the broker that failed",
                    "`unreachable`: the broker is down or fails over. `denied`: password or "
                    "rights, see docs/access.md. `failed`: it refused, such as out of memory.",
                    alert="ColdFusionBrokerErrors",
                ),
                [Query(HERE.grown(catalogue.BROKER_ERRORS, "reason"), "{{reason}}")],
                colors=REASONS,
            ),
            8,
        ),
    ]
