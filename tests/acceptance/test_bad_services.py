"""Stores and brokers that are wrong, a full disk, Ctrl-C: told clearly, nothing half-done."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.refusals import check, run, traces
from tests.acceptance.servers import promiseless_store, slow_proxy
from tests.acceptance.world import Finished, World, eventually
from tests.rows import rows, write_rows


@pytest.fixture
def world(untouched_world: World) -> World:
    """A repository that must be left as it was."""
    return untouched_world


# --- servers ----------------------------------------------------------------------------------

NOBODY = "127.0.0.1:1"  # nobody listens there
SUBMIT = ("submit", "{data}")
INIT = ("init", "--base", "{model}")


@pytest.mark.parametrize(
    "command", [SUBMIT, INIT, ("pull", "{new}"), ("status",)], ids="{0[0]}".format
)
@pytest.mark.parametrize(
    ("own", "code", "says"),
    [
        pytest.param(
            {"COLDFUSION_S3_SECRET_KEY": "wrong"},
            7,
            (
                "refused the credentials",
                "check COLDFUSION_S3_ACCESS_KEY and COLDFUSION_S3_SECRET_KEY",
            ),
            id="wrong-secret-key",
        ),
        pytest.param(
            {"COLDFUSION_S3_ACCESS_KEY": "wrong"},
            7,
            (
                "refused the credentials",
                "check COLDFUSION_S3_ACCESS_KEY and COLDFUSION_S3_SECRET_KEY",
            ),
            id="wrong-access-key",
        ),
        pytest.param(
            {"COLDFUSION_S3_BUCKET": "no-bucket"},
            8,
            ("bucket 'no-bucket' does not exist", "create it", "COLDFUSION_S3_BUCKET"),
            id="no-bucket",
        ),
        pytest.param(
            {"COLDFUSION_S3_ENDPOINT": f"http://{NOBODY}"},
            6,
            (f"http://{NOBODY}", "check that it runs", "COLDFUSION_S3_ENDPOINT"),
            id="no-store",
        ),
    ],
)
def test_a_store_that_cannot_be_used(
    world: World,
    own: dict[str, str],
    code: int,
    says: tuple[str, ...],
    command: tuple[str, ...],
    tmp_path: Path,
) -> None:
    check(run(world, command, tmp_path, **own), code, *says)
    assert list(tmp_path.iterdir()) == []


def test_a_repository_that_was_never_made(world: World, tmp_path: Path) -> None:
    own = {"COLDFUSION_REPOSITORY": "elsewhere"}

    check(run(world, SUBMIT, tmp_path, **own), 8, "repository 'elsewhere'", "coldfusion init")


def test_no_broker(world: World, tmp_path: Path) -> None:
    own = {"COLDFUSION_BROKER_URL": f"redis://{NOBODY}/0"}

    check(run(world, SUBMIT, tmp_path, **own), 5, NOBODY, "start it", "COLDFUSION_BROKER_URL")


def test_a_wrong_password_of_the_broker(world: World, tmp_path: Path) -> None:
    url = world.settings.broker_url.get_secret_value()
    own = {"COLDFUSION_BROKER_URL": re.sub(r":[^:@]*@", ":n0t-it@", url)}

    done = run(world, SUBMIT, tmp_path, **own)

    check(done, 7, "refused the credentials", "COLDFUSION_BROKER_URL")
    assert "n0t-it" not in done.err


def test_a_store_that_ignores_conditional_writes(world: World, tmp_path: Path) -> None:
    with promiseless_store() as (url, objects):
        done = run(world, INIT, tmp_path, COLDFUSION_S3_ENDPOINT=url)

        check(
            done, 14, url, "Promiseless", "overwrote", "use a store that honours", "If-None-Match"
        )
        assert objects == {}


# --- a full disk ------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Callable[[int], list[str]]:
    """``small_disk(bytes)``: a prefix that runs a command with a tiny disk at ``tmp_path/disk``.

    It is mounted in a namespace of the command's own, so it is gone with the command; what the
    command left on it is listed in ``tmp_path/left``.
    """
    disk = tmp_path / "disk"
    disk.mkdir()
    namespace = ["unshare", "--user", "--map-root-user", "--mount"]
    probe = subprocess.run([*namespace, "true"], capture_output=True, check=False)
    assert probe.returncode == 0, f"no mount namespaces here: {probe.stderr.decode()}"

    def prefix(num_bytes: int) -> list[str]:
        script = (
            f'mount -t tmpfs -o size={num_bytes} tmpfs {disk} && "$@"; code=$?; '
            f"find {disk} -mindepth 1 > {tmp_path}/left; exit $code"
        )
        return [*namespace, "sh", "-c", script, "sh"]

    return prefix


def test_pull_to_a_full_disk(
    world: World, small_disk: Callable[[int], list[str]], tmp_path: Path
) -> None:
    target = tmp_path / "disk" / "model"

    done = world.run("coldfusion", "pull", target, prefix=small_disk(65536))

    check(done, 11, f"no space left on the disk of {tmp_path / 'disk'}", "point DIRECTORY at")
    assert (tmp_path / "left").read_text() == ""
    assert world.run("coldfusion", "pull", target).code == 0  # the disk is a large one again


@pytest.mark.parametrize(
    ("command", "variable"),
    [
        pytest.param(SUBMIT, "TMPDIR", id="submit"),
        pytest.param(("init", "--base", "{tiny}"), "TMPDIR", id="init"),
        pytest.param(("contribute", "{tiny}", "--base-version", "0"), "TMPDIR", id="contribute"),
        pytest.param(
            ("contribute", "{tiny}", "--base-version", "0"), "COLDFUSION_HOME", id="cache"
        ),
    ],
)
def test_no_room_for_temporary_files(
    world: World,
    small_disk: Callable[[int], list[str]],
    tiny_model_dir: Path,
    tmp_path: Path,
    command: tuple[str, ...],
    variable: str,
) -> None:
    data = write_rows(world.data / "many.jsonl", rows("single", 4000))
    paths = {"{data}": data, "{tiny}": tiny_model_dir}
    arguments = [paths.get(word, word) for word in command]
    own = {variable: str(tmp_path / "disk")}
    if command[0] == "init":
        own["COLDFUSION_REPOSITORY"] = "no-room"

    done = world.run("coldfusion", *arguments, prefix=small_disk(8192), **own)

    check(done, 11, "no space left on the disk of", str(tmp_path / "disk"), f"point {variable} at")
    assert list(world.store.list("no-room/")) == []
    left = (tmp_path / "left").read_text().splitlines()
    assert [name for name in left if not re.search("/cache(/[.]|$)|/torchinductor_", name)] == []


# --- Ctrl-C -----------------------------------------------------------------------------------


def interrupt(
    world: World, arguments: tuple[object, ...], moment: Callable[[], bool], **own: str
) -> Finished:
    """Run a command and press Ctrl-C when it is the moment."""
    with world.popen(*map(str, arguments), own=own) as process:
        try:
            eventually(moment)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    return Finished(process.returncode, out, err)


def test_ctrl_c_in_the_middle_of_an_upload(idle_world: World) -> None:
    import random

    generator = random.Random(2)
    examples = [{"text": generator.randbytes(4000).hex(), "label": str(n % 2)} for n in range(1500)]
    data = write_rows(idle_world.data / "large.jsonl", examples)
    arguments = ("coldfusion-submit", data, "--name", "large")
    before = traces(idle_world)

    with slow_proxy(idle_world.settings.s3_endpoint, up=2 * 2**20) as proxy:
        own = {
            "COLDFUSION_S3_ENDPOINT": proxy.url,
            "COLDFUSION_TRANSFER_PART_BYTES": str(5 * 2**20),
        }
        done = interrupt(idle_world, arguments, lambda: proxy.num_bytes_up > 2**20, **own)

    assert done.complaint() == "error: interrupted\n"
    assert done.code == 130
    # Data without a record is nothing yet; a part that was on its way may have completed it.
    after = traces(idle_world)
    new = {key.rpartition("/")[2] for key in after[0].keys() - before[0].keys()}
    assert new <= {"train.parquet"}
    assert after[1:] == before[1:]
    uploads = idle_world.store._client._list_multipart_uploads(
        idle_world.store.bucket, prefix=f"{idle_world.repository.name}/"
    )
    assert uploads.uploads == []
    again = idle_world.run(*arguments, "--json")
    assert again.json()["num_examples"] == 1500


def test_ctrl_c_in_the_middle_of_a_pull(world: World, tmp_path: Path) -> None:
    arguments = ("coldfusion", "pull", tmp_path / "parent" / "model")

    with slow_proxy(world.settings.s3_endpoint, down=50_000) as proxy:
        moment = lambda: proxy.num_bytes_down > 60_000  # noqa: E731
        own = {"COLDFUSION_S3_ENDPOINT": proxy.url}
        done = interrupt(world, arguments, moment, **own)

    assert done.complaint() == "error: interrupted\n"
    assert done.code == 130
    assert list((tmp_path / "parent").iterdir()) == []
    assert world.run(*arguments).code == 0
