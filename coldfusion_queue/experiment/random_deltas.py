"""A control: random deltas as long as real ones, which bring nothing that was learned.

Whether a base model gains by what contributors learn, or by being moved at all, shows beside it:
random adapters were found to help about as much as trained ones when they are merged (Liu and
others 2026, arXiv 2602.12323).
"""

from __future__ import annotations

from pathlib import Path

from coldfusion_queue.experiment.handing_in import hand_in
from coldfusion_queue.experiment.lab import Lab
from coldfusion_queue.records import BaseVersion, Contribution
from coldfusion_queue.repository.repository import Repository

__all__ = ["contribute_random"]


def contribute_random(
    lab: Lab,
    source: Repository,
    real: Contribution,
    repository: Repository,
    base: BaseVersion,
    seed: int,
    directory: Path,
) -> None:
    """Contribute random numbers, of each tensor as long as what a real contribution changed.

    Args:
        lab: where.
        source: has the real contribution.
        real: of the same turn of the arm that it is a control of.
        repository: to contribute to.
        base: its version that the turn starts from.
        seed: of the numbers.
        directory: an empty one.
    """
    from coldfusion_queue.experiment.tensors import change_delta, noise_like

    learned, shared = directory / "learned.safetensors", directory / "shared.safetensors"
    source.store.download(real.shared, learned)
    with lab.base_dir(source, real.base_version) as base_dir:
        change_delta(learned, base_dir, real.form, noise_like(seed), shared)
    hand_in(repository, base, real.contributor_id, real.submission_id, shared)
