"""The auditor repeats none of the writer's mistakes, because it shares none of its code."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import coldfusion_queue.audit
from coldfusion_queue.audit import Check

PACKAGE = Path(coldfusion_queue.audit.__file__).parent
OPERATIONS = Path(__file__).parents[3] / "docs" / "operations.md"

SHARED = {
    "coldfusion_queue.errors",
    "coldfusion_queue.records",
    "coldfusion_queue.settings",
    "coldfusion_queue.store.connection",
}


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, path
            found.add(str(node.module))
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.split(".")[0] == "coldfusion_queue"}


def test_of_the_program_the_auditor_imports_records_and_the_connection_alone() -> None:
    modules = sorted(PACKAGE.glob("*.py"))
    names = set().union(*map(imported, modules))

    assert len(modules) > 10
    assert {name for name in names if not name.startswith("coldfusion_queue.audit")} == SHARED


def test_every_check_is_in_the_operations_page() -> None:
    rows = re.findall(r"^\| `([a-z_]+\.[a-z_]+)` \|", OPERATIONS.read_text("utf-8"), re.MULTILINE)

    assert [row for row in rows if row in set(Check)] == list(Check)
