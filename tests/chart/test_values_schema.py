"""The schema of the values knows every key that the values have, and no other."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from jsonschema.validators import Draft202012Validator

from coldfusion_queue.settings import Settings
from tests.chart.rendering import CHART

Schema = Mapping[str, Any]

#: Places where a value may leave out what the schema knows: settings of the program, whose defaults
#: are its own, and what helm adds by itself.
OPTIONAL = ("#/$defs/settings/", "#/global")

#: Settings that are no values: they follow from others, or are secrets.
OF_THE_CHART = {
    "broker_ca_file",
    "broker_password",
    "broker_sentinel_master",
    "broker_sentinel_password",
    "broker_url",
    "broker_username",
    "drain_seconds",
    "home",
    "metrics_host",
    "metrics_port",
    "pool",
    "repository",
    "s3_access_key",
    "s3_addressing",
    "s3_bucket",
    "s3_ca_file",
    "s3_endpoint",
    "s3_region",
    "s3_secret_key",
    "s3_session_token",
    "secrets_dir",
    "site",
    "site_data_dir",
    "soft_shutdown_seconds",
}


def schema() -> dict[str, Any]:
    """The schema, with no reference followed."""
    text = (CHART / "values.schema.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def defaults() -> dict[str, Any]:
    """The values that the chart comes with."""
    found: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    return found


def resolve(node: Schema, root: Schema) -> Schema:
    """What a node refers to; keywords beside a reference count too."""
    merged = {key: value for key, value in node.items() if key != "$ref"}
    if "$ref" in node:
        target: Any = root
        for part in node["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        merged = {**resolve(target, root), **merged}
    return merged


def is_named_map(node: Schema) -> bool:
    """Whether its keys are names that the operator chooses: pools, labels, sites."""
    return isinstance(node.get("additionalProperties"), dict) and not node.get("properties")


def is_of_kubernetes(node: Schema) -> bool:
    """Whether it is passed on as it is to a field whose schema is that of Kubernetes."""
    return str(node.get("$comment", "")).startswith("Kubernetes")


def differences(values: Any, root: Schema) -> list[str]:
    """The keys that one of the two has and the other has not.

    A schema that several keys share has to be seen in full once: pools give some of the keys whose
    defaults are in `poolDefaults`.
    """
    strange: list[str] = []
    seen: dict[str, set[str]] = {}
    known: dict[str, set[str]] = {}

    def visit(found: Any, node: Schema, place: str, path: str) -> None:
        place = node.get("$ref", place)
        node = resolve(node, root)
        if not isinstance(found, dict) or is_of_kubernetes(node):
            return
        if is_named_map(node):
            for name, value in found.items():
                visit(value, node["additionalProperties"], f"{place}/*", f"{path}.{name}")
            return
        properties = node.get("properties") or {}
        strange.extend(f"{path}.{key}" for key in found.keys() - properties.keys())
        known[place] = set(properties)
        seen.setdefault(place, set()).update(found)
        for key in found.keys() & properties.keys():
            visit(found[key], properties[key], f"{place}/{key}", f"{path}.{key}")

    visit(values, root, "#", "")
    unused = [f"{place}/{key}" for place in known for key in known[place] - seen[place]]
    return sorted(
        [f"{path} is not in the schema" for path in strange]
        + [f"{place} is not in the values" for place in unused]
    )


def open_objects(node: Any, path: str = "#") -> Iterator[str]:
    """Schemas of objects that would let a key with a slip of the pen pass."""
    if isinstance(node, dict):
        if "properties" in node or node.get("type") == "object":
            additional = node.get("additionalProperties", True)
            closed = additional is False or (isinstance(additional, dict) and is_named_map(node))
            if not (closed or is_of_kubernetes(node)):
                yield path
        for key, value in node.items():
            # Parts of a condition constrain an object that is closed elsewhere.
            if key not in ("if", "then", "else", "not", "allOf", "anyOf", "oneOf", "contains"):
                yield from open_objects(value, f"{path}/{key}")
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from open_objects(value, f"{path}/{index}")


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(schema())

    assert schema()["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_the_defaults_are_valid() -> None:
    errors = Draft202012Validator(schema()).iter_errors(defaults())

    assert [f"{error.json_path}: {error.message}" for error in errors] == []


def test_values_and_schema_have_the_same_keys() -> None:
    found = differences(defaults(), schema())

    assert [text for text in found if not text.startswith(OPTIONAL)] == []


def test_the_schema_has_the_settings_of_the_program() -> None:
    known = set(schema()["$defs"]["settings"]["properties"])

    assert known == set(Settings.model_fields) - OF_THE_CHART


def test_no_object_takes_keys_that_nothing_reads() -> None:
    assert [path for path in open_objects(schema()) if path != "#/properties/global"] == []


def test_a_key_that_only_one_of_them_has_is_seen() -> None:
    root = {
        "properties": {"pools": {"additionalProperties": {"$ref": "#/$defs/pool"}}, "gone": {}},
        "$defs": {"pool": {"properties": {"size": {}}}},
    }

    found = differences({"pools": {"a": {"sise": 2}, "b": {"size": 1}}}, root)

    assert found == ["#/gone is not in the values", ".pools.a.sise is not in the schema"]


def test_an_open_object_is_seen() -> None:
    root = {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "open": {"type": "object"},
            "named": {"type": "object", "additionalProperties": {"type": "string"}},
            "affinity": {"type": "object", "$comment": "Kubernetes: Affinity"},
        },
    }

    assert list(open_objects(root)) == ["#/properties/open"]
