"""What helm makes of the chart: objects, notes and refusals, each rendered once in a test run."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.chart.helm_binary import find_helm

Object = Mapping[str, Any]

CHART = Path(__file__).parents[2] / "helm" / "coldfusion"

#: One file for each way to run the chart.
VALUE_FILES = sorted((CHART / "ci").glob("*-values.yaml"))

#: An ordinary release name, and the longest that helm allows: names made from it are cut.
RELEASE = "cf"
LONG_RELEASE = "a-release-whose-name-is-as-long-as-helm-lets-one-be-x"

#: Kinds that no Kubernetes knows by itself; the chart asks the cluster for them.
CUSTOM_APIS = ("keda.sh/v1alpha1", "monitoring.coreos.com/v1")


class RefusedError(Exception):
    """Helm refused the values; the text is what it printed."""


def helm(*arguments: str, stdin: str = "") -> str:
    """The output of helm.

    Raises:
        RefusedError: it failed.
    """
    answer = subprocess.run(
        [find_helm(), *arguments], input=stdin, capture_output=True, text=True, check=False
    )
    if answer.returncode != 0:
        raise RefusedError(answer.stdout + answer.stderr)
    return answer.stdout


@cache
def render(
    values_file: Path | None = None,
    release: str = RELEASE,
    kubernetes: str | None = None,
    chart: Path = CHART,
) -> tuple[Object, ...]:
    """Every object of ``helm template``, hooks too. Callers do not change them: they are shared."""
    arguments = ["template", release, str(chart), "--namespace", "coldfusion"]
    for api in CUSTOM_APIS:
        arguments += ["--api-versions", api]
    if values_file is not None:
        arguments += ["--values", str(values_file)]
    if kubernetes is not None:
        arguments += ["--kube-version", kubernetes]
    return tuple(load_objects(helm(*arguments)))


def render_values(
    values: Mapping[str, Any], *arguments: str, chart: Path = CHART
) -> tuple[Object, ...]:
    """As :func:`render`, of values that a test makes up."""
    apis = [word for api in CUSTOM_APIS for word in ("--api-versions", api)]
    text = json.dumps(values)
    command = ["template", RELEASE, str(chart), "--namespace", "coldfusion", *apis]
    return tuple(load_objects(helm(*command, "--values", "-", *arguments, stdin=text)))


@cache
def install(values_file: Path | None = None, chart: Path = CHART) -> tuple[str, tuple[Object, ...]]:
    """The notes of an installation, and its objects with the same generated passwords."""
    arguments = ["install", RELEASE, str(chart), "--dry-run=client", "--output", "json"]
    if values_file is not None:
        arguments += ["--values", str(values_file)]
    answer = json.loads(helm(*arguments))
    hooks = [hook["manifest"] for hook in answer.get("hooks") or []]
    objects = [found for text in (answer["manifest"], *hooks) for found in load_objects(text)]
    return answer["info"].get("notes", ""), tuple(objects)


def load_objects(text: str) -> list[Object]:
    """The objects of a stream of YAML documents; a key that is there twice is refused."""
    return [found for found in yaml.load_all(text, Loader=_UniqueKeys) if found]


class _UniqueKeys(yaml.CSafeLoader if hasattr(yaml, "CSafeLoader") else yaml.SafeLoader):  # type: ignore[misc]
    """YAML lets a later key replace an earlier one, which hides one of two settings."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [self.construct_object(key, deep=deep) for key, _ in node.value]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise yaml.constructor.ConstructorError(
                None, None, f"key {sorted(twice)[0]!r} is there twice", node.start_mark
            )
        return super().construct_mapping(node, deep)
