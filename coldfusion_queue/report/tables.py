"""Tables and numbers of the page, as people read them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from coldfusion_queue.records import Outcome
from coldfusion_queue.report.charts import share_bar
from coldfusion_queue.report.data import Decided, Report, Score, Step
from coldfusion_queue.report.markup import Markup, clean, element, join
from coldfusion_queue.report.scores import by_name
from coldfusion_queue.report.summaries import by_contributor

__all__ = [
    "MAX_REFUSALS",
    "OUTCOME_CLASSES",
    "contributors_table",
    "costs_table",
    "duration",
    "legend",
    "percent",
    "refusals_table",
    "scores_table",
    "table",
    "when",
    "withheld_table",
]

#: Refusals and withheld models that are listed, the newest.
MAX_REFUSALS = 300
#: Contributors that are listed, those of the most fused contributions.
_MAX_CONTRIBUTORS = 50
#: Datasets of a withheld model that are listed.
_MAX_SCORES = 12

#: Class of the colour of each outcome.
OUTCOME_CLASSES = {
    Outcome.FUSED: "fused",
    Outcome.REFUSED: "refused",
    Outcome.EXPIRED: "expired",
}


def table(
    head: Sequence[str], rows: Iterable[Sequence[object]], numeric: str = "", long: str = ""
) -> Markup:
    """A table.

    Args:
        head: titles of the columns.
        rows: cells of each row.
        numeric: a digit for each column that holds numbers, from 0.
        long: the same for sentences.
    """
    kinds = [
        "number" if str(index) in numeric else "long" if str(index) in long else None
        for index in range(len(head))
    ]
    cells = [
        [element("td", cell, class_=kind) for cell, kind in zip(row, kinds, strict=True)]
        for row in rows
    ]
    titles = [element("th", name, class_=kind) for name, kind in zip(head, kinds, strict=True)]
    body = join(*(element("tr", *row) for row in cells))
    whole = element("table", element("thead", element("tr", *titles)), element("tbody", body))
    return element("div", whole, class_="wide")


def legend(meanings: Mapping[str, str]) -> Markup:
    """What colours stand for, by class."""
    items = (element("span", element("i", class_=key), text) for key, text in meanings.items())
    return element("div", *items, class_="legend")


def when(moment: datetime) -> Markup:
    """A time, in UTC as everything on the page."""
    return element("time", f"{moment:%Y-%m-%d %H:%M:%S}")


def percent(value: float | None, digits: int = 1) -> str:
    """A score as people say it."""
    return "" if value is None else f"{100 * value:.{digits}f}"


def duration(seconds: float) -> str:
    """Seconds in a unit that suits them."""
    for unit, length in (("d", 86_400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:.1f} s"


def contributors_table(report: Report) -> Markup:
    """Who contributed, and what became of it."""
    found = by_contributor(report.decisions)
    most = max((item.num_decided for item in found), default=1)
    rows = []
    for item in found[:_MAX_CONTRIBUTORS]:
        name = item.contributor_id or "unknown: the record cannot be read"
        counts = {"fused": item.fused, "refused": item.refused, "expired": item.expired}
        told = ", ".join(f"{count} {style}" for style, count in counts.items() if count)
        bar = share_bar(counts, most, f"{clean(name)}: {told}")
        rows.append((name, *counts.values(), f"{100 * item.share:.1f} %", bar))
    head = ("contributor", "fused", "refused", "expired", "share of fused", "")
    return join(table(head, rows, "1234"), _left_out(len(found), _MAX_CONTRIBUTORS, "contributors"))


def refusals_table(decisions: Sequence[Decided]) -> Markup:
    """What was refused and why, the newest first."""
    refused = [item for item in decisions if item.outcome is Outcome.REFUSED]
    rows = [
        (
            when(item.at),
            element("code", item.contribution_id),
            item.contributor_id or "unknown",
            item.rule or "",
            item.reason,
            _numbers(item.numbers),
        )
        for item in refused[: -MAX_REFUSALS - 1 : -1]
    ]
    head = ("when", "contribution", "contributor", "rule", "reason", "numbers")
    return join(
        table(head, rows, long="45"), _left_out(len(refused), MAX_REFUSALS, "refusals, the oldest,")
    )


def withheld_table(report: Report) -> Markup:
    """Fused models that were not published, the newest first, with the gate's numbers."""
    withheld = report.withheld
    rows = [
        (
            when(step.at),
            f"{step.version}, from {step.parent}",
            len(step.parts),
            percent(step.gate.mean, 2) if step.gate else "",
            percent(step.gate.floor, 2) if step.gate else "",
            percent(step.gate.reference_mean, 2) if step.gate else "",
            f"{percent(step.gate.best_mean, 2)} of {step.gate.best_version}" if step.gate else "",
            _gate_scores(step, report.datasets),
            step.note,
        )
        for step in withheld[: -MAX_REFUSALS - 1 : -1]
    ]
    head = ("when", "was to be version", "contributions", "gate", "at least", "before", "best, of")
    left_out = _left_out(len(withheld), MAX_REFUSALS, "withheld models, the oldest,")
    return join(table((*head, "by dataset, and change", "note"), rows, "2345", "78"), left_out)


def scores_table(report: Report, step: Step) -> Markup:
    """The scores of one version, with the difference to the pretrained model's."""
    first = {
        _measure(item): item for item in report.scores if item.digest == report.steps[0].digest
    }
    rows = []
    for item in by_name(report.scores, report.datasets):
        if item.digest == step.digest:
            before = first.get(_measure(item))
            change = None if before is None else item.score - before.score
            rows.append(
                (
                    report.datasets[item.dataset_id],
                    item.way,
                    item.metric,
                    percent(item.score),
                    f"{percent(item.interval[0])} to {percent(item.interval[1])}",
                    "" if change is None else f"{100 * change:+.1f}",
                    item.num_seeds,
                    percent(item.deviation, 2),
                    f"{item.num_scored:,} of {item.scored_on}",
                )
            )
    head = ("dataset", "kind", "metric", "score", "95 %", "since pretrained", "seeds")
    return table((*head, "deviation", "scored"), rows, "34567")


def costs_table(report: Report) -> Markup:
    """What evaluations cost."""
    rows = [
        (
            item.kind,
            f"{item.num_evaluations:,}",
            f"{item.num_failed:,}",
            duration(item.seconds),
            duration(item.seconds / item.num_evaluations),
            f"{item.num_train:,}",
            f"{item.num_scored:,}",
        )
        for item in report.costs
    ]
    head = ("kind", "evaluations", "failed", "time", "each", "trained examples", "scored examples")
    return table(head, rows, "123456")


def _measure(item: Score) -> tuple[str, str]:
    return item.dataset_id, item.way


def _numbers(numbers: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in sorted(numbers.items()))


def _gate_scores(step: Step, names: Mapping[str, str]) -> str:
    if step.gate is None:
        return ""
    before = step.gate.reference
    told = [
        f"{names.get(key, key)} {percent(value)} ({100 * (value - before.get(key, value)):+.1f})"
        for key, value in sorted(step.gate.scores.items())
    ]
    more = f" and {len(told) - _MAX_SCORES} more" if len(told) > _MAX_SCORES else ""
    return ", ".join(told[:_MAX_SCORES]) + more


def _left_out(found: int, limit: int, what: str) -> Markup | None:
    if found <= limit:
        return None
    return element(
        "p", f"{found - limit:,} {what} are left out; --json has them all.", class_="note"
    )
