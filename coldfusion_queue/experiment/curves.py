"""Pictures of an experiment: how good the frozen base is after each fusion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from coldfusion_queue.errors import MissingExtraError
from coldfusion_queue.experiment.arms import COLD, arms_of
from coldfusion_queue.experiment.results import Results

__all__ = ["draw"]

_KIND = "frozen"


def draw(results: Results, path: Path) -> bool:
    """Write a PNG: means with their errors, and thin lines for the datasets of arm ``cold``.

    Against iterations, or against virtual time where an arm is asynchronous.

    Returns:
        Whether there is anything to draw.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise MissingExtraError("the curves", "matplotlib", "experiment") from error
    mpl.use("Agg")
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    experiment = results.experiment
    arms = [arm for arm in arms_of(experiment) if arm.role in {"cold", "random_deltas"}]
    by_time = any(arm.design.schedule.kind == "asynchronous" for arm in arms)
    columns = list(dict.fromkeys(arm.column for arm in arms))
    groups = [
        (is_seen, title)
        for is_seen, title in ((True, "seen datasets"), (False, "unseen datasets"))
        if any(len(results.curve(column, _KIND, is_seen=is_seen)) > 1 for column in columns)
    ]
    if not groups:
        return False
    figure = Figure(figsize=(7 * len(groups), 5), layout="constrained")
    for axes, (is_seen, title) in zip(
        figure.subplots(1, len(groups), squeeze=False)[0], groups, strict=True
    ):
        _lines(axes, results, columns, is_seen=is_seen, by_time=by_time)
        axes.axhline(0, color="grey", linewidth=0.8)
        axes.set_title(title)
        axes.set_xlabel("virtual time, in turns of the fastest" if by_time else "iteration")
        if not by_time:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel("linear probe, points above the pretrained model")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="x-small", ncols=2)
    figure.suptitle(experiment.name)
    figure.savefig(path, dpi=120)
    return True


def _lines(
    axes: Any, results: Results, columns: list[str], *, is_seen: bool, by_time: bool
) -> None:
    from matplotlib import colormaps

    place = 1 if by_time else 0
    axes.set_prop_cycle(color=colormaps["tab20"](range(20)))  # each dataset has its own
    for dataset in results.experiment.datasets:
        curve = results.curve(COLD, _KIND, is_seen=is_seen, dataset=dataset)
        if len(curve) > 1:
            gains = [point[2].mean - curve[0][2].mean for point in curve]
            times = [point[place] for point in curve]
            axes.plot(times, gains, linewidth=0.8, label=dataset)
    for column in columns:
        curve = results.curve(column, _KIND, is_seen=is_seen)
        if len(curve) > 1:
            axes.errorbar(
                [point[place] for point in curve],
                [point[2].mean - curve[0][2].mean for point in curve],
                # The pretrained model is where all begin, so it has no error here.
                yerr=[0.0, *(point[2].error or 0.0 for point in curve[1:])],
                linewidth=2.5 if column == COLD else 1.8,
                marker="o",
                markersize=3,
                capsize=2,
                label="ColD" if column == COLD else column,
                **({"color": "black"} if column == COLD else {}),
            )
