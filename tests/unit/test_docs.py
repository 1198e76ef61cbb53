"""The docs name everything that there is, in the words of the code."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from coldfusion_queue import errors
from coldfusion_queue.cli.main import cli
from coldfusion_queue.crash_points import CrashPoint
from coldfusion_queue.metrics import document
from coldfusion_queue.metrics.catalogue import CATALOGUE
from coldfusion_queue.records import Hyperparameters, Policy
from coldfusion_queue.settings import Settings

ROOT = Path(__file__).parents[2]
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")


def modules() -> list[Path]:
    found = [
        path
        for package in ("coldfusion_queue", "workers")
        for path in sorted((ROOT / package).rglob("*.py"))
        if path.name != "__init__.py"
    ]
    assert len(found) > 50
    return found


def test_every_module_has_its_line_in_the_architecture() -> None:
    missing = []
    for path in modules():
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        first = docstring.splitlines()[0].rstrip(".").replace("``", "`")
        if f"| `{path.name}` | {first} |" not in ARCHITECTURE:
            missing.append(f"{path.relative_to(ROOT)}: {first}")

    assert missing == []


def test_every_room_in_the_architecture_exists() -> None:
    names = {path.name for path in modules()}

    assert set(re.findall(r"^\| `(\w+\.py)` \|", ARCHITECTURE, re.MULTILINE)) <= names


def test_every_crash_point_is_in_the_protocol_page() -> None:
    protocol = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")

    assert [point for point in CrashPoint if f"`{point}`" not in protocol] == []


def _prose(text: str | None) -> str:
    return " ".join((text or "").replace("``", "`").split())


@pytest.mark.parametrize(
    ("model", "prefix"),
    [
        pytest.param(Settings, "COLDFUSION_", id="settings"),
        pytest.param(Policy, "", id="policy"),
        pytest.param(Hyperparameters, "", id="hyperparameters"),
    ],
)
def test_every_field_is_in_the_operations_page_as_it_is_in_the_code(
    model: type[Settings | Policy | Hyperparameters], prefix: str
) -> None:
    rows = OPERATIONS.splitlines()
    missing = []
    for name, field in model.model_fields.items():
        shown = prefix + name.upper() if prefix else name
        row = next((line for line in rows if line.startswith(f"| `{shown}` |")), "")
        if not field.description or _prose(field.description) not in row:
            missing.append(f"| `{shown}` | {_prose(field.description)}")

    assert missing == []


def test_every_error_has_its_exit_code_in_the_operations_page() -> None:
    leaves = [getattr(errors, name) for name in errors.__all__]
    missing = [
        leaf.__name__
        for leaf in leaves
        if not leaf.__subclasses__()
        and not re.search(rf"^\| {leaf.exit_code} \|.*`{leaf.__name__}`", OPERATIONS, re.MULTILINE)
    ]

    assert missing == []


def test_every_metric_is_in_the_page_of_metrics_as_it_is_in_the_catalogue() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(coldfusion_\w+)` \| (\w+) \|", page, re.MULTILINE)

    assert len(CATALOGUE) > 50
    assert sorted(rows) == sorted((spec.exposed, spec.kind) for spec in CATALOGUE)
    assert document.main(["--check"]) == 0


def test_a_page_of_metrics_that_was_changed_by_hand_is_found(tmp_path: Path) -> None:
    page = ["--page", str(tmp_path / "metrics.md")]

    assert document.main([*page, "--check"]) == 1
    assert document.main(page) == 0
    assert document.main([*page, "--check"]) == 0
    (tmp_path / "metrics.md").write_text("# Metrics\n")
    assert document.main([*page, "--check"]) == 1


def test_every_question_of_the_catalogue_is_a_section_of_its_page() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## (.*)$", page, re.MULTILINE)

    assert sections == list(dict.fromkeys(spec.question for spec in CATALOGUE))


def test_every_command_is_named_in_the_docs() -> None:
    text = OPERATIONS + ARCHITECTURE + (ROOT / "README.md").read_text(encoding="utf-8")

    assert [name for name in cli.commands if f"coldfusion {name}" not in text] == []


def test_every_event_is_in_the_operations_page() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in modules())
    names = set(re.findall(r'"event": f?"([a-z_{}]+)"', source)) - {"turn_{ending}"}
    names |= {"turn_committed", "turn_duplicate"}  # the two endings

    assert len(names) > 10
    assert [name for name in sorted(names) if f"`{name}`" not in OPERATIONS] == []
