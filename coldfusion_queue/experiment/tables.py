"""The tables of an experiment as Markdown: the paper's Table 1, its curves, and what came when."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from coldfusion_queue.experiment.arms import COLD, PRETRAINED, arms_of
from coldfusion_queue.experiment.results import Curve, Estimate, Results

__all__ = ["TITLES", "Table", "all_tables", "to_markdown"]

#: How the kinds of evaluation are called in tables, in their order.
TITLES = {"finetuned": "Finetuned", "frozen": "Frozen (linear probe)", "few_shot": "Few-shot"}

Table = tuple[str, list[str], list[list[str]]]
"""Title, names of the columns, rows."""

_NOTE = """\
Scores are in percent, ± is a standard error: of a score over seeds and folds, of a gain over pairs
of a dataset and a run (seed and fold), each pair counted once, of a mean over datasets over seeds
alone where the folds are not of the same datasets. Numbers are of the last base version
of an arm. Every number, with the repository and the evaluation that it was recorded under, is in
`results.json`.
"""


def to_markdown(results: Results) -> str:
    """All tables of an experiment."""
    experiment = results.experiment.without_paths()
    design = experiment.design(None, experiment.folds[0] if experiment.folds else None)
    lines = [
        f"# {experiment.name}",
        "",
        f"Base {experiment.base}; {design.contributors_per_iteration} contributors an iteration of "
        f"{len(design.seen)} seen datasets, {design.iterations} iterations, method "
        f"{design.policy.method}, {len(experiment.seeds)} seeds"
        + (f", {len(experiment.folds)} folds" if experiment.folds else "")
        + ".",
        "",
        _NOTE,
    ]
    if results.num_missing:
        lines += [f"**{results.num_missing} evaluations are not done yet.**", ""]
    failed = [row for row in results.rows if row.failure is not None]
    lines += [
        f"- failed: {row.kind} of {row.dataset} in {row.repository}: {row.failure}"
        for row in failed
    ]
    for title, header, rows in (*all_tables(results), *_curves(results)):
        lines += ["", f"## {title}", ""]
        lines.append("| " + " | ".join(header) + " |")
        lines.append("|---|" + "---:|" * (len(header) - 1))
        lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def all_tables(results: Results) -> list[Table]:
    """Every table of an experiment, in order, but those that are too wide for a terminal."""
    return [*_main_tables(results), *_times(results)]


def _main_tables(results: Results) -> Iterator[Table]:
    """One table for each kind of evaluation, for datasets that were seen and that were not."""
    for kind, title in TITLES.items():
        measure = getattr(results.experiment.evaluation, kind)
        for is_seen in (True, False):
            rows = [
                row
                for column in results.columns()
                if column != PRETRAINED
                for row in results.of(column, kind, is_seen=is_seen)
            ]
            datasets = [
                name
                for name in results.experiment.datasets
                if any(row.dataset == name for row in rows)
            ]
            if not datasets:
                continue
            shots = f" with {measure.num_shots} examples" if kind == "few_shot" else ""
            where = "seen" if is_seen else "unseen"
            yield _table(results, kind, f"{title}{shots}, {where} datasets", datasets, is_seen)


def _table(
    results: Results, kind: str, title: str, datasets: Sequence[str], is_seen: bool
) -> Table:
    columns = [
        name
        for name in results.columns()
        if any(row.dataset in datasets for row in results.of(name, kind, is_seen=is_seen))
    ]
    header = ["dataset", *(_name(column) for column in columns), "ColD - pretrained"]
    rows = [
        [
            dataset,
            *(_cell(results.score(column, kind, dataset, is_seen=is_seen)) for column in columns),
            _cell(results.gain(COLD, kind, [dataset], is_seen=is_seen), sign="+"),
        ]
        for dataset in datasets
    ]
    means = [
        _cell(results.mean_score(column, kind, datasets, is_seen=is_seen)) for column in columns
    ]
    gains = [
        ""
        if column == PRETRAINED
        else _cell(results.gain(column, kind, datasets, is_seen=is_seen), sign="+")
        for column in columns
    ]
    gain = _cell(results.gain(COLD, kind, datasets, is_seen=is_seen), sign="+")
    rows.append(["**mean**", *(f"**{mean}**" if mean else "" for mean in means), f"**{gain}**"])
    rows.append(["gain over pretrained", *gains, ""])
    return title, header, rows


def _times(results: Results) -> Iterator[Table]:
    """How much virtual time the arms of the kind ``cold`` took, and when they were how good."""
    columns = list(
        dict.fromkeys(arm.column for arm in arms_of(results.experiment) if arm.role == "cold")
    )
    curves = {column: results.curve(column, "frozen", is_seen=True) for column in columns}
    if len(columns) < 2 or not curves.get(COLD):
        return
    goal = curves[COLD][-1][2].mean
    rows = []
    for column, curve in curves.items():
        if curve:
            reached = next((time for _, time, found in curve if found.mean >= goal), None)
            _, time, last = curve[-1]
            numbers = [str(len(curve) - 1), f"{time:g}", _cell(last)]
            rows.append([_name(column), *numbers, "never" if reached is None else f"{reached:g}"])
    header = ["arm", "fusions", "virtual time", "frozen at the end"]
    yield "Virtual time, frozen on seen datasets", [*header, "as good as ColD's last at"], rows


def _curves(results: Results) -> Iterator[Table]:
    """The frozen base after each fusion: a table of the arms, and one of ColD's datasets."""
    arms = [arm for arm in arms_of(results.experiment) if arm.role in {"cold", "random_deltas"}]
    by_time = any(arm.design.schedule.kind == "asynchronous" for arm in arms)
    columns = dict.fromkeys(arm.column for arm in arms)
    for is_seen, where in ((True, "seen"), (False, "unseen")):
        curves = {
            _name(column): results.curve(column, "frozen", is_seen=is_seen) for column in columns
        }
        title = f"After each fusion, frozen on {where} datasets"
        yield from _over_fusions(title, curves, by_time=by_time)
        of_cold = {
            name: results.curve(COLD, "frozen", is_seen=is_seen, dataset=name)
            for name in results.experiment.datasets
        }
        title = f"After each of ColD's fusions, frozen on each of the {where} datasets"
        yield from _over_fusions(title, of_cold, by_time=False)


def _over_fusions(title: str, curves: Mapping[str, Curve], *, by_time: bool) -> Iterator[Table]:
    """One row a curve, one column a fusion; nothing where there is no curve.

    With ``by_time`` each cell says when that was, in virtual time.
    """
    found = {name: curve for name, curve in curves.items() if len(curve) > 1}
    if not found:
        return
    numbers = sorted({number for curve in found.values() for number, _, _ in curve})
    rows = []
    for name, curve in found.items():
        cells = {
            number: _cell(estimate) + (f" (at {time:g})" if by_time else "")
            for number, time, estimate in curve
        }
        rows.append([name, *(cells.get(number, "") for number in numbers)])
    yield title, ["", *map(str, numbers)], rows


def _name(column: str) -> str:
    return "ColD" if column == COLD else column.replace("-", " ")


def _cell(estimate: Estimate | None, sign: str = "") -> str:
    if estimate is None:
        return ""
    error = "" if estimate.error is None else f" ± {estimate.error:.2f}"
    return f"{estimate.mean:{sign}.2f}{error}"
