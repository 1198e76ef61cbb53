"""The model card: what it says, and that nobody's name changes how it is read."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from coldfusion_queue.records import BaseVersion, ModelIdentity, RepositoryRecord
from coldfusion_queue.report.card_text import card_text
from coldfusion_queue.report.gather import gather
from tests.unit.report.history import START, History, gate_report

FIRST = "a" * 32
HUB_IDS = ["org/model", 'x"\nlicense: mit', "#", "a: b", "---", "\u2028x", "[]", "<b>`|"]


def card(base: BaseVersion, hub_id: str = "org/tiny", **changes: Any) -> str:
    identity = ModelIdentity(
        model_type="bert", hub_id=hub_id, tokenizer_digest=None, num_parameters=33_360_000
    )
    record = RepositoryRecord(
        format_version=1, name="repo", identity=identity, created_at=START, created_by="test"
    )
    given: dict[str, Any] = {"found": [], "gate": None, "names": {}, "brought": None, **changes}
    return card_text(record, base, **given)


def front(text: str) -> dict[str, Any]:
    """What the Hub reads."""
    assert text.startswith("---\n")
    return dict(yaml.safe_load(text.split("\n---\n")[0]))


def rows(text: str, heading: str) -> list[list[str]]:
    """Cells of the first table after a heading."""
    lines = text.partition(heading)[2].splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("| ---")) + 1
    found = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        found.append([cell.strip(" `") for cell in line.strip("|").split("|")])
    return found


@pytest.mark.parametrize("hub_id", HUB_IDS)
def test_the_front_matter_is_yaml_whatever_the_model_is_called(hub_id: str) -> None:
    found = front(card(History().base, hub_id))

    assert found.pop("base_model").replace(" ", "") == hub_id.replace("\n", "").replace(
        "\u2028", ""
    ).replace(" ", "")
    assert found == {
        "license": "other",
        "license_name": "not-set",
        "library_name": "transformers",
        "tags": ["cold-fusion", "model-fusion"],
    }


def test_the_operator_is_told_to_set_the_license() -> None:
    text = card(History().base)

    assert "# The repository's operator sets the license" in text.split("\n---\n")[0]


@pytest.mark.parametrize(
    ("brought", "name"),
    [
        ("---\nlicense: apache-2.0\ntags: []\n---\n# Model", "apache-2.0"),
        ("---\r\nlicense: 'mit'\r\n---\r\n", "mit"),
        ("\ufeff---\nlanguage: en\nlicense: cc-by-4.0 \n---\n", "cc-by-4.0"),
    ],
)
def test_the_pretrained_models_license_is_named_as_its_own(brought: str, name: str) -> None:
    text = card(History().base, brought=brought)

    assert f"# The pretrained model's own card says: {name}" in text
    assert f"The pretrained model's is `{name}`" in text
    assert front(text)["license"] == "other"


@pytest.mark.parametrize(
    "brought",
    [
        "# Model\nlicense: mit\n",
        "---\ntags: []\n---\nlicense: mit\n",
        "---\nlicense: mit\nno end",
        "---\nlicense: `x` | <b>\n---\n",
        "---\nlicense:\n- mit\n---\n",
        "",
    ],
)
def test_a_license_that_is_not_in_the_usual_place_is_not_made_up(brought: str) -> None:
    text = card(History().base, brought=brought)

    assert "is not named in the usual place" in text
    assert "own card says" not in text


def test_without_a_card_of_the_pretrained_model_none_is_claimed() -> None:
    assert "Of the pretrained model no card is here" in card(History().base)


def test_the_lineage_names_each_contribution() -> None:
    history = History()
    history.fuse([history.contribution("early")])
    batch = [
        history.contribution("alice", dataset=FIRST),
        history.contribution("bob", dataset="site:h/x.csv", staleness=1),
        history.contribution("carol", dataset=None),
    ]
    base = history.fuse(batch)

    text = card(base, names={FIRST: "imdb"})

    assert rows(text, "## Lineage") == [
        ["s2.t00001", "alice", "imdb", "0.3333", "0"],
        ["s3.t00001", "bob", "site:h/x.csv", "0.3333", "1"],
        ["s4.t00001", "carol", "unknown", "0.3333", "0"],
    ]
    assert "Version 2 was fused into version 1 with method mean" in text
    assert "from 3 contributions" in text


def test_options_of_the_method_are_named() -> None:
    history = History()
    base = history.fuse([history.contribution("x")]).model_copy(
        update={"method": "ties", "method_options": {"ties_density": 0.2, "ties_scale": 1.0}}
    )

    assert "method ties, ties_density 0.2, ties_scale 1," in card(base)


def test_what_was_rolled_back_is_said() -> None:
    history = History()
    history.fuse([history.contribution("x")])

    assert "Version 2 has the parameters of version 0: version 1 was rolled back" in card(
        history.restore(0)
    )


def test_scores_are_those_of_the_records() -> None:
    history = History()
    history.evaluate(history.base, FIRST, 0.8125, interval=(0.7, 0.9))
    for seed in range(3):
        history.evaluate(history.base, FIRST, 0.9, kind="finetuned", seed=seed)

    text = card(history.base, found=gather(history.repository).scores, names={FIRST: "imdb"})

    assert rows(text, "## Scores") == [
        ["frozen", "imdb", "accuracy", "81.2", "70.0 to 90.0", "1", "50 of test"],
        ["finetuned", "imdb", "accuracy", "90.0", "85.0 to 95.0", "3", "50 of test"],
    ]


def test_the_gates_numbers_are_told() -> None:
    text = card(History().base, gate=gate_report(0.61, 0.6, FIRST), names={FIRST: "imdb"})

    assert "The gate measured 61.00" in text
    assert "60.00 of the version before it; at least 59.00 was needed" in text
    assert ["imdb", "61.0", "60.0"] in rows(text, "was needed")


def test_without_evaluations_no_scores_are_shown() -> None:
    text = card(History().base)

    assert "This version was not evaluated." in text
    assert "The gate" not in text


@pytest.mark.parametrize(
    "hostile",
    ["<script>x</script>", "a | b |", "` <b> `", "x\n\n# Heading", "[x](http://evil)", "\u202ex"],
)
def test_a_name_stays_in_its_cell_as_code(hostile: str) -> None:
    history = History()
    base = history.fuse([history.contribution(hostile, dataset=FIRST)])

    text = card(base, names={FIRST: hostile}, hub_id=hostile)

    (row,) = rows(text, "## Lineage")
    assert len(row) == 5
    body = text.split("\n---\n", 1)[1]
    # What is no code span holds nothing of it.
    outside = "".join(body.split("`")[::2])
    for part in ("<", "[x]", "# Heading", "\u202e"):
        assert part not in outside.partition("## Citation")[0]


def test_it_says_what_it_is_not_how_to_load_it_and_whom_to_cite() -> None:
    text = card(History().base)

    assert "AutoModel.from_pretrained" in text
    assert "without a head" in text
    assert "don-yehiya-etal-2023-cold" in text
