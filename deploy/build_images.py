#!/usr/bin/env python3
"""Build the container images with docker, podman or buildah, whichever is there.

``python3 deploy/build_images.py`` builds ``coldfusion-queue:<version>-cpu`` and ``-gpu`` and tells
their sizes. It needs nothing but an interpreter. What it is not told, it takes from variables of
the same name in upper case, so that ``make images BASE_IMAGE=...`` works. Arguments behind ``--``
go to the engine as they are.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[1]
ENGINES = ("docker", "podman", "buildah")
TARGETS = ("cpu", "gpu")


def main() -> None:
    """Parse the arguments, build each target, print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--engine", choices=ENGINES, default=_given("engine"))
    parser.add_argument("--target", choices=TARGETS, action="append", help="default: both")
    parser.add_argument("--base-image", default=_given("base_image"), help="Debian with python3")
    parser.add_argument("--pip-index-url", default=_given("pip_index_url"), help="no credentials")
    parser.add_argument(
        "--torch-index-url",
        default=_given("torch_index_url"),
        help="index of CPU builds of torch: the target gpu is then tagged -worker",
    )
    parser.add_argument("--pip-conf", type=Path, default=_given("pip_conf"), help="a secret")
    parser.add_argument("--ca-bundle", type=Path, default=_given("ca_bundle"), help="a secret")
    parser.add_argument("--name", default=_given("image_name") or "coldfusion-queue")
    parser.add_argument("options", nargs="*", metavar="-- OPTION", help="for the engine")
    arguments = parser.parse_args()
    engine = arguments.engine or find_engine()
    if engine is None:
        sys.exit("no docker daemon answers, and there is no podman and no buildah: install one")
    for target in arguments.target or TARGETS:
        suffix = "worker" if target == "gpu" and arguments.torch_index_url else target
        tag = f"{arguments.name}:{version()}-{suffix}"
        command = build_command(engine, target, tag, arguments)
        print(" ".join(command), file=sys.stderr, flush=True)
        done = subprocess.run(command, cwd=ROOT, env=os.environ | {"DOCKER_BUILDKIT": "1"})
        if done.returncode != 0:
            sys.exit(done.returncode)
        print(f"{tag}  {size_bytes(engine, tag) / 1e6:.0f} MB", flush=True)


def find_engine() -> str | None:
    """The first that can build; a docker without its daemon cannot."""
    for engine in ENGINES:
        if shutil.which(engine) is None:
            continue
        if engine != "docker" or _succeeds([engine, "info"]):
            return engine
    return None


def build_command(
    engine: str, target: str, tag: str, arguments: argparse.Namespace
) -> Sequence[str]:
    """The engine's build of one target."""
    build_arguments = {
        "BASE_IMAGE": arguments.base_image,
        "PIP_INDEX_URL": arguments.pip_index_url,
        "TORCH_INDEX_URL": arguments.torch_index_url if target == "gpu" else None,
        "VERSION": version(),
        "REVISION": revision(),
        "SOURCE": source(),
    }
    secrets = {"pip_conf": arguments.pip_conf, "ca_bundle": arguments.ca_bundle}
    command = [engine, "bud" if engine == "buildah" else "build"]
    command += ["--file", "deploy/Dockerfile", "--target", target, "--tag", tag]
    for name, value in build_arguments.items():
        command += ["--build-arg", f"{name}={value}"] if value else []
    for name, path in secrets.items():
        command += ["--secret", f"id={name},src={path}"] if path else []
    return [*command, *arguments.options, "."]


def version() -> str:
    """Version of the program, which is read and not imported."""
    text = (ROOT / "coldfusion_queue" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if found is None:
        raise SystemExit("coldfusion_queue/__init__.py: no __version__")
    return found[1]


def revision() -> str:
    """Commit of the checkout, ``-dirty`` if tracked files differ from it; ``unknown`` elsewhere."""
    commit = _output("git", "rev-parse", "HEAD")
    if not commit:
        return "unknown"
    changed = _output("git", "status", "--porcelain", "--untracked-files=no")
    return f"{commit}-dirty" if changed else commit


def source() -> str:
    """URL of the checkout's origin, without credentials; empty if it is a local path or absent."""
    parts = urlsplit(_given("image_source") or _output("git", "remote", "get-url", "origin"))
    if parts.scheme not in {"http", "https", "ssh"} or not parts.hostname:
        return ""
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def size_bytes(engine: str, tag: str) -> int:
    """Size of an image on disk, its base included."""
    if engine == "buildah":
        listed = json.loads(_output("buildah", "images", "--json", tag))
        text = listed[0]["size"]  # such as "187 MB"
        number, unit = text.split()
        return int(float(number) * {"B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9}[unit.upper()])
    return int(_output(engine, "image", "inspect", "--format", "{{.Size}}", tag))


def _given(name: str) -> str | None:
    return os.environ.get(name.upper()) or None


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _succeeds(command: Sequence[str]) -> bool:
    try:
        done = subprocess.run(command, capture_output=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


if __name__ == "__main__":
    main()
