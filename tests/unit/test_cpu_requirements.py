"""What the CPU image leaves out is loaded by none of its processes and commands."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.cpu_image import closure, installed_modules, listed, normal

ROOT = Path(__file__).parents[2]

#: Processes of the image, and what their tasks load when they run.
PROCESSES = ("workers.fusion_worker", "workers.beat", "workers.exporter")
LOADED_LATER = (
    "coldfusion_queue.queue.tasks",
    "celery.apps.worker",
    "celery.bin.worker",
    "celery.apps.beat",
    "kombu.transport.redis",
    "minio.credentials",
    "prometheus_client.multiprocess",
    "rich.progress",
    "rich.table",
)
#: Commands that load no model.
COMMANDS = (
    *("audit", "cancel", "config", "doctor", "evaluate", "fuse", "gc", "history", "policy"),
    *("pull", "report", "rollback", "show", "status"),
)
#: Rooms that a model is finetuned, measured or taken in with; functions of the rest load them.
HEAVY_ROOMS = ("demo", "evaluation", "experiment", "finetune", "intake", "local", "sites")
#: Modules at the edge, which alone import those: for turns, for evaluations, for what comes in.
AT_THE_EDGE = {
    *("evaluating", "turn", "turn_attempt", "turn_checkpoints", "turn_data", "turn_endings"),
    *("turn_head", "uploading", "residuals", "abandoned"),
    *("cli.contribute", "cli.demo", "cli.experiment", "cli.init", "cli.stack", "cli.submit"),
    *("cli.submit_site", "cli.evaluate"),
}


_LOAD = """
import importlib, sys
from tests.cpu_image import block_all_but, installed_modules
block_all_but(installed_modules())
for name in sys.argv[1:]:
    importlib.import_module(name)
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def load_with_the_list_alone(*modules: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", _LOAD, *modules],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-1500:]
    return set(done.stdout.split())


def light_modules() -> list[str]:
    """Modules of the program that no heavy room holds and that are not at its edge."""
    found = []
    for path in sorted((ROOT / "coldfusion_queue").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT / "coldfusion_queue").with_suffix("").parts)
        name = name.removesuffix("__init__").rstrip(".")
        if name.partition(".")[0] not in HEAVY_ROOMS and name not in AT_THE_EDGE:
            found.append(name)
    return found


def imports_anywhere(path: Path) -> set[str]:
    """Top-level modules that a file imports, in functions too; not for types alone."""
    tree = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names)


def test_the_list_names_what_is_asked_for_and_pins_nothing() -> None:
    names = listed()
    pinned = {
        line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()
    }

    assert names == sorted(names)
    assert all(re.fullmatch(r"[a-z][a-z0-9-]*", name) for name in names)
    assert {normal(name) for name in names} <= {normal(name) for name in pinned}


def test_all_that_pip_installs_for_the_list_is_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pinned = {normal(line.partition("==")[0]) for line in lines if "==" in line}

    assert closure() - pinned == set()


def test_torch_and_all_that_comes_with_it_is_left_out() -> None:
    heavy = {"torch", "transformers", "datasets", "peft", "accelerate", "scikit-learn", "scipy"}

    assert closure() & {*heavy, "pyarrow", "pandas", "safetensors", "tokenizers"} == set()
    assert {"celery", "kombu", "redis", "minio", "numpy"} <= closure()


@pytest.mark.parametrize("process", PROCESSES)
def test_each_process_of_the_image_loads_with_the_list_alone(process: str) -> None:
    assert "celery" in load_with_the_list_alone(process, *LOADED_LATER)


def test_the_light_commands_load_with_the_list_alone() -> None:
    modules = (f"coldfusion_queue.cli.{name}" for name in COMMANDS)

    load_with_the_list_alone("coldfusion_queue.cli.main", *modules)


def test_every_module_beside_the_heavy_rooms_loads_with_the_list_alone() -> None:
    names = [f"coldfusion_queue.{name}".rstrip(".") for name in light_modules()]

    assert len(names) > 100
    load_with_the_list_alone(*names)


def test_no_function_beside_the_heavy_rooms_imports_what_is_not_in_the_list() -> None:
    # It asks whether there is a torch, and works without.
    expected = {"cli.doctor": {"torch"}}
    found = {}
    for name in light_modules():
        path = ROOT / "coldfusion_queue" / Path(*name.split("."))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if extra := imports_anywhere(path) - installed_modules():
            found[name] = extra

    assert found == expected


def test_nothing_is_listed_that_the_program_does_not_import() -> None:
    modules = packages_distributions()
    used = set()
    for name in light_modules():
        path = ROOT / "coldfusion_queue" / Path(*name.split("."))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        used |= imports_anywhere(path)
    for path in (ROOT / "workers").glob("*.py"):
        used |= imports_anywhere(path)
    distributions = {normal(item) for module in used for item in modules.get(module, [])}
    for_others = {"packaging"}

    assert {normal(name) for name in listed()} - for_others <= distributions


def test_a_command_that_needs_more_says_what_and_where_it_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from coldfusion_queue.cli.main import _unexpected

    code = _unexpected(ModuleNotFoundError("No module named 'torch'", name="torch.nn"))
    message = capsys.readouterr().err

    assert code == 4
    assert "'torch', which is not installed here" in message
    assert "worker image" in message
    # What is missing of the program itself is an error of ours
    assert _unexpected(ModuleNotFoundError("x", name="coldfusion_queue.nothing")) == 1
