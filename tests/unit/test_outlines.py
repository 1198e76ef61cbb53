"""Outlines of errors, and logs that have them in the place of tracebacks."""

from __future__ import annotations

import io
import json
import logging
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from coldfusion_queue.errors import InvalidDatasetError
from coldfusion_queue.intake.prepare import prepare_dataset
from coldfusion_queue.logs import configure_logs
from coldfusion_queue.outlines import outline
from coldfusion_queue.settings import load_settings

SECRET = "zqxzqx"


def caught(tmp_path: Path) -> Exception:
    """An error whose text is a secret, because of one that happened in our code."""
    try:
        try:
            prepare_dataset(str(tmp_path / SECRET), work_dir=tmp_path)
        except InvalidDatasetError as error:
            raise ValueError(SECRET) from error
    except ValueError as error:
        return error
    raise AssertionError


def test_an_outline_has_classes_and_our_places_and_no_text(tmp_path: Path) -> None:
    text = outline(caught(tmp_path))

    expected = (
        "ValueError at an unknown place, after InvalidDatasetError at coldfusion_queue/intake/"
    )
    assert text.startswith(f"{expected}splits.py:")
    assert ", coldfusion_queue/intake/prepare.py:" in text
    assert SECRET not in text
    assert "tests" not in text


def test_an_outline_of_errors_that_are_each_others_causes_ends() -> None:
    first, second = ValueError(), KeyError()
    first.__cause__, second.__cause__ = second, first

    assert outline(first).count("at an unknown place") == 2


@pytest.fixture
def _root_logger() -> Iterator[None]:
    root, hooks = logging.getLogger(), (sys.excepthook, threading.excepthook)
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers, root.level = handlers, level
    sys.excepthook, threading.excepthook = hooks
    logging.captureWarnings(False)
    logging.setLoggerClass(logging.Logger)


@pytest.mark.usefixtures("_root_logger")
@pytest.mark.parametrize("log_format", ["json", "text"])
@pytest.mark.parametrize("is_site", [False, True])
def test_at_a_site_no_log_has_the_text_of_an_error(
    is_site: bool, log_format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.StringIO()
    monkeypatch.setattr("sys.stderr", written)
    own = {"site": "a", "site_data_dir": tmp_path} if is_site else {}
    configure_logs(load_settings(log_format=log_format, **own))

    logging.getLogger("any.package").error("it broke", exc_info=caught(tmp_path))
    logging.getLogger("any.package").error("nothing broke", exc_info=True)

    text = written.getvalue()
    assert (SECRET in text) == (not is_site)
    assert ("Traceback" in text) == (not is_site)
    assert "it broke" in text
    assert ("InvalidDatasetError at coldfusion_queue/intake/splits.py:" in text) == is_site
    if log_format == "json":
        assert [json.loads(line)["message"] for line in text.splitlines()][1:] == ["nothing broke"]
