"""Judges rendered objects by the schemas of Kubernetes, and custom ones by `schemas/`.

The schemas of Kubernetes are those of the package `kubernetes-validate`, in their strict form:
a field that the API does not have is an error. Its own entry point reads 2 MB for each object.
"""

from __future__ import annotations

import json
import re
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jsonschema.exceptions import best_match
from jsonschema.validators import Draft202012Validator
from referencing import Registry, Resource

from tests.chart.objects import identity
from tests.chart.rendering import Object

SHIPPED = files("kubernetes_validate") / "kubernetes-json-schema"

#: Kinds that belong to an operator, and the schema of each: ours, of what the chart may write.
CUSTOM_KINDS = {
    ("keda.sh/v1alpha1", "ScaledObject"),
    ("keda.sh/v1alpha1", "TriggerAuthentication"),
    ("monitoring.coreos.com/v1", "PodMonitor"),
    ("monitoring.coreos.com/v1", "PrometheusRule"),
    ("monitoring.coreos.com/v1", "ServiceMonitor"),
}

#: The three newest minor versions that there are schemas of, newest last.
KUBERNETES_VERSIONS = tuple(
    sorted(
        (
            match[1]
            for found in SHIPPED.iterdir()
            if (match := re.fullmatch(r"v([\d.]+)-local-strict", found.name))
        ),
        key=lambda version: [int(part) for part in version.split(".")],
    )[-3:]
)

_judged: dict[tuple[str, str], str | None] = {}


def fault(found: Object, version: str) -> str | None:
    """What is wrong with an object in that version of Kubernetes; None of a good one.

    Most objects are the same for many values: each text is judged once.
    """
    key = (version, json.dumps(found, sort_keys=True))
    if key not in _judged:
        _judged[key] = _judge(found, version)
    return _judged[key]


def _judge(found: Object, version: str) -> str | None:
    api, kind = found["apiVersion"], found["kind"]
    custom = (api, kind) in CUSTOM_KINDS
    validator = _custom(kind) if custom else _native(version, kind, api)
    if validator is None:
        return f"{identity(found)}: Kubernetes {version} has no {kind} of {api}"
    error = best_match(validator.iter_errors(found))
    if error is None:
        return None
    return f"{identity(found)}, Kubernetes {version}: {error.json_path}: {error.message[:300]}"


@cache
def _custom(kind: str) -> Draft202012Validator:
    path = Path(__file__).parent / "schemas" / f"{kind.lower()}.json"
    return Draft202012Validator(json.loads(path.read_text(encoding="utf-8")))


@cache
def _native(version: str, kind: str, api: str) -> Draft202012Validator | None:
    group, _, name = api.rpartition("/")
    stem = "-".join(part for part in (kind.lower(), group.partition(".")[0], name) if part)
    schema = SHIPPED / f"v{version}-local-strict" / f"{stem}.json"
    if not schema.is_file():
        return None
    contents = json.loads(schema.read_text(encoding="utf-8"))
    registry = Resource.from_contents(contents) @ _definitions(version)
    return Draft202012Validator(contents, registry=registry)


@cache
def _definitions(version: str) -> Registry[Any]:
    path = SHIPPED / f"v{version}-local-strict" / "_definitions.json"
    return (Resource.from_contents(json.loads(path.read_text("utf-8"))) @ Registry()).crawl()
