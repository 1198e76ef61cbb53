"""Numbers, colours and tables as Grafana shows them: what the drawn dashboards rest on."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.monitoring.drawing.fields import Look, colour, reduced
from tests.monitoring.drawing.frames import Asked, fields_of, table_of
from tests.monitoring.drawing.units import written
from tests.monitoring.expressions import filled
from tests.monitoring.prometheus import Prometheus, Series


class Answers(Prometheus):
    """Has one answer for each expression, and keeps for which time and step it was asked."""

    asked: list[tuple[float, ...]]

    def query(self, expr: str, time: float | None = None) -> list[Series]:
        return self._answers[expr]

    def query_range(self, expr: str, start: float, end: float, step: float) -> list[Series]:
        self.asked.append((start, end, step))
        return self._answers[expr]

    _answers: dict[str, list[Series]]


@pytest.fixture
def asked(tmp_path: Any) -> Asked:
    server = Answers(tmp_path, 1)
    vars(server).update(asked=[], _answers={})
    return Asked(server, 1000, 1600, 2, {"repository": "words"})


def answer(asked: Asked, expr: str, *series: Series) -> None:
    vars(asked.prometheus)["_answers"][expr] = list(series)


def one(value: float, **labels: str) -> Series:
    return Series(labels, (1600.0,), (value,))


@pytest.mark.parametrize(
    ("value", "unit", "decimals", "text"),
    [
        (0.8754, "percentunit", None, "87.5%"),
        (0.8754, "percentunit", 0, "88%"),
        (12, "percent", None, "12%"),
        (1536, "bytes", None, "1.5 KiB"),
        (1536, "decbytes", None, "1.54 kB"),
        (3_000_000, "Bps", None, "3 MB/s"),
        (0.0042, "s", None, "4.2 ms"),
        (90, "s", None, "1.5 min"),
        (0, "s", None, "0 s"),
        (1_234_567, "short", None, "1.23 Mil"),
        (0.5, "ops", None, "0.5 ops/s"),
        (7, "", None, "7"),
        (3, "suffix: of 4", None, "3 of 4"),
        (math.nan, "s", None, "-"),
        (math.inf, "short", None, "∞"),
    ],
)
def test_numbers_have_three_digits_and_the_unit_that_fits(
    value: float, unit: str, decimals: int | None, text: str
) -> None:
    assert written(value, unit, decimals) == text


def test_a_unit_that_is_not_known_is_an_error() -> None:
    with pytest.raises(KeyError, match="furlong"):
        written(1, "furlong")


def test_variables_are_filled_as_grafana_writes_them() -> None:
    values = {"repository": "words", "__rate_interval": "5s", "site": ".*"}

    text = filled('rate(a{b="$repository", c=~"${site:regex}", d=~"x$"}[$__rate_interval])', values)

    assert text == 'rate(a{b="words", c=~".*", d=~"x$"}[5s])'
    with pytest.raises(KeyError):
        filled("$pod", values)


def test_the_last_step_that_a_value_reaches_gives_its_colour() -> None:
    steps = [{"value": None, "color": "green"}, {"value": 2, "color": "red"}]
    look = Look(steps=steps, mappings=[{"type": "value", "options": {"0": {"text": "none"}}}])

    assert [look.colour_of(value) for value in (1.9, 2, 5)] == [
        colour("green"),
        colour("red"),
        colour("red"),
    ]
    assert [look.text(0), look.text(3)] == ["none", "3"]


def test_an_override_is_of_the_field_with_its_name_alone() -> None:
    override = {
        "matcher": {"id": "byName", "options": "loss"},
        "properties": [{"id": "unit", "value": "s"}, {"id": "custom.width", "value": 80}],
    }
    panel = {"fieldConfig": {"defaults": {"unit": "bytes"}, "overrides": [override]}}

    mine, other = Look.of(panel, "loss", "A"), Look.of(panel, "gain", "A")

    assert (mine.unit, mine.custom) == ("s", {"width": 80})
    assert (other.unit, other.custom) == ("bytes", {})


def test_many_values_become_one_as_asked_for() -> None:
    values = [math.nan, 4.0, 1.0, 3.0, math.nan]

    found = [reduced(values, calc) for calc in ("lastNotNull", "max", "min", "mean", "sum")]

    assert found == [3, 4, 1, 8 / 3, 8]
    assert math.isnan(reduced([math.nan], "max"))


def test_series_are_called_by_their_legend(asked: Asked) -> None:
    answer(asked, 'up{repository="words"}', one(1, worker="finetune-1"))
    target = {"refId": "A", "expr": 'up{repository="$repository"}', "legendFormat": "{{worker}} up"}

    (field,) = fields_of({"targets": [target]}, asked)

    assert field.name == "finetune-1 up"
    assert field.series.values == (1,)


def test_a_panels_shortest_step_is_divided_as_the_durations_of_rules_are(asked: Asked) -> None:
    answer(asked, "rate(a[16s])")
    panel = {"interval": "5m", "targets": [{"refId": "A", "expr": "rate(a[$__rate_interval])"}]}
    quick = Asked(asked.prometheus, 1000, 1600, 2, {}, factor=20)

    fields_of(panel, quick.of_panel(panel))

    assert vars(asked.prometheus)["asked"] == [(1000, 1600, 15)]


def test_a_table_has_a_row_for_what_its_queries_have_in_common(asked: Asked) -> None:
    answer(asked, "a", one(1, queue="x"), one(2, queue="y"))
    answer(asked, "b", one(30, queue="y", instance="z"))
    names = {"queue": "Queue", "Value #A": "Waiting", "Value #B": "Taken"}
    panel = {
        "targets": [
            {"refId": "A", "expr": "a", "instant": True},
            {"refId": "B", "expr": "b", "instant": True},
        ],
        "transformations": [
            {"id": "filterFieldsByName", "options": {"include": {"names": list(names)}}},
            {"id": "merge", "options": {}},
            {"id": "organize", "options": {"renameByName": names, "excludeByName": {}}},
        ],
        "options": {"sortBy": [{"displayName": "Waiting", "desc": True}]},
    }

    columns = table_of(panel, asked)

    assert {item.name: list(item.cells) for item in columns} == {
        "Queue": ["y", "x"],
        "Waiting": [2, 1],
        "Taken": [30, None],
    }


def test_a_transformation_that_is_not_known_is_an_error(asked: Asked) -> None:
    answer(asked, "a", one(1))
    target = {"refId": "A", "expr": "a", "instant": True}

    with pytest.raises(KeyError, match="pivot"):
        table_of({"targets": [target], "transformations": [{"id": "pivot"}]}, asked)
