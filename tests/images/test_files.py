"""What is in the image, and what is not."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

from coldfusion_queue import __version__
from tests.images.image import ROOT, Image, figures

USER = 10001


def entries(image: Image) -> Iterator[tuple[str, os.stat_result]]:
    """Every file and directory of the image."""
    for directory, _, names in os.walk(image.files):
        for path in (Path(directory), *(Path(directory, name) for name in names)):
            yield f"/{path.relative_to(image.files)}", path.lstat()


def test_its_user_is_a_number_and_no_entrypoint_is_in_the_way(image: Image) -> None:
    assert image.config["User"] == f"{USER}:{USER}"
    assert "Entrypoint" not in image.config
    assert image.config["Cmd"] == ["coldfusion", "--help"]


def test_labels_say_what_it_is_and_of_which_commit(image: Image) -> None:
    labels = {
        name.removeprefix("org.opencontainers.image."): value
        for name, value in image.config["Labels"].items()
    }

    assert labels["version"] == __version__
    commit = labels["revision"].removesuffix("-dirty")
    known = ["git", "merge-base", "--is-ancestor", commit, "HEAD"]
    assert subprocess.run(known, cwd=ROOT, check=False).returncode == 0
    assert labels["licenses"] == "Apache-2.0"
    assert labels["title"]
    assert "source" in labels


def test_its_user_can_write_no_file_and_four_directories(image: Image) -> None:
    files, directories = [], set()
    for name, state in entries(image):
        mode = stat.S_IMODE(state.st_mode)
        if stat.S_ISLNK(state.st_mode):
            continue
        if state.st_uid == USER or state.st_gid == USER or mode & stat.S_IWOTH:
            if stat.S_ISDIR(state.st_mode):
                directories.add(name)
            elif not stat.S_ISCHR(state.st_mode):
                files.append(name)

    assert files == []
    assert directories <= {"/tmp", "/var/tmp", "/run/lock", "/var/lib/coldfusion"}


def test_no_program_changes_who_it_is(image: Image) -> None:
    found = [
        name
        for name, state in entries(image)
        if stat.S_ISREG(state.st_mode) and state.st_mode & (stat.S_ISUID | stat.S_ISGID)
    ]

    assert found == []


def test_it_has_no_torch_no_compiler_and_nothing_to_install_with(image: Image) -> None:
    packages = next((image.files / "opt/coldfusion/lib").glob("python*")) / "site-packages"
    programs = {path.name for path in (image.files / "usr/bin").iterdir()}
    programs |= {path.name for path in (image.files / "opt/coldfusion/bin").iterdir()}

    assert (packages / "coldfusion_queue").is_dir()
    heavy = {"torch", "transformers", "datasets", "peft", "accelerate", "sklearn", "scipy", "pip"}
    assert heavy & {path.name for path in packages.iterdir()} == set()
    assert programs & {"cc", "gcc", "g++", "make", "pip"} == set()
    assert list(packages.glob("*/tests")) == []


def test_every_module_is_compiled_for_a_read_only_root(image: Image) -> None:
    packages = next((image.files / "opt/coldfusion/lib").glob("python*")) / "site-packages"
    sources = [path for path in packages.rglob("*.py") if "__pycache__" not in path.parts]
    missing = [
        path
        for path in sources
        if not any((path.parent / "__pycache__").glob(f"{path.stem}.cpython-*.pyc"))
    ]

    assert len(sources) > 500
    assert missing == []
    # Never compared with the source: files of an image do not change.
    one = next((packages / "coldfusion_queue" / "__pycache__").glob("*.pyc"))
    assert int.from_bytes(one.read_bytes()[4:8], "little") == 0b01


def test_neither_pip_conf_nor_authority_stay_in_it(image: Image) -> None:
    found = subprocess.run(
        ["grep", "--recursive", "--files-with-matches", image.marker, str(image.files)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert found.stdout == ""
    assert image.marker not in image.history
    assert not list((image.files / "run").glob("secrets/*"))
    assert not list((image.files / "root").iterdir()) or not (image.files / "root/.cache").exists()


def test_it_is_small(image: Image) -> None:
    program = _size(image.files / "opt/coldfusion")

    figures.append(f"files {_size(image.files) / 1e6:.0f} MB, the program's {program / 1e6:.0f} MB")
    assert program < 180e6


def _size(directory: Path) -> int:
    return sum(
        path.lstat().st_size for path in directory.rglob("*") if stat.S_ISREG(path.lstat().st_mode)
    )
