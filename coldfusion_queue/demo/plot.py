"""A picture of the demo: linear probe over base versions."""

from __future__ import annotations

from pathlib import Path

from coldfusion_queue.demo.probing import ProbeTable
from coldfusion_queue.errors import MissingExtraError

__all__ = ["draw"]


def draw(table: ProbeTable, path: Path) -> None:
    """Write a PNG with one line a dataset and one for their mean.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise MissingExtraError("the plot", "matplotlib", "demo") from error
    mpl.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    versions = list(table.versions)
    for name in table.datasets:
        gains = [table.accuracies[name, v] - table.accuracies[name, versions[0]] for v in versions]
        axes.plot(versions, gains, marker="o", linewidth=1, alpha=0.7, label=name)
    means = [table.mean(version) - table.mean(versions[0]) for version in versions]
    axes.plot(versions, means, marker="o", linewidth=3, color="black", label="mean")
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.set_xticks(versions, ["pretrained", *(str(version) for version in versions[1:])])
    axes.set_xlabel("base version")
    axes.set_ylabel("linear probe, points above the pretrained model")
    axes.set_title("ColD Fusion: one base model, fused from what its contributors finetuned")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", fontsize="small")
    figure.savefig(path, dpi=120)
