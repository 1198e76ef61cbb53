"""Quality over versions: a panel for each dataset, means, and what the gate saw."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

from coldfusion_queue.records import GateReport
from coldfusion_queue.report.charts import Line, Point, line_chart
from coldfusion_queue.report.data import Report, Score, Step
from coldfusion_queue.report.markup import Markup, element
from coldfusion_queue.report.scores import natural
from coldfusion_queue.report.tables import legend, percent, scores_table

__all__ = ["common_datasets", "gate_means", "quality"]

#: Classes of colours for ways of measuring; with more of them they begin anew.
_STYLES = ("c0", "c1", "c2", "c3", "c4", "c5")
#: Datasets that get a panel.
_MAX_PANELS = 60


def quality(report: Report) -> Iterator[Markup]:
    """The section of the page."""
    if not report.scores:
        yield element("p", "No version was evaluated: 'coldfusion evaluate'.", class_="note")
    else:
        yield from _scores(report)
    if any(step.gate is not None for step in report.steps):
        yield from _gate(report)


def common_datasets(scores: Sequence[Score]) -> dict[str, frozenset[str]]:
    """Datasets on which every model was measured that was measured that way at all, by way.

    A mean over other datasets at each version would go up and down with their choice.
    """
    measured: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for item in scores:
        measured[item.way][item.digest].add(item.dataset_id)
    return {
        way: frozenset.intersection(*(frozenset(found) for found in by_digest.values()))
        for way, by_digest in measured.items()
    }


def gate_means(steps: Sequence[Step]) -> dict[int, tuple[float, GateReport]]:
    """The gate's mean of each version that it measured, with the report that tells it.

    A version that restores another one has its number, and the pretrained model the one that the
    first report compared with.
    """
    by_digest: dict[str, tuple[float, GateReport]] = {}
    base = steps[0].digest
    for step in steps:
        if step.gate is not None:
            by_digest.setdefault(base, (step.gate.reference_mean, step.gate))
            by_digest[step.digest] = (step.gate.mean, step.gate)
        if step.kind != "withheld":
            base = step.digest
    return {
        step.version: by_digest[step.digest]
        for step in steps
        if step.kind != "withheld" and step.digest in by_digest
    }


def _scores(report: Report) -> Iterator[Markup]:
    ways = list(dict.fromkeys(item.way for item in report.scores))
    styles = {way: _STYLES[number % len(_STYLES)] for number, way in enumerate(ways)}
    yield legend({styles[way]: way for way in ways})
    yield element(
        "p",
        "Scores in percent over base versions, with 95 percent intervals over the scored examples "
        "(the mean over seeds where there are several). Dotted where nothing was "
        "measured in between.",
        class_="note",
    )
    panels = [_mean_panel(report, styles), *_dataset_panels(report, styles)]
    yield element("div", *(panel for panel in panels if panel is not None), class_="panels")
    names = {item.dataset_id for item in report.scores}
    if len(names) > _MAX_PANELS:
        yield element("p", f"{len(names) - _MAX_PANELS} datasets are left out.", class_="note")
    last = report.published[-1]
    if any(item.digest == last.digest for item in report.scores):
        yield element("h3", f"Base version {last.version}")
        yield scores_table(report, last)


def _dataset_panels(report: Report, styles: Mapping[str, str]) -> Iterator[Markup]:
    by_dataset: dict[str, dict[str, dict[str, Score]]] = defaultdict(lambda: defaultdict(dict))
    for item in report.scores:
        by_dataset[item.dataset_id][item.way][item.digest] = item
    for dataset_id in sorted(by_dataset, key=lambda item: natural(report.datasets[item]))[
        :_MAX_PANELS
    ]:
        lines = [
            Line(styles[way], tuple(_points(report, found, way)))
            for way, found in by_dataset[dataset_id].items()
        ]
        metrics = {
            item.metric for found in by_dataset[dataset_id].values() for item in found.values()
        }
        name = report.datasets[dataset_id]
        yield _panel(report, lines, f"{name}, {' and '.join(sorted(metrics))}")


def _points(report: Report, found: Mapping[str, Score], way: str) -> Iterator[Point]:
    for step in report.published:
        item = found.get(step.digest)
        if item is not None:
            low, high = item.interval
            title = (
                f"version {step.version}, {way}: {percent(item.score)} "
                f"({percent(low)} to {percent(high)})"
            )
            yield Point(step.version, 100 * item.score, 100 * low, 100 * high, title)


def _mean_panel(report: Report, styles: Mapping[str, str]) -> Markup | None:
    common = common_datasets(report.scores)
    lines = []
    for way, dataset_ids in common.items():
        values: dict[str, list[float]] = defaultdict(list)
        for item in report.scores:
            if item.way == way and item.dataset_id in dataset_ids:
                values[item.digest].append(100 * item.score)
        points = tuple(
            Point(step.version, mean, mean, mean, f"version {step.version}, {way}: {mean:.2f}")
            for step in report.published
            if step.digest in values
            for mean in [fmean(values[step.digest])]
        )
        if points and len(dataset_ids) > 1:
            lines.append(Line(styles[way], points))
    if not lines:
        return None
    counts = ", ".join(f"{way}: {len(found)}" for way, found in common.items() if len(found) > 1)
    return _panel(report, lines, f"Mean over the datasets that are always measured ({counts})")


def _panel(report: Report, lines: Sequence[Line], title: str) -> Markup:
    drawing = line_chart(lines, report.version, f"{title}, over base versions")
    return element("figure", element("h3", title), drawing)


def _gate(report: Report) -> Iterator[Markup]:
    floors = [
        _number(step.version, step.gate.floor, f"version {step.version}: at least")
        for step in report.published
        if step.gate is not None
    ]
    # Several attempts at one version stand above each other; no line joins them.
    withheld = [
        Line("c6", (_number(step.version, step.gate.mean, f"{step.note}:"),))
        for step in report.withheld
        if step.gate is not None
    ]
    yield element("h3", "The gate")
    yield legend({"c2": "mean of the gate's scores", "c5": "least that passes", "c6": "withheld"})
    last_x = max([report.version, *(step.version for step in report.withheld)])
    title = "mean of the gate's scores over base versions"
    lines = [Line("c5", tuple(floors)), *_published_means(report), *withheld]
    yield element("div", line_chart(lines, last_x, title, width=920, height=220), class_="wide")
    names = [report.datasets.get(item, item) for item in report.policy.gate_datasets]
    if names:
        yield element("p", f"Gate datasets at the end: {', '.join(names)}.", class_="note")


def _published_means(report: Report) -> list[Line]:
    """Means over other gate datasets are other numbers: no line joins them."""
    lines: list[Line] = []
    before: frozenset[str] | None = None
    for version, (mean, found) in gate_means(report.steps).items():
        point, dataset_ids = _number(version, mean, f"version {version}:"), frozenset(found.scores)
        if lines and dataset_ids == before:
            lines[-1] = Line("c2", (*lines[-1].points, point))
        else:
            lines.append(Line("c2", (point,)))
        before = dataset_ids
    return lines


def _number(version: int, share: float, title: str) -> Point:
    value = 100 * share
    return Point(version, value, value, value, f"{title} {value:.2f}")
