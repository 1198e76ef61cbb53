from __future__ import annotations

import pickle

import pytest

from coldfusion_queue.errors import (
    AccessDeniedError,
    ColdFusionError,
    DigestMismatchError,
    IncompatibleModelError,
    InvalidTensorFileError,
    NonFiniteTensorError,
    NotFoundError,
    StoreUnavailableError,
)
from coldfusion_queue.fusion.faults import ContributionFault, attributed

DAMAGED = DigestMismatchError("c7.safetensors", "aa", "bb")


@pytest.mark.parametrize(
    "error",
    [
        DAMAGED,
        IncompatibleModelError("m", "p", "g", "e", "r"),
        InvalidTensorFileError("f", "p"),
        NonFiniteTensorError("c7", "w"),
        NotFoundError("object", "k", "r"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_is_wrong_with_a_contribution_is_its_fault(error: ColdFusionError) -> None:
    with pytest.raises(ContributionFault) as caught, attributed("c7"):
        raise error

    assert caught.value.contribution_id == "c7"
    assert caught.value.cause is error
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    "error",
    [
        StoreUnavailableError("e", "read", "k", "reset"),
        AccessDeniedError("store", "403", "COLDFUSION_S3_ACCESS_KEY"),
        NotFoundError("bucket", "b", "r"),
        ValueError("a bug"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_is_wrong_with_the_store_is_nobodys_fault(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, attributed("c7"):
        raise error
    assert caught.value is error


def test_what_is_wrong_with_the_base_model_is_nobodys_fault() -> None:
    with pytest.raises(DigestMismatchError), attributed(None):
        raise DAMAGED


def test_a_fault_says_whose_and_why_and_survives_pickling() -> None:
    fault = ContributionFault("c7", DAMAGED)

    again = pickle.loads(pickle.dumps(fault))  # noqa: S301 - our own bytes

    assert str(again) == str(fault) == f"contribution c7 cannot be fused: {DAMAGED}"
    assert type(fault)(*fault.args).contribution_id == "c7"
