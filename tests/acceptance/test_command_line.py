"""The two programs as people meet them: help, settings, JSON, completion, doctor, Ctrl-C."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import time

import pytest

from tests.acceptance.world import BIN, World
from tests.rows import rows, write_rows

SECRETS = {
    "COLDFUSION_BROKER_URL": "redis://user:br0ker-pass@broker.example:6379/0",
    "COLDFUSION_S3_ACCESS_KEY": "acce55-key",
    "COLDFUSION_S3_SECRET_KEY": "s3cret-key",
    "COLDFUSION_S3_SESSION_TOKEN": "t0ken",
}
#: Nobody listens on port 1.
NO_BROKER = {"COLDFUSION_BROKER_URL": "redis://127.0.0.1:1/0"}


@pytest.mark.parametrize("program", ["coldfusion", "coldfusion-submit"])
def test_help_answers_in_under_half_a_second(idle_world: World, program: str) -> None:
    seconds = []
    for _ in range(3):
        started = time.monotonic()
        done = idle_world.run(program, "--help")
        seconds.append(time.monotonic() - started)
        assert done.code == 0
        assert done.out.startswith(f"Usage: {program} ")

    assert min(seconds) < 0.5


def test_config_masks_every_secret(idle_world: World) -> None:
    for arguments in ((), ("--json",), ("--describe",)):
        done = idle_world.run("coldfusion", "config", *arguments, **SECRETS)

        assert done.code == 0, done.err
        for secret in ("br0ker-pass", "acce55", "s3cret", "t0ken"):
            assert secret not in done.out + done.err
        assert "redis://user:****@broker.example:6379/0" in done.out


def test_config_names_every_wrong_variable_at_once(idle_world: World) -> None:
    wrong = {
        "COLDFUSION_S3_ENDPOINT": "localhost",
        "COLDFUSION_FUSION_THREADS": "many",
        "COLDFUSION_BROKER_URL": "amqp://guest:passw0rd@host",
        "COLDFUSION_REPOSITORY": "Two Words",
        "COLDFUSION_FUSON_THREADS": "4",
    }

    done = idle_world.run("coldfusion", "config", **wrong)

    assert done.code == 4
    assert done.out == ""
    complaint = done.complaint()
    for name in wrong:
        assert re.search(rf"^  {name}: ", complaint, re.MULTILINE), name
    assert "did you mean COLDFUSION_FUSION_THREADS?" in complaint
    assert "passw0rd" not in complaint


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        pytest.param(("config",), dict, id="config"),
        pytest.param(("status",), dict, id="status"),
        pytest.param(("status", "--all"), dict, id="status-all"),
        pytest.param(("history",), list, id="history"),
        pytest.param(("show", "0"), dict, id="show"),
        pytest.param(("doctor",), list, id="doctor"),
    ],
)
def test_json_output_is_one_document(
    idle_world: World, arguments: tuple[str, ...], kind: type
) -> None:
    done = idle_world.run_warm(*arguments, "--json")

    assert done.code == 0, done.err
    assert isinstance(json.loads(done.out), kind)
    assert done.err == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_serve_both_programs(idle_world: World, shell: str) -> None:
    done = idle_world.run("coldfusion", "completion", shell)

    assert done.code == 0, done.err
    for variable in ("_COLDFUSION_COMPLETE", "_COLDFUSION_SUBMIT_COMPLETE"):
        assert f"{variable}={shell}_complete" in done.out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param("coldfusion st", {"status"}, id="command"),
        pytest.param("coldfusion pull --j", {"--json"}, id="option"),
        pytest.param("coldfusion submit data.csv --objective reg", {"regression"}, id="choice"),
        pytest.param("coldfusion-submit data.csv --te", {"--text", "--text-pair"}, id="submit"),
    ],
)
def test_bash_completes(idle_world: World, words: str, expected: set[str]) -> None:
    bash = shutil.which("bash")
    assert bash is not None
    function = "_" + words.split()[0].replace("-", "_") + "_completion"
    script = f"""
        eval "$({BIN / "coldfusion"} completion bash)"
        COMP_WORDS=({words}) COMP_CWORD={len(words.split()) - 1} COMPREPLY=()
        {function} {words.split()[0]}
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    environment = idle_world.environment()
    environment["PATH"] = f"{BIN}:{environment['PATH']}"

    done = subprocess.run(
        [bash, "--norc", "-c", script], env=environment, capture_output=True, text=True, check=True
    )

    assert set(done.stdout.split()) == expected, done.stderr


def test_doctor_says_what_to_do_about_a_dead_broker(idle_world: World) -> None:
    done = idle_world.run("coldfusion", "doctor", **NO_BROKER)

    assert done.code == 5
    (line,) = [line for line in done.out.splitlines() if line.lstrip().startswith("wrong")]
    assert "redis://127.0.0.1:1/0" in line
    assert "start it, or correct COLDFUSION_BROKER_URL" in line
    assert len(re.findall(r"^ +ok +", done.out, re.MULTILINE)) >= 5  # it went on with the rest


def test_doctor_exits_with_the_code_of_what_is_wrong(idle_world: World) -> None:
    wrong_settings = idle_world.run("coldfusion", "doctor", COLDFUSION_DUTY_CYCLE="2")
    no_bucket = idle_world.run_warm("doctor", "--json", COLDFUSION_S3_BUCKET="no-bucket")

    assert (wrong_settings.code, no_bucket.code) == (4, 8)
    assert "COLDFUSION_DUTY_CYCLE" in wrong_settings.out
    states = {item["check"]: item["state"] for item in json.loads(no_bucket.out)}
    assert states["store"] == "wrong"


def test_ctrl_c_while_waiting_ends_the_waiting_and_not_the_submission(idle_world: World) -> None:
    data = write_rows(idle_world.data / "waiting.jsonl", rows("single"))
    with idle_world.popen("coldfusion-submit", data, "--wait") as process:
        assert process.stdout is not None
        submission = process.stdout.readline().strip()
        time.sleep(1)  # until it waits
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)

    assert process.returncode == 130
    assert f"'coldfusion cancel {submission}' ends it" in err
    assert "Traceback" not in err
    assert err.endswith("error: interrupted\n")
    assert idle_world.state(submission)["state"] == "open"
    cancelled = idle_world.run("coldfusion", "cancel", submission)
    again = idle_world.run("coldfusion", "cancel", submission)
    assert (cancelled.code, again.code) == (0, 0)
    assert idle_world.state(submission)["state"] == "cancelled"
    assert "nothing to cancel" in again.out


def test_an_unknown_command_is_a_usage_error(idle_world: World) -> None:
    done = idle_world.run("coldfusion", "melt")

    assert done.code == 2
    assert "No such command 'melt'" in done.err
