"""Passwords are in secrets and files of secrets, and nowhere else that a person can read."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from pathlib import Path

from tests.chart.objects import identity, of_kind, pods, strings
from tests.chart.rendering import VALUE_FILES, Object, install

#: Shorter words occur by chance.
SHORTEST_BYTES = 8


def secret_values(objects: Iterable[Object]) -> dict[tuple[str, str], str]:
    """What is in the secrets, by name and key."""
    found = {}
    for secret in of_kind(objects, "Secret"):
        for key, value in (secret.get("data") or {}).items():
            found[secret["metadata"]["name"], key] = base64.b64decode(value).decode()
        for key, value in (secret.get("stringData") or {}).items():
            found[secret["metadata"]["name"], key] = value
    return found


def words(text: str) -> set[str]:
    """The parts of a value that could be a password: a file of users holds several."""
    return {word for word in re.split(r"[\s,:;=<>\"'{}@/]+", text) if len(word) >= SHORTEST_BYTES}


def generated(first: Iterable[Object], second: Iterable[Object]) -> set[str]:
    """The words of secrets that come out otherwise each time."""
    once, again = secret_values(first), secret_values(second)
    return {word for key in once for word in words(once[key]) - words(again.get(key, ""))}


def shown(objects: Iterable[Object], notes: str, hidden: set[str]) -> list[str]:
    """Where outside of secrets a hidden word can be read."""
    found = [
        f"{identity(one)}{path}"
        for one in objects
        if one["kind"] != "Secret"
        for path, text in strings(one)
        if any(word in text for word in hidden)
    ]
    return found + ["notes" for word in hidden if word in notes]


def test_generated_passwords_are_in_secrets_only(values_file: Path) -> None:
    notes, objects = install(values_file)
    again = install.__wrapped__(values_file)[1]

    assert shown(objects, notes, generated(objects, again)) == []


def test_some_files_of_values_have_passwords_generated() -> None:
    """Else the test above would look for nothing."""
    minimal = next(path for path in VALUE_FILES if path.name == "minimal-values.yaml")

    assert generated(install(minimal)[1], install.__wrapped__(minimal)[1])


def test_the_environment_holds_no_secret(objects: tuple[Object, ...]) -> None:
    """A variable is in the dump of every crash, and in `kubectl describe` of a careless chart."""
    wrong = []
    for pod in pods(objects):
        for container in pod.containers():
            for entry in container.get("env") or []:
                if "secretKeyRef" in (entry.get("valueFrom") or {}):
                    wrong.append(f"{pod.name}, {container['name']}: {entry['name']}")
            for entry in container.get("envFrom") or []:
                if "secretRef" in entry:
                    wrong.append(f"{pod.name}, {container['name']}: {entry}")

    assert wrong == []


def test_files_of_secrets_are_read_only_and_not_for_everybody(
    objects: tuple[Object, ...],
) -> None:
    wrong = []
    for pod in pods(objects):
        for volume in pod.volumes():
            source = volume.get("secret") or volume.get("projected") or {}
            holds = "secret" in volume or any("secret" in one for one in source.get("sources", []))
            if holds and source.get("defaultMode", 0o644) & 0o007:
                wrong.append(f"{pod.name}: volume {volume['name']} is for everybody")
            for container in pod.containers():
                for mount in container.get("volumeMounts") or []:
                    if holds and mount["name"] == volume["name"] and not mount.get("readOnly"):
                        wrong.append(f"{pod.name}: {container['name']} can write {volume['name']}")

    assert wrong == []


def test_a_password_that_is_shown_is_seen() -> None:
    pod: Object = {
        "kind": "Pod",
        "metadata": {"name": "one"},
        "spec": {"containers": [{"args": ["--password=hunter2hunter2"]}]},
    }

    assert shown([pod], "log in with hunter2hunter2", {"hunter2hunter2"}) == [
        "Pod/one.spec.containers[0].args[0]",
        "notes",
    ]
