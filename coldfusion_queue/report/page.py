"""The page: all of a report in one file that loads nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from coldfusion_queue import __version__
from coldfusion_queue.records import Outcome
from coldfusion_queue.report.charts import Bar, bar_chart
from coldfusion_queue.report.data import Report
from coldfusion_queue.report.lineage import MAX_VERSIONS, STALENESS_CLASSES, lineage_graph
from coldfusion_queue.report.markup import Markup, element, join
from coldfusion_queue.report.quality import quality
from coldfusion_queue.report.style import STYLE
from coldfusion_queue.report.summaries import (
    STALENESS_LIMIT,
    by_rule,
    by_staleness,
    throughput,
    waiting,
)
from coldfusion_queue.report.tables import (
    OUTCOME_CLASSES,
    contributors_table,
    costs_table,
    duration,
    legend,
    refusals_table,
    table,
    when,
    withheld_table,
)

__all__ = ["page"]

#: Even if something were to slip in as markup, nothing of it would be run or loaded.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
#: Reasons of failed evaluations that are listed.
_MAX_FAILURES = 10
#: Waiting time up to which contributions are counted together, in seconds.
_WAITS = {
    "1 s": 1,
    "10 s": 10,
    "1 min": 60,
    "10 min": 600,
    "1 h": 3600,
    "6 h": 21_600,
    "1 d": 86_400,
    "7 d": 604_800,
}


def page(report: Report) -> str:
    """The whole page, as HTML."""
    title = f"{report.repository}, base version {report.version}"
    sections = {
        "lineage": ("Lineage", _lineage(report)),
        "quality": ("Quality", quality(report)),
        "contributions": ("Contributions", _contributions(report)),
        "refusals": ("Refusals", _refusals(report)),
        "withheld": ("Withheld models", _withheld(report)),
        "throughput": ("Throughput", _throughput(report)),
        "cost": ("Cost", _cost(report)),
    }
    links = [element("a", name, href=f"#{key}") for key, (name, _) in sections.items()]
    body = element(
        "body",
        element("h1", f"Repository {report.repository}"),
        element("p", _about(report), class_="meta"),
        _tiles(report),
        element("nav", *links),
        *(
            element("section", element("h2", name), *parts, id=key)
            for key, (name, parts) in sections.items()
        ),
    )
    head = (
        f'<meta charset="utf-8">\n<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    )
    top = join(element("title", title), Markup(f"<style>{STYLE}</style>"))
    return f'<!doctype html>\n<html lang="en">\n<head>\n{head}{top}\n</head>\n{body}\n</html>\n'


def _about(report: Report) -> Markup:
    policy = report.policy
    return join(
        f"Up to base version {report.version} of {report.identity.hub_id} "
        f"({report.identity.model_type}, {report.identity.num_parameters:,} parameters). Made ",
        when(report.made_at),
        f" UTC by coldfusion-queue {__version__} from {report.num_entries:,} ledger entries. All "
        f"times are UTC. Policy: method {policy.method}, at least {policy.min_contributions} and "
        f"at most {policy.max_contributions} contributions, server learning rate "
        f"{policy.server_learning_rate:g}.",
    )


def _tiles(report: Report) -> Markup:
    counts = _outcomes(report)
    names = {item.contributor_id for item in report.decisions if item.contributor_id}
    shown = {
        "base versions": len(report.published),
        "contributions fused": counts[Outcome.FUSED],
        "refused": counts[Outcome.REFUSED],
        "expired": counts[Outcome.EXPIRED],
        "contributors": len(names),
        "withheld models": len(report.withheld),
        "rollbacks": sum(step.kind == "restored" for step in report.published),
    }
    tiles = (
        element("div", element("b", f"{number:,}"), element("span", name), class_="tile")
        for name, number in shown.items()
    )
    return element("div", *tiles, class_="tiles")


def _outcomes(report: Report) -> dict[Outcome, int]:
    return {
        outcome: sum(item.outcome is outcome for item in report.decisions) for outcome in Outcome
    }


def _lineage(report: Report) -> Iterator[Markup]:
    kinds = {
        "pretrained": "pretrained model",
        "fused": "fused",
        "restored": "rolled back to an earlier version",
        "withheld": "withheld by the gate, with their number",
    }
    yield legend(kinds)
    left_out = len(report.published) - MAX_VERSIONS
    if left_out > 0:
        yield _note(f"The first {left_out:,} versions are left out here.")
    yield element("div", lineage_graph(report), class_="wide")
    yield _note("Below each version its contributions, by staleness:")
    yield legend(STALENESS_CLASSES)


def _contributions(report: Report) -> Iterator[Markup]:
    if not report.decisions:
        yield _note("No contribution was decided yet.")
        return
    yield legend({style: str(outcome) for outcome, style in OUTCOME_CLASSES.items()})
    yield contributors_table(report)
    yield element("h3", "By staleness")
    bars = [
        _outcome_bar(
            f"{number}" if number < STALENESS_LIMIT else f"{number}+", counts, "staleness "
        )
        for number, counts in by_staleness(report.decisions).items()
    ]
    yield _chart(bar_chart(bars, "contributions by staleness"))


def _refusals(report: Report) -> Iterator[Markup]:
    rules = by_rule(report.decisions)
    if not rules:
        yield _note("Nothing was refused.")
        return
    yield element("p", "By rule: ", ", ".join(f"{name} {count:,}" for name, count in rules.items()))
    yield refusals_table(report.decisions)


def _withheld(report: Report) -> Iterator[Markup]:
    if not report.withheld:
        yield _note(
            "The gate withheld nothing." if report.policy.gate_datasets else "No gate is set."
        )
        return
    yield _note("In percent: means over the gate's datasets. A withheld model was never published.")
    if report.num_tried is not None:
        yield _note(f"A batch of {report.num_tried} contributions is being tried.")
    yield withheld_table(report)


def _throughput(report: Report) -> Iterator[Markup]:
    found = throughput(report)
    pattern = "%H:%M" if found.length in {"minute", "10 minutes"} else "%m-%d %H:%M"
    pattern = "%Y-%m-%d" if found.length not in {"minute", "10 minutes", "hour"} else pattern
    first = f"{found.periods[0].start:%Y-%m-%d %H:%M}"
    labels = [f"{period.start:{pattern}}" for period in found.periods]
    yield _note(f"One bar for each {found.length} from {first} on.")
    yield element("h3", f"Contributions decided per {found.length}")
    yield legend({style: str(outcome) for outcome, style in OUTCOME_CLASSES.items()})
    bars = [
        _outcome_bar(label, period.outcomes)
        for label, period in zip(labels, found.periods, strict=True)
    ]
    yield _chart(bar_chart(bars, "contributions decided over time"))
    yield element("h3", f"Base versions published per {found.length}")
    bars = [
        Bar(label, {"versions": period.num_versions}, f"{label}: {period.num_versions} published")
        for label, period in zip(labels, found.periods, strict=True)
    ]
    yield _chart(bar_chart(bars, "base versions published over time", height=100))
    yield from _waiting(report)


def _waiting(report: Report) -> Iterator[Markup]:
    found = waiting(report.decisions)
    if found is None:
        return
    waits = [item.waited_seconds for item in report.decisions if item.waited_seconds is not None]
    yield element("h3", "Waiting time from a contribution's commit to its decision")
    yield _note(
        f"Median {duration(found.median)}, nine of ten within {duration(found.ninety_percent)}, "
        f"longest {duration(found.longest)}; by the clocks of two machines."
    )
    below, bars = 0, []
    for label, limit in (*_WAITS.items(), ("more", float("inf"))):
        up_to = sum(wait <= limit for wait in waits)
        title = f"{up_to - below} waited {label if label == 'more' else f'at most {label}'}"
        bars.append(Bar(label, {"fused": up_to - below}, title))
        below = up_to
    yield _chart(bar_chart(bars, "waiting times", height=110))


def _cost(report: Report) -> Iterator[Markup]:
    examples = sum(
        item.num_examples or 0 for item in report.decisions if item.outcome is Outcome.FUSED
    )
    yield element(
        "p",
        f"Contributions that were fused name {examples:,} training examples, those of each turn "
        "counted anew. Evaluations cost wall time on their workers, downloads not counted:",
    )
    if not report.costs:
        yield _note("No version was evaluated.")
        return
    yield costs_table(report)
    if report.failures:
        yield element("h3", "What failed evaluations say")
        rows = [(count, text) for text, count in report.failures.items()]
        yield table(("times", "error"), rows[:_MAX_FAILURES], "0")


def _outcome_bar(label: str, counts: Mapping[Outcome, int], before: str = "") -> Bar:
    told = ", ".join(f"{counts.get(outcome, 0)} {outcome}" for outcome in OUTCOME_CLASSES)
    values = {style: counts.get(outcome, 0) for outcome, style in OUTCOME_CLASSES.items()}
    return Bar(label, values, f"{before}{label}: {told}")


def _chart(drawing: Markup) -> Markup:
    return element("div", drawing, class_="wide")


def _note(text: str) -> Markup:
    return element("p", text, class_="note")
