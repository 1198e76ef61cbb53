"""Wrong values are refused before anything is installed, with a sentence that helps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.rendering import CHART, CUSTOM_APIS, RELEASE, RefusedError, helm

CASES: list[dict[str, Any]] = yaml.safe_load(
    (Path(__file__).parent / "wrong_values.yaml").read_text(encoding="utf-8")
)

#: What Go says when a template fails by accident.
ACCIDENTS = ("nil pointer", "error calling", "wrong type for value", "can't evaluate field")


def refusal(case: dict[str, Any]) -> str:
    """What helm says of the values, in one line."""
    base = CHART / "ci" / f"{case.get('on', 'minimal')}-values.yaml"
    apis = [word for api in CUSTOM_APIS for word in ("--api-versions", api)]
    command = ["template", RELEASE, str(CHART), *apis, "--values", str(base), "--values", "-"]
    with pytest.raises(RefusedError) as refused:
        helm(*command, stdin=json.dumps(case["values"]))
    return " ".join(str(refused.value).split())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_wrong_values_are_refused_with_a_sentence(case: dict[str, Any]) -> None:
    message = refusal(case)
    said = [case["says"]] if isinstance(case["says"], str) else case["says"]

    assert [text for text in said if text not in message] == [], message
    assert [word for word in ACCIDENTS if word in message] == [], message


def test_there_are_many_wrong_values_and_each_is_told_apart() -> None:
    assert len(CASES) >= 30
    assert len({case["name"] for case in CASES}) == len(CASES)
    assert [set(case) for case in CASES if not {"name", "values", "says"} <= set(case)] == []
    assert [set(case) for case in CASES if set(case) - {"name", "on", "values", "says"}] == []
