"""What this machine lends to the build of an image: a base, its package index, its authority."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

__all__ = ["Index", "debian", "missing_packages", "package_index"]

#: Debian's package by the program that is used of it.
_PACKAGES = {"buildah": "buildah", "debootstrap": "debootstrap", "runc": "runc"}
_INDEX_KEYS = ("index-url", "extra-index-url", "find-links", "trusted-host")


def missing_packages() -> str | None:
    """A sentence that says what to install or to be; None if all is here."""
    missing = [package for program, package in _PACKAGES.items() if shutil.which(program) is None]
    if missing:
        return f"not installed: {', '.join(missing)}; run: apt-get install {' '.join(missing)}"
    if os.geteuid() != 0:
        return "make test-images needs root: it makes a base with debootstrap and mounts the image"
    return None


@dataclass(frozen=True)
class Index:
    """Where the build gets packages from, as this machine's pip does."""

    pip_conf: Path
    ca_bundle: Path | None
    directories: tuple[Path, ...]
    """Directories of this machine that the configuration names; the build has to see them."""


def package_index(directory: Path, marker: str) -> Index:
    """Write this machine's pip configuration for a build.

    Args:
        directory: where to write it.
        marker: stands in it, so that it could be found again in an image.
    """
    listed = _run(sys.executable, "-m", "pip", "config", "list")
    values: dict[str, str] = {}
    for line in listed.splitlines():
        key, equals, value = line.partition("=")
        if equals:
            values[key.rpartition(".")[2]] = value.strip("'\"").replace("\\n", " ")
    bundle = values.get("cert") or os.environ.get("SSL_CERT_FILE")
    kept = [f"{key} = {values[key]}" for key in _INDEX_KEYS if key in values]
    pip_conf = directory / "pip.conf"
    pip_conf.write_text("\n".join(["[global]", f"# {marker}", *kept]) + "\n", encoding="utf-8")
    places = " ".join(values.get(key, "") for key in ("extra-index-url", "find-links")).split()
    directories = {
        # The pages of an index link to files beside it.
        Path(urlsplit(place).path).parent if place.startswith("file:") else Path(place)
        for place in places
        if place.startswith(("file:", "/"))
    }
    existing = tuple(sorted(path for path in directories if path.is_dir()))
    return Index(pip_conf, Path(bundle) if bundle else None, existing)


def debian(directory: Path, environment: Mapping[str, str], tag: str) -> None:
    """Make a base image of nothing but Debian's packages: no registry is needed.

    Args:
        directory: a fresh one, for the files; they are deleted again.
        environment: with which buildah finds its storage.
        tag: of the image.
    """
    root = directory / "debian"
    _run(
        *("debootstrap", "--variant=minbase", "--include=python3,python3-venv,ca-certificates"),
        *("bookworm", str(root)),
        *filter(None, [os.environ.get("DEBOOTSTRAP_MIRROR")]),
    )
    # Lists and archives of packages are the larger half, and no base image has them.
    for name in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale"):
        shutil.rmtree(root / name, ignore_errors=True)
    container = _run("buildah", "from", "scratch", environment=environment).strip()
    _run("buildah", "add", "--quiet", container, str(root), "/", environment=environment)
    _run("buildah", "commit", "--quiet", "--rm", container, tag, environment=environment)
    shutil.rmtree(root)


def _run(*command: str, environment: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout
