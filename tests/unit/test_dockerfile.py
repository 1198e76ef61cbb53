"""The Dockerfile, read: what it promises without being built. ``make test-images`` builds it."""

from __future__ import annotations

import importlib.util
import re
from argparse import Namespace
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType

import pytest

from coldfusion_queue import __version__
from tests.dockerfile import TEXT, environment, instructions, lineage, stages

ROOT = Path(__file__).parents[2]
TARGETS = ("cpu", "gpu")


def copied() -> list[str]:
    """Sources that are copied from the checkout."""
    found = []
    for _, (_, own) in stages().items():
        for name, arguments in own:
            if name == "COPY" and "--from=" not in arguments:
                found += arguments.split()[:-1]
    return found


@pytest.fixture(scope="module")
def builder() -> ModuleType:
    """``deploy/build_images.py``."""
    path = ROOT / "deploy" / "build_images.py"
    spec = importlib.util.spec_from_file_location("build_images", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_base_is_an_argument_of_every_stage_that_has_no_other() -> None:
    first, default = instructions()[0]
    bases = {base for base, _ in stages().values()}

    assert first == "ARG"
    assert re.fullmatch(r"BASE_IMAGE=\S+:\S+", default)
    assert bases - stages().keys() == {"${BASE_IMAGE}"}


@pytest.mark.parametrize("target", TARGETS)
def test_each_target_runs_as_a_numeric_user_without_a_shell(target: str) -> None:
    names = [name for name, _ in lineage(target)]
    users = [arguments for name, arguments in lineage(target) if name == "USER"]
    commands = [arguments for name, arguments in lineage(target) if name == "CMD"]

    assert users == ["10001:10001"]
    assert commands == ['["coldfusion", "--help"]']
    assert "ENTRYPOINT" not in names
    # Nothing is run as root after that, and nothing is copied as the user, who could write it then
    assert "RUN" not in names[names.index("USER") :]
    assert "--chown" not in TEXT


@pytest.mark.parametrize("target", TARGETS)
def test_each_target_has_labels_and_environment(target: str) -> None:
    labels = " ".join(arguments for name, arguments in lineage(target) if name == "LABEL")
    for label in ("title", "version", "revision", "source", "licenses"):
        assert f"org.opencontainers.image.{label}=" in labels
    variables = environment(target)
    assert variables["PYTHONUNBUFFERED"] == variables["PYTHONDONTWRITEBYTECODE"] == "1"
    assert variables["COLDFUSION_HOME"] == "/var/lib/coldfusion"
    assert variables["TMPDIR"] == "/tmp"
    # A container would get all GPUs of its machine by it, past the scheduler
    assert "NVIDIA_VISIBLE_DEVICES" not in variables


def test_every_file_that_is_copied_exists_and_is_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    kept = [line[1:] for line in ignored if line.startswith("!")]

    assert "*" in ignored
    for source in copied():
        assert (ROOT / source).exists(), source
        assert any(fnmatch(source, pattern) for pattern in kept), source
    # And nothing else is sent to the build
    sent = {line for line in kept if not any(fnmatch(line, other) for other in copied())}
    assert sent == {"deploy", "examples"}


def test_all_that_is_installed_is_pinned() -> None:
    script = (ROOT / "deploy" / "pip_in_build.sh").read_text("utf-8")
    runs = [arguments for name, arguments in instructions() if name == "RUN"]

    assert "--constraint /build/constraints.txt" in script
    # pip is called through it, but for the wheel of the program itself, which needs no index
    for run in runs:
        for call in re.findall(r"\S*\bpip (?!-)\S+ .*?(?:&&|$)", run):
            assert "--no-deps --no-build-isolation" in call
    constraints = (ROOT / "constraints.txt").read_text("utf-8")
    assert re.search(r"^hatchling==", constraints, re.MULTILINE)


def test_secrets_of_the_build_are_mounted_and_never_arguments() -> None:
    declared = [arguments for name, arguments in instructions() if name == "ARG"]
    names = {argument.partition("=")[0] for line in declared for argument in line.split()}

    assert names == {
        *("BASE_IMAGE", "PIP_INDEX_URL", "TORCH_INDEX_URL"),
        *("VERSION", "REVISION", "SOURCE"),
    }
    for target in TARGETS:  # the final stages never hear of an index
        arguments = [argument for name, argument in lineage(target) if name == "ARG"]
        assert not any("INDEX" in argument for argument in arguments)
    for name, arguments in instructions():
        if name == "RUN" and "pip_in_build.sh" in arguments and "--no-deps --root" not in arguments:
            assert "--mount=type=secret,id=pip_conf" in arguments
            assert "--mount=type=secret,id=ca_bundle" in arguments


def test_the_gpu_target_installs_what_the_package_asks_for() -> None:
    runs = " ".join(
        arguments for name, arguments in stages()["gpu-environment"][1] if name == "RUN"
    )

    assert "['project']; print(*p['dependencies'], *p['optional-dependencies']['traces']" in runs


def test_the_builder_tags_by_version_and_target(builder: ModuleType) -> None:
    arguments = Namespace(
        base_image="base:1",
        pip_index_url=None,
        torch_index_url="https://cpu.example.org/simple",
        pip_conf=Path("/etc/pip.conf"),
        ca_bundle=None,
        options=["--network=host"],
    )

    command = builder.build_command("buildah", "cpu", "name:tag", arguments)

    assert builder.version() == __version__
    assert command[:2] == ["buildah", "bud"]
    assert command[-2:] == ["--network=host", "."]
    assert "id=pip_conf,src=/etc/pip.conf" in command
    assert f"VERSION={__version__}" in command
    assert not any("TORCH_INDEX_URL" in part for part in command)
    assert "TORCH_INDEX_URL=https://cpu.example.org/simple" in builder.build_command(
        "docker", "gpu", "name:tag", arguments
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param(
            "https://me:token@git.example.org/a/b",
            "https://git.example.org/a/b",
            id="a URL with a token",
        ),
        pytest.param("/srv/git/b", "", id="a local path"),
    ],
)
def test_the_source_label_holds_no_credentials(
    builder: ModuleType, monkeypatch: pytest.MonkeyPatch, given: str, expected: str
) -> None:
    monkeypatch.setenv("IMAGE_SOURCE", given)

    assert builder.source() == expected


def test_without_an_engine_the_builder_says_what_is_missing(
    builder: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")

    assert builder.find_engine() is None
