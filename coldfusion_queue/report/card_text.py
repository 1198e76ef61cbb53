"""What a model card says, as Markdown in which no text of a record can become markup."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from coldfusion_queue.records import BaseVersion, GateReport, RepositoryRecord
from coldfusion_queue.report.data import Score
from coldfusion_queue.report.markup import clean
from coldfusion_queue.report.scores import by_name
from coldfusion_queue.report.tables import percent

__all__ = ["PRETRAINED_CARD_FILE", "card_text"]

#: The card that the pretrained model brought along. It is kept as it is, under another name: what
#: it says of data and scores is of the pretrained model, and would be read as of this one if ours
#: were put before or after it. Its digest is that of README.md in lineage.json.
PRETRAINED_CARD_FILE = "README.pretrained.md"

#: What of a pretrained model's card may be a licence; anything else is not repeated.
_LICENSE = re.compile(r"^license:[ \t]*['\"]?([A-Za-z0-9][A-Za-z0-9._+-]{0,63})['\"]?[ \t]*$", re.M)
_FRONT_MATTER = re.compile(r"\A---\r?\n(.*?)\r?\n---", re.DOTALL)
#: Letters of a name in a table.
_MAX_NAME = 200

_CITATION = """\
```bibtex
@inproceedings{don-yehiya-etal-2023-cold,
  title = "{C}ol{D} Fusion: Collaborative Descent for Distributed Multitask Finetuning",
  author = "Don-Yehiya, Shachar and Venezian, Elad and Raffel, Colin and Slonim, Noam and
    Choshen, Leshem",
  booktitle = "Proceedings of the 61st Annual Meeting of the Association for Computational
    Linguistics (Volume 1: Long Papers)",
  year = "2023",
  pages = "788--806",
}
```
"""

_LIMITS = """\
- It is a body without a head: for a task, a head has to be trained, best together with the body.
- A fused base model is a starting point for finetuning. As it is, its features may be worse for a
  dataset than those of a model that was finetuned on that dataset.
- It learned from the contributors' data, which is not in this directory. Nobody looked through that
  data for errors or biases.
- Contributions are checked for what their numbers are like, not for what they teach.
"""


def card_text(
    record: RepositoryRecord,
    base: BaseVersion,
    found: Sequence[Score],
    gate: GateReport | None,
    names: Mapping[str, str],
    brought: str | None,
) -> str:
    """The card as Markdown.

    Args:
        record: of the repository.
        base: what is described.
        found: its scores.
        gate: what the gate found of it, if it did.
        names: of all datasets that occur, by id.
        brought: the card that the pretrained model brought along, if it did.
    """
    license_name = None if brought is None else _license(brought)
    parts = [
        *_front_matter(record, license_name),
        f"# {_code(record.name)}, base version {base.version}",
        "",
        *_description(record, base),
        _told_license(brought, license_name),
        "",
        "## How to load it",
        "",
        "```python",
        "from transformers import AutoModel, AutoTokenizer",
        "",
        'model = AutoModel.from_pretrained("DIRECTORY")  # where this file is',
        'tokenizer = AutoTokenizer.from_pretrained("DIRECTORY")',
        "```",
        "",
        "## Lineage",
        "",
        *_lineage(base, names),
        "## Scores",
        "",
        *_scores(found, names),
        *_gate_lines(gate, names),
        "## Limits",
        "",
        _LIMITS,
        "## Citation",
        "",
        _CITATION,
    ]
    return "\n".join(parts)


def _license(text: str) -> str | None:
    """The licence that a card's front matter names."""
    front = _FRONT_MATTER.match(text.lstrip("\ufeff"))
    found = _LICENSE.search(front[1].replace("\r", "")) if front else None
    return found[1] if found else None


def _front_matter(record: RepositoryRecord, license_name: str | None) -> Iterator[str]:
    yield "---"
    yield "# The repository's operator sets the license before the model is passed on."
    if license_name is not None:
        yield f"# The pretrained model's own card says: {license_name}"
    yield "license: other"
    yield "license_name: not-set"
    # JSON is YAML, so a name can hold anything.
    yield f"base_model: {json.dumps(clean(record.identity.hub_id, _MAX_NAME))}"
    yield "library_name: transformers"
    yield "tags:"
    yield "- cold-fusion"
    yield "- model-fusion"
    yield "---"
    yield ""


def _description(record: RepositoryRecord, base: BaseVersion) -> Iterator[str]:
    identity = record.identity
    size = f"{_code(identity.model_type)}, {identity.num_parameters:,} parameters"
    pretrained = f"{_code(identity.hub_id)} ({size})"
    if base.parent is None:
        yield f"The pretrained model {pretrained}, as the repository began with it."
    else:
        yield (
            f"A base model for finetuning. It began as {pretrained}. Contributors finetuned it on "
            "datasets of their own, and what they learned was fused into it, version by version: "
            "ColD Fusion."
        )
    yield ""


def _told_license(brought: str | None, license_name: str | None) -> str:
    told = "License: not set. The repository's operator sets it before the model is passed on."
    if brought is None:
        return f"{told} Of the pretrained model no card is here, so look for its license there."
    kept = f"its card is kept as {PRETRAINED_CARD_FILE}"
    if license_name is None:
        return f"{told} The pretrained model's is not named in the usual place; {kept}."
    return f"{told} The pretrained model's is {_code(license_name)}; {kept}."


def _lineage(base: BaseVersion, names: Mapping[str, str]) -> Iterator[str]:
    if base.restores is not None:
        yield (
            f"Version {base.version} has the parameters of version {base.restores}: version "
            f"{base.parent} was rolled back. The history of version {base.restores} is its own."
        )
    elif base.parent is None:
        yield "It is the pretrained model itself: nothing was fused into it."
    else:
        options = "".join(
            f", {key} {value:g}" for key, value in sorted(base.method_options.items())
        )
        yield (
            f"Version {base.version} was fused into version {base.parent} with method "
            f"{base.method}{options}, server learning rate {base.server_learning_rate or 1:g}, "
            f"from {len(base.fused)} contributions. lineage.json says it in full."
        )
    yield ""
    if base.fused:
        head = ("contribution", "contributor", "dataset", "coefficient", "staleness")
        rows = [
            (
                _code(line.contribution_id),
                _code(line.contributor_id),
                _dataset(line.dataset_id, names),
                f"{line.coefficient:.4f}",
                str(line.staleness),
            )
            for line in base.fused
        ]
        yield from _table(head, rows)


def _scores(found: Sequence[Score], names: Mapping[str, str]) -> Iterator[str]:
    if not found:
        yield "This version was not evaluated."
        yield ""
        return
    head = ("kind", "dataset", "metric", "score", "95 % interval", "seeds", "scored")
    rows = [
        (
            item.way,
            _dataset(item.dataset_id, names),
            item.metric,
            percent(item.score),
            f"{percent(item.interval[0])} to {percent(item.interval[1])}",
            str(item.num_seeds),
            f"{item.num_scored} of {item.scored_on}",
        )
        for item in by_name(found, names)
    ]
    yield from _table(head, rows)
    yield (
        "In percent, the mean over the seeds. Intervals are over the scored examples and say "
        "nothing of other seeds. `frozen` is a linear probe on the frozen body, `finetuned` a full "
        "finetune from this model, `few_shot` the same on so many examples."
    )
    yield ""


def _gate_lines(gate: GateReport | None, names: Mapping[str, str]) -> Iterator[str]:
    if gate is None:
        return
    yield (
        f"The gate measured {percent(gate.mean, 2)} as the mean over its datasets when this "
        f"version was fused, and {percent(gate.reference_mean, 2)} of the version before it; at "
        f"least {percent(gate.floor, 2)} was needed."
    )
    yield ""
    rows = [
        (_dataset(name, names), percent(score), percent(gate.reference.get(name)))
        for name, score in sorted(gate.scores.items())
    ]
    yield from _table(("gate dataset", "this version", "version before it"), rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    for cells in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(cells)} |"
    yield ""


def _dataset(dataset_id: str | None, names: Mapping[str, str]) -> str:
    return "unknown" if dataset_id is None else _code(names.get(dataset_id, dataset_id))


def _code(text: str) -> str:
    """Text of a record, which is no markup and no link in a code span."""
    shown = " ".join(clean(text, _MAX_NAME).split()).replace("`", "'").replace("|", "¦")
    return f"`{shown}`"
