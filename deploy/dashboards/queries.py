"""PromQL from metrics of the catalogue, within what the variables of a dashboard choose.

Three kinds of series are read in three ways:

- What the exporter reads from store and broker is one truth, however many exporters serve it: a
  rollout has two for a while, and a restarted one a new ``instance``. So ``max``, never ``sum``.
- Counts from the ledger are such a truth too, and never fall. How much one grew is what it is less
  what it was: whole numbers, whatever exporters came and went, and bars that add up.
- What workers count belongs to each of them: ``sum`` of ``rate`` or ``increase``, which see what a
  counter's first scrape did not have. So workers begin with zeros, and a first failure is seen.
"""

from __future__ import annotations

from dataclasses import dataclass

from coldfusion_queue.metrics.spec import Spec

__all__ = ["WINDOW", "Scope", "by_worker", "grouped", "named_site"]

#: A step of the panel and a scrape, and four scrapes at least.
WINDOW = "$__rate_interval"


@dataclass(frozen=True)
class Scope:
    """What a dashboard looks at."""

    sites: bool
    """Whether it has the variable ``site``."""

    def select(self, spec: Spec, suffix: str = "", **labels: str) -> str:
        """The series of a metric; a value that begins with ``~`` is a regular expression."""
        filters = ['repository="$repository"', 'namespace=~"$namespace"']
        if self.sites and "site" in spec.labels:
            filters.append('site=~"$site"')
        for name, value in labels.items():
            regular = value.startswith("~")
            filters.append(f'{name}{"=~" if regular else "="}"{value.removeprefix("~")}"')
        return f"{spec.exposed}{suffix}{{{', '.join(filters)}}}"

    def latest(self, spec: Spec, *by: str, **labels: str) -> str:
        """What the exporter says of store and broker, by all labels that tell series apart."""
        return f"max{grouped(by)}({self.select(spec, **labels)})"

    def total(self, spec: Spec, *by: str, **labels: str) -> str:
        """The sum of such values, each taken once."""
        own = tuple(name for name in spec.labels if name != "repository")
        return f"sum{grouped(by)}({self.latest(spec, *own, **labels)})"

    def decided(self, spec: Spec, *by: str, suffix: str = "", **labels: str) -> str:
        """How much a count from the ledger grew in each step of a panel."""
        series = self.select(spec, suffix, **labels)
        before = f"last_over_time({series}[{WINDOW}] offset $__interval)"
        return f"max{grouped(by)}({series}) - max{grouped(by)}({before})"

    def decided_in_range(self, spec: Spec, *by: str, **labels: str) -> str:
        """How much it grew in all of the time that is shown, as far as Prometheus knows."""
        series = self.select(spec, **labels)
        return f"max{grouped(by)}({series}) - min{grouped(by)}(min_over_time({series}[$__range]))"

    def rate(
        self, spec: Spec, *by: str, window: str = WINDOW, suffix: str = "", **labels: str
    ) -> str:
        """By how much a counter grows in a second, of all workers."""
        return f"sum{grouped(by)}(rate({self.select(spec, suffix, **labels)}[{window}]))"

    def grown(self, spec: Spec, *by: str, window: str = WINDOW, **labels: str) -> str:
        """How much a counter grew, of all workers: for what happens now and then."""
        return f"sum{grouped(by)}(increase({self.select(spec, **labels)}[{window}]))"

    def quantile(self, share: float, spec: Spec, *by: str) -> str:
        """What so many of the observations in a histogram are below."""
        return f"histogram_quantile({share}, {self.rate(spec, 'le', *by, suffix='_bucket')})"


def grouped(labels: tuple[str, ...]) -> str:
    """The clause that groups by labels, or none."""
    return f" by ({', '.join(labels)}) " if labels else ""


def by_worker(expression: str) -> str:
    """With the label ``worker``: the name of the pod, or of no pod the scraped address."""
    address = f'label_replace({expression}, "worker", "$1", "instance", "(.+)")'
    return f'label_replace({address}, "worker", "$1", "pod", "(.+)")'


def named_site(expression: str) -> str:
    """With a name for what belongs to no site, whose label Prometheus leaves out."""
    return f'label_replace({expression}, "site", "no site", "site", "")'
