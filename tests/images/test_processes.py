"""Fusion worker, beat, exporter and commands, in containers without any rights."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.acceptance.world import eventually
from tests.images.conftest import PROCESSES, Deployment


def get(deployment: Deployment, process: str, path: str) -> str:
    """What a process answers; its output as the complaint when it has ended."""
    assert deployment.running[process].runs(), deployment.running[process].output()
    try:
        url = f"http://127.0.0.1:{deployment.ports[process]}{path}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return str(answer.read(), "utf-8")
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return ""


def perturbed(model_dir: Path, directory: Path, seed: int) -> Path:
    """The model as if it had been finetuned."""
    import torch
    from transformers import AutoTokenizer, BertModel

    model = BertModel.from_pretrained(model_dir)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    model.save_pretrained(directory)
    AutoTokenizer.from_pretrained(model_dir).save_pretrained(directory)
    return directory


def test_the_root_is_read_only_for_a_user_without_any_rights(deployment: Deployment) -> None:
    program = """
import errno, json, os, pathlib
try:
    open("/opt/coldfusion/new", "w")
except OSError as error:
    refused = errno.errorcode[error.errno]
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({
    "refused": refused, "user": os.getuid(), "pid": os.getpid(), "home": str(pathlib.Path.home()),
    "rights": status["CapEff"].strip(), "more": status["NoNewPrivs"].strip(),
}))
"""

    code, output = deployment.containers.run("python", "-c", program)

    assert (code, json.loads(output)) == (
        0,
        {
            "refused": "EROFS",
            "user": 10001,
            "pid": 1,
            "home": "/var/lib/coldfusion",
            "rights": "0000000000000000",
            "more": "1",
        },
    )


def test_contributions_are_fused_by_the_worker_of_the_image(
    deployment: Deployment, tiny_model_dir: Path, tmp_path: Path
) -> None:
    world = deployment.world
    # Beside the default, the methods that look at deltas before they combine them
    for version, method in enumerate(("mean", "ties", "nesterov"), start=1):
        setting = ("--set", f"method={method}", "--set", "min_contributions=2")
        changed = world.run("coldfusion", "policy", *setting)
        assert changed.code == 0, changed.err
        for number in (1, 2):
            seed = 10 * version + number
            model = perturbed(tiny_model_dir, tmp_path / f"model{seed}", seed)
            done = world.run("coldfusion", "contribute", model, "--base-version", 0)
            assert done.code == 0, done.err

        def published(expected: int = version) -> bool:
            assert deployment.running["fusion_worker"].runs()
            return world.repository.ledger.newest().after.base.version >= expected

        eventually(published, 60)

    fused = [item for item in world.decisions() if item.outcome == "fused"]
    assert len(fused) == 6, world.decisions()
    world.check_fused_once()


@pytest.mark.parametrize("process", PROCESSES)
def test_each_process_says_that_it_lives_and_is_ready(deployment: Deployment, process: str) -> None:
    for path in ("/livez", "/startupz", "/readyz"):
        eventually(lambda path=path: get(deployment, process, path), 60)
    assert "# HELP" in get(deployment, process, "/metrics")


def test_the_exporter_tells_what_was_published(deployment: Deployment) -> None:
    newest = deployment.world.repository.ledger.newest().after.base.version

    lines = eventually(lambda: get(deployment, "exporter", "/metrics")).splitlines()

    assert any(line.startswith("coldfusion_up") and line.endswith(" 1.0") for line in lines)
    shown = [line.split()[-1] for line in lines if line.startswith("coldfusion_base_version")]
    assert [float(value) for value in shown] == [newest]


@pytest.mark.parametrize(
    "command",
    [
        pytest.param("doctor"),
        pytest.param("status"),
        pytest.param("history"),
        pytest.param("show 0"),
        pytest.param("policy"),
        pytest.param("gc"),
        pytest.param("audit"),
        pytest.param("config"),
        pytest.param("pull /tmp/base"),
        pytest.param("report /tmp/report.html"),
        pytest.param("--help"),
    ],
)
def test_commands_without_a_model_work_in_the_image(deployment: Deployment, command: str) -> None:
    code, output = deployment.containers.run("coldfusion", *command.split())

    assert code == 0, output
    assert "Traceback" not in output


def test_a_command_that_needs_torch_says_which_image_has_it(deployment: Deployment) -> None:
    code, output = deployment.containers.run(
        "coldfusion", "contribute", "/tmp", "--base-version", "0"
    )

    assert code == 4
    assert "internal error" not in output
    assert "worker image" in output


@pytest.mark.parametrize("process", PROCESSES[::-1])
def test_sigterm_reaches_process_1_and_ends_it_in_order(
    deployment: Deployment, process: str
) -> None:
    container = deployment.running[process]
    assert container.runs(), container.output()

    container.signal("TERM")

    assert container.wait(30) == 0, container.output()
    assert "Traceback" not in container.output()
