"""Rules whose hours pass in seconds: which durations become shorter, and what is left alone."""

from __future__ import annotations

import pytest
import yaml

from tests.monitoring.quickening import quickened, quickened_expr, seconds_of, shortened

RULES = """
groups:
  - name: one
    interval: 30s
    rules:
      - alert: Waits
        expr: max by (queue) (age_seconds{queue=~"[5m]|offset 1h"}) > 1800 and delta(length[1h]) > 0
        for: 15m
      - record: rate
        expr: rate(things_total[5m] offset 1h30m)
      - alert: AtOnce
        expr: max_over_time(rate(things_total[5m])[1h:30s]) > 2 and x[2h:] offset - 10m
"""


def exprs(text: str) -> list[str]:
    return [rule["expr"] for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]


def test_durations_are_read_as_prometheus_writes_them() -> None:
    assert seconds_of("1h30m") == 5400
    assert seconds_of("1w2d") == 9 * 86400
    assert seconds_of("500ms") == 0.5


def test_a_duration_is_divided_but_becomes_no_shorter_than_it_may() -> None:
    assert shortened("1h", 60) == "60000ms"
    assert shortened("5m", 100, least_seconds=5) == "5000ms"
    assert shortened("2s", 100, least_seconds=5) == "2000ms"


def test_ranges_subqueries_and_offsets_become_shorter_and_strings_and_numbers_do_not() -> None:
    first, second, third = exprs(quickened(RULES, 60, 5))

    assert first == (
        'max by (queue) (age_seconds{queue=~"[5m]|offset 1h"}) > 1800'
        " and delta(length[60000ms]) > 0"
    )
    assert second == "rate(things_total[5000ms] offset 90000ms)"
    assert third == (
        "max_over_time(rate(things_total[5000ms])[60000ms:1000ms]) > 2"
        " and x[120000ms:] offset -10000ms"
    )


def test_variables_of_a_dashboard_are_left_as_they_are() -> None:
    expr = "max_over_time(x[$__range:1m]) - rate(y[$__rate_interval] offset $__interval) + z[5m]"

    assert quickened_expr(expr, 60, 5) == (
        "max_over_time(x[$__range:1000ms]) - rate(y[$__rate_interval] offset $__interval)"
        " + z[5000ms]"
    )


def test_an_offset_of_one_step_stays_one_step() -> None:
    expr = "sum_over_time((x - last_over_time(x[5m] offset 1m))[$__range:1m])"

    assert quickened_expr(expr, 100, 5) == (
        "sum_over_time((x - last_over_time(x[5000ms] offset 1000ms))[$__range:1000ms])"
    )


def test_alerts_wait_a_shorter_time_and_groups_have_the_common_interval() -> None:
    (group,) = yaml.safe_load(quickened(RULES, 60, 5))["groups"]

    assert [rule.get("for") for rule in group["rules"]] == ["15000ms", None, None]
    assert "interval" not in group


def test_what_is_no_duration_is_written_otherwise_where_it_is_asked_for() -> None:
    text = quickened(RULES, 60, 5, {"Waits": {"> 1800": "> 30", "15m": "30m"}})

    assert "> 30 and" in exprs(text)[0]
    assert yaml.safe_load(text)["groups"][0]["rules"][0]["for"] == "30000ms"


@pytest.mark.parametrize(
    "rewritten", [{"Waits": {"> 1801": "> 30"}}, {"Sleeps": {"> 1800": "> 30"}}]
)
def test_a_part_to_rewrite_that_is_not_there_is_an_error(
    rewritten: dict[str, dict[str, str]],
) -> None:
    with pytest.raises(AssertionError, match=r"not in it|no such alerts"):
        quickened(RULES, 60, 5, rewritten)
