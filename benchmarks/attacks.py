"""What poisoned contributions do to a fusion, and what being safe costs when all are honest.

Eight contributors finetune the example model on a real dataset each. One or two of them are
replaced by attackers. Every method of the engine fuses what is there, without any limit of the
policy, and for each it is measured

    probe      mean over the datasets of a linear probe of the fused model, in percent
    damage     ||u - u_honest|| / ||u_honest||, u_honest being the same method's combined delta of
               the honest ones alone

Then intake judges the same contributions by the default policy, with nothing fused before.

    python -m benchmarks.attacks
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from benchmarks.deltas import (
    RECIPE,
    dataset_names,
    digest_of,
    finetuned_deltas,
    pretrained,
    probe_accuracies,
)
from benchmarks.engine import FileSource, file_input, fuse_files
from benchmarks.poison import ATTACKS, Crowd, flip_labels
from benchmarks.reporting import print_report
from coldfusion_queue.demo.recipe import data_dir
from coldfusion_queue.fusion.faults import ContributionFault
from coldfusion_queue.fusion.inspection import inspect_update
from coldfusion_queue.fusion.methods import METHODS, make_method
from coldfusion_queue.fusion.model_reader import ModelFiles
from coldfusion_queue.fusion.sketch import encode_sketch
from coldfusion_queue.records import BaseVersion, Hyperparameters, Inspection, Policy
from coldfusion_queue.repository.admission import refusal
from coldfusion_queue.repository.judging import Update, judge

#: Methods with a state from one fusion to the next are what their first fusion is.
_METHODS = tuple(name for name in METHODS if name != "nesterov")
_NUM_ATTACKERS = (1, 2)


@dataclass
class Setup:
    """What all attacks share."""

    methods: Sequence[str]
    names: Sequence[str]
    data: Path
    cache: Path
    recipe: Hyperparameters
    rows: tuple[int, int]
    work_dir: Path
    base_dir: Path
    honest: Mapping[str, Path]
    flipped: Mapping[str, Path]
    updates: dict[tuple[str, tuple[Path, ...]], Path | None] = field(default_factory=dict)
    """Fused models, by method and contributions; None if the fusion refused one."""

    def fused(self, method: str, files: Mapping[str, Path]) -> Path | None:
        """The fused model, or None if a contribution cannot be fused."""
        key = (method, tuple(files.values()))
        if key not in self.updates:
            path = self.work_dir / f"model-{len(self.updates)}.safetensors"
            try:
                fuse_files(self.base_dir, files, path, method=make_method(method, {}))
            except ContributionFault:
                self.updates[key] = None
            else:
                self.updates[key] = path
        return self.updates[key]

    def probe(self, model: Path) -> float:
        """Mean accuracy of linear probes, in percent; 0 if the model's features are no numbers."""
        try:
            found = probe_accuracies(
                model,
                self.names,
                base_dir=self.base_dir,
                cache=self.cache,
                data=self.data,
                rows=self.rows,
            )
        except ValueError:  # of the probe, which takes no NaN
            return 0.0
        return round(100 * sum(found.values()) / len(found), 2)

    def moved(self, model: Path) -> np.ndarray[Any, np.dtype[np.float64]]:
        """The combined delta of a fused model."""
        before = load_file(self.base_dir / BaseVersion.MODEL_FILE)
        after = load_file(model)
        return np.concatenate(
            [
                (after[name].astype(np.float64) - before[name]).ravel()
                for name in sorted(before)
                if before[name].dtype.kind == "f"
            ]
        )

    def inspected(self, name: str, path: Path) -> Inspection:
        """What intake finds out about a contribution."""
        digest = digest_of(self.base_dir / BaseVersion.MODEL_FILE)
        base = ModelFiles.single(FileSource(self.base_dir / BaseVersion.MODEL_FILE), digest)
        facts = inspect_update(file_input(name, path), base, base_norm=None, chunk_bytes=16 * 2**20)
        return Inspection(
            contribution_id=name,
            digest=digest_of(path),
            stamp="",
            norm=facts.norm,
            base_digest=digest,
            base_norm=facts.base_norm,
            sketch=encode_sketch(facts.sketch),
            created_at=datetime.now(UTC),
            created_by="benchmark",
        )


def poisoned(setup: Setup, attack: str, num_attackers: int) -> dict[str, Path]:
    """The contributions of all, the last of which are attackers; each attacks by itself."""
    victims = setup.names[len(setup.names) - num_attackers :]
    honest = [load_file(setup.honest[name]) for name in setup.names if name not in victims]
    files = dict(setup.honest)
    for number, name in enumerate(victims):
        crowd = Crowd(
            own=load_file(setup.honest[name]),
            flipped=load_file(setup.flipped[name]),
            honest=honest[number:] + honest[:number],  # two thieves copy two different ones
            generator=np.random.default_rng(number),
        )
        files[name] = setup.work_dir / f"{attack}-{name}.safetensors"
        save_file(ATTACKS[attack](crowd), files[name])
    return files


def intake(setup: Setup, files: Mapping[str, Path]) -> dict[str, str]:
    """Whom the default policy refuses, and by which rule."""
    refused: dict[str, str] = {}
    updates: list[Update] = []
    for name, path in files.items():
        try:
            updates.append(Update(name, name, setup.inspected(name, path)))
        except ContributionFault as fault:
            refused[name] = refusal(fault.cause).rule
    for name, verdict in judge(Policy(), updates, []).items():
        if verdict.rule is not None:
            refused[name] = verdict.rule
    return refused


def measure(setup: Setup, attack: str, num_attackers: int) -> dict[str, Any]:
    """What each method makes of an attack, and whom intake refuses."""
    files = poisoned(setup, attack, num_attackers)
    honest = dict(list(setup.honest.items())[: len(setup.names) - num_attackers])
    methods: dict[str, Any] = {}
    for method in setup.methods:
        model, ideal = setup.fused(method, files), setup.fused(method, honest)
        assert ideal is not None
        if model is None:
            methods[method] = "refused"
            continue
        wanted = setup.moved(ideal)
        damage = np.linalg.norm(setup.moved(model) - wanted) / np.linalg.norm(wanted)
        methods[method] = {"probe": setup.probe(model), "damage": float(f"{damage:.3g}")}
        model.unlink()
    refused = intake(setup, files)
    for name in files.keys() - honest.keys():
        files[name].unlink()
    print(f"{attack}, {num_attackers}: {methods}, refused {refused}", file=sys.stderr)
    return {
        "methods": methods,
        "attackers_refused": {name: refused[name] for name in refused if name not in honest},
        "honest_refused": {name: refused[name] for name in refused if name in honest},
    }


def control(setup: Setup) -> dict[str, Any]:
    """All are honest: the accuracy of each method, and the lie of the deltas to each other."""
    probes = {}
    for method in setup.methods:
        model = setup.fused(method, setup.honest)
        assert model is not None
        probes[method] = setup.probe(model)
    inspections = [
        Update(name, name, setup.inspected(name, path)) for name, path in setup.honest.items()
    ]
    numbers = [verdict.numbers for verdict in judge(Policy(), inspections, []).values()]
    spread = {
        key: [round(min(found), 4), round(max(found), 4)]
        for key in ("relative_norm", "norm_z", "cosine", "copy_cosine")
        if (found := [each[key] for each in numbers if key in each])
    }
    return {"probe": probes, "honest_refused": intake(setup, setup.honest), "numbers": spread}


def table(report: Mapping[str, Any], num_attackers: int) -> str:
    """The report as a table for the docs: probe accuracies and who was refused."""
    attacks = list(report["attacks"])
    lines = ["| method | all honest | " + " | ".join(attacks) + " |"]
    lines.append("|---|" + "---|" * (len(attacks) + 1))
    for method in report["control"]["probe"]:
        cells = [f"{report['control']['probe'][method]:.1f}"]
        for attack in attacks:
            found = report["attacks"][attack][str(num_attackers)]["methods"][method]
            cells.append(found if isinstance(found, str) else f"{found['probe']:.1f}")
        lines.append(f"| `{method}` | " + " | ".join(cells) + " |")
    cells = [str(len(report["control"]["honest_refused"]))]
    for attack in attacks:
        refused = report["attacks"][attack][str(num_attackers)]["attackers_refused"]
        rules = ", ".join(sorted(set(refused.values())))
        cells.append(f"{len(refused)} of {num_attackers}" + (f": `{rules}`" if rules else ""))
        wronged = report["attacks"][attack][str(num_attackers)]["honest_refused"]
        cells[-1] += f", and {len(wronged)} honest" if wronged else ""
    lines.append("| refused by intake | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Poisoned contributions against every method.")
    parser.add_argument("--data", type=Path, help="folder of datasets, instead of the examples")
    parser.add_argument("--cache", type=Path, help="where finetunes are kept; a temporary one")
    parser.add_argument("--attackers", type=int, nargs="+", default=list(_NUM_ATTACKERS))
    parser.add_argument("--methods", nargs="+", default=list(_METHODS), choices=_METHODS)
    parser.add_argument("--probe-rows", type=int, nargs=2, default=[300, 500])
    parser.add_argument("--quick", action="store_true", help="seconds instead of half an hour")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="coldfusion-bench-") as work_dir:
        run(options, Path(work_dir))


def run(options: argparse.Namespace, work_dir: Path) -> None:
    setup = _setup(options, work_dir)
    attacks = ["scaled_1e9", "nan"] if options.quick else list(ATTACKS)
    counts = [1] if options.quick else options.attackers
    report = {
        "datasets": setup.names,
        "examples": setup.recipe.max_examples,
        "probe_rows": setup.rows,
        "probe_pretrained": setup.probe(setup.base_dir),
        "control": control(setup),
        "attacks": {
            attack: {str(count): measure(setup, attack, count) for count in counts}
            for attack in attacks
        },
    }
    for count in counts:
        print(f"\n{count} of {len(setup.names)}\n{table(report, count)}", file=sys.stderr)
    print_report("attacks", ("torch", "transformers", "numpy", "scikit-learn"), **report)


def _setup(options: argparse.Namespace, work_dir: Path) -> Setup:
    data, cache = options.data or data_dir(), options.cache or work_dir / "cache"
    names = dataset_names(data, 3 if options.quick else 8)
    recipe = RECIPE.model_copy(update={"max_examples": 16}) if options.quick else RECIPE
    base_dir = pretrained(cache)
    wrong = work_dir / "flipped"
    attackers = names[-max(options.attackers) :]
    for name in attackers:
        flip_labels(data / name, wrong / name)
    common: dict[str, Any] = {"base_dir": base_dir, "cache": cache, "recipe": recipe}
    return Setup(
        methods=("mean", "median") if options.quick else options.methods,
        names=names,
        data=data,
        cache=cache,
        recipe=recipe,
        rows=(60, 40) if options.quick else tuple(options.probe_rows),
        work_dir=work_dir,
        base_dir=base_dir,
        honest=finetuned_deltas(names, data=data, **common),
        flipped=finetuned_deltas(attackers, data=wrong, **common),
    )


if __name__ == "__main__":
    main()
