"""Panels on devices: how busy they are, and what they get done."""

from __future__ import annotations

from coldfusion_queue.metrics import catalogue
from coldfusion_queue.metrics.spec import Spec
from deploy.dashboards.board import Tile
from deploy.dashboards.panels import lines
from deploy.dashboards.queries import Scope, by_worker, named_site
from deploy.dashboards.shared import Query, Text

__all__ = ["devices"]


def devices(here: Scope) -> list[Tile]:
    """How busy devices are, and with what."""

    def rate(spec: Spec) -> str:
        return f"rate({here.select(spec)}[$__rate_interval])"

    busy = f"sum by (worker) ({by_worker(rate(catalogue.DEVICE_BUSY))})"
    idle = f"sum by (worker) ({by_worker(rate(catalogue.DEVICE_IDLE))})"
    examples = named_site(here.rate(catalogue.TRAINED_EXAMPLES, "site"))
    tokens = named_site(here.rate(catalogue.TRAINED_TOKENS, "site"))
    memory = f"max by (worker) ({by_worker(here.select(catalogue.MEMORY))})"
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
                    Query(here.total(catalogue.WORKERS, "queue"), "{{queue}}"),
                    Query(f"{here.total(catalogue.LOST_WORKERS, 'queue')} > 0", "{{queue}}, lost"),
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
