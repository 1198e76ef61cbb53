"""Panels on the servers that everything rests on: whether store and broker answer, and how soon."""

from __future__ import annotations

from coldfusion_queue.metrics import catalogue
from deploy.dashboards.board import Tile
from deploy.dashboards.panels import bars, lines
from deploy.dashboards.queries import Scope
from deploy.dashboards.shared import Query, Text

__all__ = ["broker", "store"]

REASONS = {"unreachable": "red", "denied": "purple", "failed": "orange"}


def store(here: Scope) -> list[Tile]:
    """How long the store takes, what it refuses, and how many bytes go to and fro."""
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
                        here.quantile(0.95, catalogue.STORE_DURATION, "operation"),
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
                    Query(here.quantile(0.5, catalogue.STORE_DURATION), "the middle one"),
                    Query(here.quantile(0.95, catalogue.STORE_DURATION), "95 of 100"),
                    Query(here.quantile(0.99, catalogue.STORE_DURATION), "99 of 100"),
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
                        here.rate(catalogue.STORE_DURATION, "operation", suffix="_count"),
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
                [Query(here.grown(catalogue.STORE_ERRORS, "reason"), "{{reason}}")],
                colors=REASONS,
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
                [Query(here.grown(catalogue.STORE_RETRIES, "operation"), "{{operation}}")],
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
                    Query(here.rate(catalogue.STORE_READ), "down"),
                    Query(here.rate(catalogue.STORE_WRITTEN), "up"),
                ],
                unit="Bps",
            ),
            8,
        ),
    ]


def broker(here: Scope) -> list[Tile]:
    """The same of the broker."""
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
                    Query(here.quantile(0.5, catalogue.BROKER_DURATION), "the middle one"),
                    Query(here.quantile(0.95, catalogue.BROKER_DURATION), "95 of 100"),
                    Query(here.quantile(0.99, catalogue.BROKER_DURATION), "99 of 100"),
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
                [Query(here.rate(catalogue.BROKER_DURATION, suffix="_count"), "requests")],
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
                [Query(here.grown(catalogue.BROKER_ERRORS, "reason"), "{{reason}}")],
                colors=REASONS,
            ),
            8,
        ),
    ]
