"""Every leaf of the error tree survives a queue and says what its message promises."""

from __future__ import annotations

import pickle
import re
from dataclasses import fields

import pytest

from coldfusion_queue import errors
from coldfusion_queue.errors import ColdFusionError, PermanentError, RetryableError

# ``│   ├── SettingsError               4   wrong variables``
_LINE = re.compile(r"([├└]──|^ +)\s*(\w+Error)\s*(\d+)?", re.MULTILINE)


def subclasses(root: type[ColdFusionError]) -> list[type[ColdFusionError]]:
    found = []
    for child in root.__subclasses__():
        found += [child, *subclasses(child)]
    return found


LEAVES = [cls for cls in subclasses(ColdFusionError) if not cls.__subclasses__()]


def example(cls: type[ColdFusionError]) -> ColdFusionError:
    values = {"int": 7, "float": 1.5, "str": "text"}
    return cls(
        *(
            f"{field.name} {{0}} ü" if field.type == "str" else values[str(field.type)]
            for field in fields(cls)
        )
    )


@pytest.mark.parametrize("cls", LEAVES)
def test_leaf_is_rebuilt_by_pickle_and_by_its_args(cls: type[ColdFusionError]) -> None:
    error = example(cls)
    for again in (
        pickle.loads(pickle.dumps(error)),  # noqa: S301 - our own bytes
        cls(*error.args),
    ):
        assert type(again) is cls
        assert again.args == error.args
        assert str(again) == str(error)
        assert vars(again) == vars(error)


@pytest.mark.parametrize("cls", LEAVES)
def test_leaf_made_with_keywords_has_the_same_args(cls: type[ColdFusionError]) -> None:
    error = example(cls)
    again = cls(**{field.name: getattr(error, field.name) for field in fields(cls)})
    assert again.args == error.args
    assert str(pickle.loads(pickle.dumps(again))) == str(error)  # noqa: S301 - our own bytes


@pytest.mark.parametrize("cls", LEAVES)
def test_message_holds_every_field(cls: type[ColdFusionError]) -> None:
    error = example(cls)
    for field in fields(cls):
        value = getattr(error, field.name)
        shown = f"{value:g}" if isinstance(value, float) else str(value)
        assert shown in str(error)


def test_tree_in_the_docstring_is_the_tree() -> None:
    documented = {
        match[2]: int(match[3]) if match[3] else None
        for match in _LINE.finditer(str(errors.__doc__))
        if match[2] not in {"ColdFusionError", "PermanentError", "RetryableError"}
    }
    assert documented == {cls.__name__: cls.exit_code for cls in LEAVES}


def test_tree_in_the_docstring_puts_each_leaf_below_its_root() -> None:
    permanent, _, retryable = str(errors.__doc__).partition("└── RetryableError")
    for cls in LEAVES:
        assert issubclass(cls, (PermanentError, RetryableError))
        drawn_below = permanent if issubclass(cls, PermanentError) else retryable
        assert f"── {cls.__name__} " in drawn_below


def test_shared_exit_codes_are_those_of_one_kind_of_problem() -> None:
    by_code: dict[int, set[str]] = {}
    for cls in LEAVES:
        by_code.setdefault(cls.exit_code, set()).add(cls.__name__)
    shared = {code: names for code, names in by_code.items() if len(names) > 1}
    assert shared == {
        4: {"SettingsError", "MissingExtraError"},
        10: {"IncompatibleModelError", "InvalidTensorFileError", "NonFiniteTensorError"},
        15: {"DigestMismatchError", "InvalidRecordError"},
        16: {"TrainingFailedError", "UnusableModelError"},
    }
    # 0 is success, 1 an error that nobody foresaw; from 126 on shells have meanings of their own.
    assert all(1 < code < 126 for code in by_code)


def test_every_error_is_exported() -> None:
    assert set(errors.__all__) == {
        "ColdFusionError",
        *(cls.__name__ for cls in subclasses(ColdFusionError)),
    }
    assert errors.__all__ == sorted(errors.__all__)


def test_errors_are_told_apart_by_identity() -> None:
    # Two equal failures of two tasks are not one; and an error has to be hashable.
    first, second = (errors.LedgerConflictError(3) for _ in range(2))
    assert first != second
    assert len({first, second}) == 2
