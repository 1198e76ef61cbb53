"""The CPU image: built here, mounted here."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.images.machine import debian, package_index

__all__ = ["ROOT", "Image", "built_image", "figures"]

ROOT = Path(__file__).parents[2]
_BASE = "localhost/debian-python:test"
_NAME = "localhost/coldfusion-queue"

#: How long the build took and how large the image is; pytest prints it at the end.
figures: list[str] = []


@dataclass(frozen=True)
class Image:
    """An image whose files can be looked at."""

    tag: str
    files: Path
    """Root of its files, mounted."""
    config: Mapping[str, Any]
    """User, environment, labels and so on, as in its OCI description."""
    history: str
    """Every step of its last stage."""
    marker: str
    """What stood in the secret with which it was built."""
    log: str
    """What its build printed."""


@contextmanager
def built_image(directory: Path, target: str = "cpu") -> Iterator[Image]:
    """Build one target as ``make images`` does, in a storage of its own that goes at the end.

    Args:
        directory: a fresh one, with some GB of space.
        target: of the Dockerfile.
    """
    environment = _storage(directory)
    marker = f"marker-{secrets.token_hex(8)}"
    index = package_index(directory, marker)
    try:
        started = time.monotonic()
        debian(directory, environment, _BASE)
        figures.append(f"base made in {time.monotonic() - started:.0f} s")
        started = time.monotonic()
        command = [sys.executable, "deploy/build_images.py", "--engine", "buildah"]
        command += ["--target", target, "--name", _NAME, "--base-image", _BASE]
        command += ["--pip-conf", str(index.pip_conf)]
        command += ["--ca-bundle", str(index.ca_bundle)] if index.ca_bundle else []
        volumes = [f"--volume={path}:{path}:ro" for path in index.directories]
        built = _output([*command, "--", "--network=host", *volumes], environment)
        lines = built.splitlines()
        figures.append(f"{target} image built in {time.monotonic() - started:.0f} s: {lines[-1]}")
        tag = lines[-1].split()[0]
        described = json.loads(
            _output(["buildah", "inspect", "--type", "image", tag], environment)
        )["OCIv1"]
        container = _output(["buildah", "from", tag], environment).strip()
        files = Path(_output(["buildah", "mount", container], environment).strip())
        yield Image(
            tag, files, described["config"], json.dumps(described["history"]), marker, built
        )
    finally:
        subprocess.run(["buildah", "umount", "--all"], env=environment, capture_output=True)
        shutil.rmtree(directory / "storage", ignore_errors=True)


def _storage(directory: Path) -> dict[str, str]:
    """Variables that give buildah a place of its own."""
    conf = directory / "storage.conf"
    driver = os.environ.get("STORAGE_DRIVER", "vfs")
    conf.write_text(
        f'[storage]\ndriver = "{driver}"\n'
        f'graphroot = "{directory}/storage/graph"\nrunroot = "{directory}/storage/run"\n',
        encoding="utf-8",
    )
    return {
        **os.environ,
        "CONTAINERS_STORAGE_CONF": str(conf),
        "STORAGE_DRIVER": driver,
        "BUILDAH_ISOLATION": "chroot",
        "TMPDIR": str(directory),
    }


def _output(command: Sequence[str], environment: Mapping[str, str]) -> str:
    done = subprocess.run(
        command,
        env=dict(environment),
        cwd=ROOT,
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout
