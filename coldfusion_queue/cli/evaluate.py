"""``coldfusion evaluate``: measure base versions on datasets."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from coldfusion_queue.cli.common import (
    console,
    json_option,
    open_evaluation_sender,
    open_repository,
    parse_settings,
    print_json,
)
from coldfusion_queue.errors import RetryableError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coldfusion_queue.records import BaseVersion, Evaluation, EvaluationSpec
    from coldfusion_queue.repository.repository import Repository
    from coldfusion_queue.settings import Settings

__all__ = ["evaluate"]

_POLL_SECONDS = 0.5


@click.command()
@click.argument("versions", nargs=-1, type=click.IntRange(min=0), metavar="[VERSION]...")
@click.option(
    "--dataset",
    "datasets",
    multiple=True,
    metavar="NAME",
    help="Who submitted it, or its id; may be given several times.",
)
@click.option("--gate", is_flag=True, help="What the gate measures, in place of all other options.")
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    default=["frozen"],
    show_default=True,
    type=click.Choice(["frozen", "finetuned", "few_shot"]),
    help="Linear probe, finetune, or finetune on a few examples.",
)
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Finetunes of each, with seeds from 0; a probe has one.",
)
@click.option(
    "--shots",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="Examples of a few_shot evaluation.",
)
@click.option(
    "--split",
    type=click.Choice(["test", "validation"]),
    default="test",
    show_default=True,
    help="What is scored on.",
)
@click.option(
    "--set", "pairs", multiple=True, metavar="KEY=VALUE", help="Hyperparameter, e.g. epochs=3."
)
@click.option("--again", is_flag=True, help="Try once more what failed.")
@click.option("--wait", is_flag=True, help="Wait until all of it is done.")
@json_option
def evaluate(
    versions: tuple[int, ...],
    datasets: tuple[str, ...],
    gate: bool,
    kinds: tuple[str, ...],
    seeds: int,
    shots: int,
    split: str,
    pairs: tuple[str, ...],
    again: bool,
    wait: bool,
    as_json: bool,
) -> None:
    """Measure base VERSIONs, the newest by default, on uploaded datasets.

    What was measured before is shown, not measured again: a record is for the parameters of a
    model, whatever number they have.
    """
    from coldfusion_queue.records import Hyperparameters
    from coldfusion_queue.repository.datasets import find_dataset

    if gate == bool(datasets):
        raise UsageError("--dataset", "with --gate, or neither", "one of the two")
    hyperparameters = parse_settings(Hyperparameters, pairs)
    settings, repository = open_repository()
    if gate:
        specs = _gate_specs(repository)
    else:
        names = {name: find_dataset(repository, name) for name in datasets}
        specs = {
            name: _specs(dataset_id, kinds, seeds, shots, split, hyperparameters)
            for name, dataset_id in names.items()
        }
    bases = [repository.ledger.base_version(number) for number in versions or [None]]
    _ask(settings, repository, bases, [spec for each in specs.values() for spec in each], again)
    lines = [(base, name, spec) for base in bases for name, each in specs.items() for spec in each]
    found = _look(repository, lines)
    while wait and "waiting" in found:
        time.sleep(_POLL_SECONDS)
        found = _look(repository, lines)
    data = [_line(*line, evaluation) for line, evaluation in zip(lines, found, strict=True)]
    if as_json:
        print_json(data)
    else:
        _print(data)


def _ask(
    settings: Settings,
    repository: Repository,
    bases: list[BaseVersion],
    specs: list[EvaluationSpec],
    again: bool,
) -> None:
    sender = open_evaluation_sender(settings)
    for base in bases:
        if again:
            repository.evaluations.forget_failures(base, specs)
        for request in repository.evaluations.want(base, specs):
            try:
                sender.send(request.evaluation_id)
            except RetryableError as error:
                click.echo(f"note: {error}; it will be sent later", err=True)


def _gate_specs(repository: Repository) -> dict[str, list[EvaluationSpec]]:
    from coldfusion_queue.repository.gating import gate_specs

    specs = gate_specs(repository.ledger.newest().after.policy)
    if not specs:
        raise UsageError("--gate", "without a gate", "gate_datasets in the policy")
    return {spec.dataset_id: [spec] for spec in specs}


def _specs(
    dataset_id: str,
    kinds: tuple[str, ...],
    seeds: int,
    shots: int,
    split: str,
    hyperparameters: Any,
) -> list[EvaluationSpec]:
    from coldfusion_queue.records import EvaluationSpec

    return [
        EvaluationSpec.model_validate(
            {
                "dataset_id": dataset_id,
                "kind": kind,
                "seed": seed,
                "split": split,
                "num_shots": shots if kind == "few_shot" else None,
                "hyperparameters": hyperparameters,
            }
        )
        for kind in kinds
        for seed in range(1 if kind == "frozen" else seeds)
    ]


def _look(
    repository: Repository, lines: Sequence[tuple[BaseVersion, str, EvaluationSpec]]
) -> list[Evaluation | str]:
    """What was found; ``waiting``, or ``gone`` if the files of the version are."""
    evaluations = repository.evaluations
    found: list[Evaluation | str] = []
    for base, _, spec in lines:
        name = spec.evaluation_id(base.digest)
        # The request first: it is deleted after the record is made.
        is_wanted = evaluations.request(name) is not None
        found.append(evaluations.find(name) or ("waiting" if is_wanted else "gone"))
    return found


def _line(
    base: BaseVersion, name: str, spec: EvaluationSpec, look: Evaluation | str
) -> dict[str, Any]:
    found = None if isinstance(look, str) else look
    return {
        "base_version": base.version,
        "dataset": name,
        "kind": spec.kind,
        "seed": spec.seed,
        "shots": spec.num_shots,
        "state": look if isinstance(look, str) else "failed" if look.failure else "done",
        "metric": found.metric if found else None,
        "score": found.score if found else None,
        "interval": found.interval if found else None,
        "scored_on": found.scored_on if found else None,
        "num_scored": found.num_scored if found else None,
        "seconds": found.seconds if found else None,
        "failure": found.failure if found else None,
        "evaluation": spec.evaluation_id(base.digest),
    }


def _print(data: list[dict[str, Any]]) -> None:
    from rich.table import Table

    table = Table("base", "dataset", "kind", "seed", "score", "95 %", "", box=None, pad_edge=False)
    for item in data:
        score, interval = item["state"], ""
        if item["score"] is not None:
            low, high = item["interval"]
            score, interval = f"{100 * item['score']:.1f}", f"{100 * low:.1f} to {100 * high:.1f}"
        kind = f"few_shot {item['shots']}" if item["shots"] else item["kind"]
        note = item["failure"] or (
            f"{item['metric']} on {item['num_scored']} of {item['scored_on']}"
            if item["metric"]
            else ""
        )
        version, seed = str(item["base_version"]), str(item["seed"])
        table.add_row(version, item["dataset"], kind, seed, score, interval, note)
    console().print(table)
