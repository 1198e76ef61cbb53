"""Fixtures of the chart's tests: one rendering for each file of values."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chart.rendering import LONG_RELEASE, RELEASE, VALUE_FILES, Object, render


@pytest.fixture(params=VALUE_FILES, ids=lambda path: path.name.removesuffix("-values.yaml"))
def values_file(request: pytest.FixtureRequest) -> Path:
    """Each file of `helm/coldfusion/ci`."""
    path: Path = request.param
    return path


@pytest.fixture(params=[RELEASE, LONG_RELEASE], ids=["short", "long"])
def objects(request: pytest.FixtureRequest, values_file: Path) -> tuple[Object, ...]:
    """What the chart makes of the file, under a short and the longest name of a release."""
    release: str = request.param
    return render(values_file, release)
