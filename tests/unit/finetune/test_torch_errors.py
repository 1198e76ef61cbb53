"""Errors of torch, in a training: who is told what."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from coldfusion_queue.errors import DeviceLostError, DiskFullError, TrainingFailedError
from coldfusion_queue.finetune import data
from coldfusion_queue.finetune.passes import Passes
from coldfusion_queue.finetune.run import finetune
from coldfusion_queue.settings import Settings
from tests.unit.finetune.conftest import MakeRequest
from tests.watching import ignore

Fail = Callable[[Exception], None]


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch) -> Fail:
    """``fail(error)``: the first step raises it."""

    def arrange(error: Exception) -> None:
        def gradients(*_: object) -> None:
            raise error

        monkeypatch.setattr(Passes, "gradients", gradients)

    return arrange


def of_the_compiler(text: str) -> RuntimeError:
    kind = type("InvalidCxxCompiler", (RuntimeError,), {"__module__": "torch._inductor.exc"})
    return kind(text)


@pytest.mark.parametrize(
    ("error", "expected", "says"),
    [
        pytest.param(
            of_the_compiler("No working C++ compiler found\nmore lines"),
            TrainingFailedError,
            r"torch.compile failed: No working C\+\+ compiler found; unset COLDFUSION_COMPILE",
            id="no-compiler",
        ),
        pytest.param(
            of_the_compiler(""), TrainingFailedError, r"failed: InvalidCxxCompiler", id="no-text"
        ),
        pytest.param(
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
            TrainingFailedError,
            r"memory does not hold the parameters .*; ask for adapter=lora",
            id="out-of-memory",
        ),
        pytest.param(
            torch.AcceleratorError("CUDA error: unspecified launch failure\nmore"),
            DeviceLostError,
            r"device cpu: CUDA error: unspecified launch failure; check",
            id="launch-failure",
        ),
        pytest.param(
            RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`"),
            DeviceLostError,
            r"device cpu: CUDA error: CUBLAS_STATUS_EXECUTION_FAILED",
            id="cublas",
        ),
        pytest.param(
            RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"),
            DeviceLostError,
            r"device cpu: cuDNN error",
            id="cudnn",
        ),
        pytest.param(RuntimeError("own"), RuntimeError, r"^own$", id="anything-else"),
    ],
)
def test_an_error_of_torch_says_whose_fault_it_is(
    error: Exception,
    expected: type[Exception],
    says: str,
    fail: Fail,
    make_request: MakeRequest,
    quick_settings: Settings,
    tmp_path: Path,
) -> None:
    fail(error)

    with pytest.raises(expected, match=says) as caught:
        finetune(make_request(), quick_settings, tmp_path, ignore)

    assert type(caught.value) is expected


@pytest.mark.parametrize("kind", [of_the_compiler, torch.AcceleratorError])
def test_of_private_data_the_text_of_the_error_is_not_told(
    kind: Callable[[str], Exception],
    fail: Fail,
    make_request: MakeRequest,
    quick_settings: Settings,
    tmp_path: Path,
) -> None:
    fail(kind("a patient's name"))
    request = replace(make_request(), is_private=True)

    with pytest.raises((TrainingFailedError, DeviceLostError)) as caught:
        finetune(request, quick_settings, tmp_path, ignore)

    assert "patient" not in str(caught.value)
    assert type(caught.value.__cause__).__name__ in str(caught.value)


def test_a_disk_that_is_full_of_tokens_is_that_of_the_cache(
    make_request: MakeRequest,
    quick_settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def write_tokens(*_: object) -> None:
        raise OSError(errno.ENOSPC, "Error writing bytes to file")  # as pyarrow: without a name

    monkeypatch.setattr(data, "write_tokens", write_tokens)
    request = make_request()

    with pytest.raises(DiskFullError, match=r"point COLDFUSION_HOME at") as caught:
        finetune(request, quick_settings, tmp_path, ignore)

    assert str(request.cache.directory) in str(caught.value)
