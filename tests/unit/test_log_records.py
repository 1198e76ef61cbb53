"""Every record has an event and the ids of what goes on, and none has a secret."""

from __future__ import annotations

import ast
import io
import json
import logging
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from coldfusion_queue.log_ids import bind
from coldfusion_queue.logs import configure_logs
from coldfusion_queue.settings import load_settings
from coldfusion_queue.threads import WorkThreads

ROOT = Path(__file__).parents[2]
LEVELS = {"debug", "info", "warning", "error", "exception", "critical", "log"}
SECRET, PASSWORD = "s3cr3t/of+the=store", 'pass"word:of@broker'
ours = logging.getLogger("coldfusion_queue.anything")

Records = Callable[[], list[dict[str, Any]]]
Configured = Callable[..., io.StringIO]


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch) -> Iterator[Configured]:
    """Configures logs by some settings, and gives what is written from there on.

    What that changes for the process is put back.
    """
    root, hooks = logging.getLogger(), (sys.excepthook, threading.excepthook)
    handlers, level = root.handlers[:], root.level

    def configure(**own: object) -> io.StringIO:
        text = io.StringIO()
        monkeypatch.setattr("sys.stderr", text)
        configure_logs(load_settings(**own))
        return text

    yield configure
    root.handlers, root.level = handlers, level
    sys.excepthook, threading.excepthook = hooks
    logging.captureWarnings(False)
    logging.setLoggerClass(logging.Logger)
    bind({})


@pytest.fixture
def written(configured: Configured) -> io.StringIO:
    """What a process of the repository ``mine`` writes as JSON."""
    return configured(
        log_format="json",
        repository="mine",
        s3_access_key="the-access-key",
        s3_secret_key=SECRET,
        broker_password=PASSWORD,
    )


@pytest.fixture
def records(written: io.StringIO) -> Records:
    """The records in it."""
    return lambda: [json.loads(line) for line in written.getvalue().splitlines()]


# --- each call of ours ------------------------------------------------------------------------


def log_calls() -> Iterator[tuple[str, ast.Call, ast.AST]]:
    """Place, call and function of each log record that this program writes."""
    for package in ("coldfusion_queue", "workers"):
        for path in sorted((ROOT / package).rglob("*.py")):
            tree = ast.parse(path.read_text("utf-8"))
            for function in ast.walk(tree):
                if not isinstance(function, ast.FunctionDef):
                    continue
                for node in ast.walk(function):
                    if isinstance(node, ast.Call) and is_log_call(node):
                        yield f"{path.relative_to(ROOT)}:{node.lineno}", node, function


def is_log_call(node: ast.Call) -> bool:
    function = node.func
    return (
        isinstance(function, ast.Attribute)
        and function.attr in LEVELS
        and isinstance(function.value, ast.Name)
        and function.value.id in {"log", "logger", "logging"}
    )


def has_event(value: ast.expr, function: ast.AST) -> bool:
    """Whether ``extra`` holds an event, as far as it can be read in the function itself."""
    if isinstance(value, ast.Dict):
        keys = [key.value for key in value.keys if isinstance(key, ast.Constant)]
        unpacked = [item for key, item in zip(value.keys, value.values, strict=True) if not key]
        return "event" in keys or any(has_event(item, function) for item in unpacked)
    if isinstance(value, ast.BinOp):
        return has_event(value.left, function) or has_event(value.right, function)
    if isinstance(value, ast.Name):
        assigned = [
            node.value
            for node in ast.walk(function)
            if isinstance(node, ast.Assign)
            and any(isinstance(item, ast.Name) and item.id == value.id for item in node.targets)
        ]
        return bool(assigned) and all(has_event(item, function) for item in assigned)
    return False


def test_every_log_call_of_ours_names_an_event() -> None:
    calls = list(log_calls())
    missing = [
        place
        for place, call, function in calls
        if not any(
            item.arg == "extra" and has_event(item.value, function) for item in call.keywords
        )
    ]

    assert len(calls) > 40
    assert missing == []


def test_nothing_of_ours_prints() -> None:
    # But for what tells a person on a terminal why a process did not even begin.
    allowed = {"coldfusion_queue/metrics/document.py", "workers/starting.py"}
    found = {
        str(path.relative_to(ROOT))
        for package in ("coldfusion_queue", "workers")
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
    }

    assert found - allowed == set()


# --- what a record has ------------------------------------------------------------------------


def test_a_record_has_its_event_the_ids_that_are_bound_and_its_own(records: Records) -> None:
    bind({"task": "t1", "repository": "other", "submission": "s"})
    ours.info("it went %s", "well", extra={"event": "turn_went", "step": 3})

    (record,) = records()
    assert record.pop("time").endswith("+00:00")
    assert record == {
        "level": "INFO",
        "logger": "coldfusion_queue.anything",
        "message": "it went well",
        "event": "turn_went",
        "repository": "other",
        "task": "t1",
        "submission": "s",
        "step": 3,
    }


def test_ids_of_one_task_are_gone_with_the_next(records: Records) -> None:
    bind({"submission": "s", "turn": 1})
    bind({"evaluation": "e"})
    ours.info("it went", extra={"event": "went"})

    assert records()[0].keys() & {"submission", "turn", "evaluation"} == {"evaluation"}


def test_threads_that_are_given_work_log_with_the_ids_of_who_gave_it(records: Records) -> None:
    bind({"submission": "s"})
    with WorkThreads(2) as threads:
        list(threads.map(lambda name: ours.info("went", extra={"event": name}), ["a", "b"]))
        threads.submit(ours.info, "went", extra={"event": "c"}).result()

    assert {(item["event"], item["submission"]) for item in records()} == {
        *(("a", "s"), ("b", "s"), ("c", "s"))
    }


def test_records_of_libraries_have_an_event_too(records: Records) -> None:
    task = {"id": "t2", "name": "coldfusion.finetune", "args": "('mine', 'row of data')"}
    logging.getLogger("celery.app.trace").info("done", extra={"data": task})
    logging.getLogger("kombu.connection").warning("gone")
    logging.getLogger("transformers").warning("slow")

    assert [item["event"] for item in records()] == ["celery", "celery", "library"]
    assert records()[0]["task"] == "t2"
    assert "row of data" not in json.dumps(records())


def test_libraries_with_handlers_of_their_own_write_as_all_others_do() -> None:
    # In a process of its own: they are as they are when they are imported, before us or after.
    program = """
import logging, huggingface_hub
from coldfusion_queue.logs import configure_logs
from coldfusion_queue.settings import load_settings
configure_logs(load_settings(log_format="json"))
import datasets, torch, torch._dynamo, transformers
for name in ("datasets", "huggingface_hub", "torch", "torch._dynamo", "transformers.x"):
    logging.getLogger(name).warning("from %s", name)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    written = [json.loads(line) for line in done.stderr.splitlines()]
    assert [item["message"] for item in written if item["message"].startswith("from ")] == [
        *("from datasets", "from huggingface_hub", "from torch", "from torch._dynamo"),
        "from transformers.x",
    ]


def test_warnings_are_records(records: Records) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("this is old", DeprecationWarning, stacklevel=1)

    (record,) = records()
    assert (record["event"], record["level"]) == ("library", "WARNING")
    assert "this is old" in record["message"]


def test_what_ends_a_process_or_a_thread_is_one_record(records: Records) -> None:
    def fail() -> None:
        raise ValueError("nothing to do")

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    try:
        fail()
    except ValueError as error:
        sys.excepthook(ValueError, error, error.__traceback__)

    assert [item["event"] for item in records()] == ["thread_crashed", "process_crashed"]
    assert all("nothing to do" in item["traceback"] for item in records())


def test_text_for_people_leaves_out_what_other_ids_say(configured: Configured) -> None:
    written = configured(log_format="text")
    bind({"task": "t", "repository": "r", "submission": "s", "turn": 2, "contribution": "s.t00002"})
    ours.warning("turn retried", extra={"event": "turn_retried", "retry": 1})
    bind({})
    ours.error("record unreadable", extra={"event": "record_unreadable", "submission": "s"})

    first, second = written.getvalue().splitlines()
    assert first.split(maxsplit=1)[1] == "WARNING turn retried  contribution=s.t00002  retry=1"
    assert second.split(maxsplit=1)[1] == "ERROR   record unreadable  submission=s"


# --- and what it has not ----------------------------------------------------------------------

SIGNED = (
    "http://store/b/k?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIA0%2F2026&"
    "X-Amz-Signature=0a1b2c3d4e&X-Amz-Security-Token=FwoGZX%3D"
)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(SECRET, id="store"),
        pytest.param("the-access-key", id="access-key"),
        pytest.param("redis://:pass%22word%3Aof%40broker@host/0", id="broker-url"),
        pytest.param(f"AUTH {PASSWORD}", id="broker"),
        pytest.param(f"Retrying after connection broken by 'x': {SIGNED}", id="presigned"),
        pytest.param("Credential=AKIA0/2026, Signature=0a1b2c3d4e", id="header"),
    ],
)
def test_no_credential_and_no_signature_is_written(
    text: str, records: Records, written: io.StringIO
) -> None:
    logging.getLogger("urllib3.connectionpool").warning("%s", text, extra={"where": [text]})
    try:
        raise ValueError(text)
    except ValueError as error:
        logging.getLogger("any").warning("it broke", exc_info=error)

    records()  # it is still JSON
    assert "***" in written.getvalue()
    for secret in (
        *(SECRET, "s3cr3t", "the-access-key", "word:of@", "word%3Aof", "of@broker", "of%40broker"),
        *("0a1b2c3d4e", "AKIA0", "FwoGZX"),
    ):
        assert secret not in written.getvalue()


def test_words_that_are_as_short_as_a_bad_password_stay(configured: Configured) -> None:
    written = configured(log_format="json", broker_password="redis")
    ours.info("redis is there", extra={"event": "went"})

    assert json.loads(written.getvalue())["message"] == "redis is there"


def test_credentials_that_are_common_words_or_numbers_leave_records_what_they_are(
    configured: Configured,
) -> None:
    text = configured(
        log_format="json",
        s3_access_key="evaluation",
        s3_secret_key="coldfusion",
        broker_password="123456",
    )
    told = {"event": "evaluation_ended", "evaluation": "e1", "bytes": 1234567, "of": ["123456"]}

    ours.info("evaluation done with 123456", extra=told)

    record = json.loads(text.getvalue())
    assert record["logger"] == ours.name
    assert {name: record[name] for name in told} == {**told, "of": ["***"]}
    assert record["message"] == "*** done with ***"
