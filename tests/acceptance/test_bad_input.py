"""Everything that can be given wrongly: one clear sentence, a documented exit code, no trace."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.acceptance.servers import promiseless_store, slow_proxy
from tests.acceptance.world import Finished, World, eventually, rows, write_rows

Write = Callable[[Path], object]

GIB = 2**30


@pytest.fixture
def world(idle_world: World) -> Iterator[World]:
    """A repository in which the test changes nothing: neither bucket, nor queue, nor disk."""
    before = traces(idle_world)
    yield idle_world
    assert traces(idle_world) == before


def traces(world: World) -> tuple[dict[str, int], object, object, object]:
    """All that a command can leave behind."""
    keys = {key: world.redis.type(key) for key in world.redis.scan_iter("*")}
    return world.objects(), keys, world.queued(), world.left_behind()


def check(done: Finished, code: int, *says: str) -> None:
    """The exit code, one sentence with all that it has to say, and nothing on standard output."""
    complaint = done.complaint()
    assert done.code == code, complaint
    for text in says:
        assert text in complaint
    assert done.out == ""
    # It is the last thing that was said, and no list of causes and consequences.
    assert len(complaint.splitlines()) == 1


def good(path: Path) -> object:
    """What a bad file should have been."""
    return write_rows(path, rows("single"))


def lines(*examples: object) -> Write:
    """A writer of JSON lines."""
    text = "".join(json.dumps(example) + "\n" for example in examples)
    return lambda path: path.write_text(text, encoding="utf-8")


# --- data -------------------------------------------------------------------------------------

SINGLE = rows("single")


@pytest.mark.parametrize(
    ("name", "write", "options", "says"),
    [
        pytest.param(
            "missing.jsonl",
            lambda path: None,
            (),
            ("missing.jsonl", "there is no such file or folder", "check the path"),
            id="missing-file",
        ),
        pytest.param(
            "empty.jsonl",
            lambda path: path.touch(),
            (),
            ("empty.jsonl", "is empty, expected labelled examples", "write one"),
            id="empty-file",
        ),
        pytest.param(
            "empty.csv",
            lambda path: path.touch(),
            (),
            ("empty.csv", "is empty, expected labelled examples"),
            id="empty-csv",
        ),
        pytest.param(
            "empty.parquet", lambda path: path.touch(), (), ("empty.parquet",), id="empty-parquet"
        ),
        pytest.param(
            "column.jsonl",
            good,
            ("--label", "labl"),
            ("no column 'labl'", "only 'text', 'label'", "did you mean --label 'label'?"),
            id="wrong-column",
        ),
        pytest.param(
            "columns.jsonl",
            lines({"a": "x", "b": "y"}),
            (),
            ("text column", "'a', 'b'", "--text"),
            id="no-known-column",
        ),
        pytest.param(
            "one.jsonl",
            lines(*({**row, "label": "same"} for row in SINGLE)),
            (),
            ("all of its 24 rows have the same label", "expected at least 2", "add examples"),
            id="one-label-only",
        ),
        pytest.param(
            "gaps.jsonl",
            lines(*SINGLE[:5], {"text": "no label"}, *SINGLE[5:], {"text": "none", "label": None}),
            (),
            ("labels are missing in", "lines 6", "26", "label these rows, or remove them"),
            id="labels-missing-in-some-rows",
        ),
        pytest.param(
            "latin.csv",
            lambda path: path.write_bytes("text,label\ncafé,a\nthé,b\n".encode("latin-1")),
            (),
            ("latin.csv", "line 2 is not UTF-8 at byte 14", "save the file as UTF-8"),
            id="not-utf-8",
        ),
        pytest.param(
            "broken.jsonl",
            lambda path: path.write_text('{"text": "a", "label": "b"}\n{"text": \n', "utf-8"),
            (),
            ("broken.jsonl", "line 2"),
            id="broken-json",
        ),
        pytest.param(
            "notes.docx", good, (), ("notes.docx", ".jsonl", ".csv", ".parquet"), id="other-format"
        ),
    ],
)
def test_data_that_cannot_be_finetuned_on(
    world: World, name: str, write: Write, options: tuple[str, ...], says: tuple[str, ...]
) -> None:
    path = world.data / name
    write(path)

    check(world.run("coldfusion-submit", path, *options), 3, *says)


def test_two_gigabytes_of_one_line_are_refused_in_little_memory(world: World) -> None:
    path = world.data / "line.jsonl"
    with path.open("wb") as file:
        file.truncate(2 * GIB)  # of nothing, on disks that know how

    started = time.monotonic()
    done = world.run("coldfusion-submit", path, prefix=limited("RLIMIT_DATA", GIB))

    check(done, 3, "line.jsonl", "line 1 is longer than 16 MiB", "write one example a line")
    assert time.monotonic() - started < 10
    path.unlink()


def limited(resource: str, limit: int) -> list[str]:
    """A prefix that runs a command under a limit of its own."""
    code = (
        f"import os,resource as r,sys;r.setrlimit(r.{resource},({limit},{limit}));"
        "os.execv(sys.argv[1],sys.argv[1:])"
    )
    return [sys.executable, "-I", "-S", "-c", code]


def test_a_file_that_was_bad_can_be_submitted_once_it_is_good(idle_world: World) -> None:
    path = idle_world.data / "mended.jsonl"
    arguments = ("coldfusion-submit", path, "--name", "mended", "--json")
    before = traces(idle_world)
    for write in (lambda path: path.touch(), lines(SINGLE[0], {"text": "no label"})):
        write(path)
        check(idle_world.run(*arguments), 3)
        assert traces(idle_world) == before

    good(path)

    answer = idle_world.run(*arguments).json()
    assert idle_world.state(answer["submission"])["state"] == "open"


# --- names and paths --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "says"),
    [
        pytest.param(
            ("submit", "{data}", "--name", "../other"), ("'../other'", "'..'"), id="dots-in-name"
        ),
        pytest.param(("submit", "{data}", "--name", "two words"), ("'two words'",), id="space"),
        pytest.param(("submit", "{data}", "--name", "a/b"), ("'a/b'",), id="slash"),
        pytest.param(("submit", "{data}", "--name", ""), ("''",), id="empty-name"),
        pytest.param(
            ("submit", "s3://coldfusion/../secret.csv"), ("s3://BUCKET/KEY",), id="dots-in-s3-key"
        ),
        pytest.param(("submit", "hub:../secret"), ("hub:NAME",), id="dots-in-hub-name"),
        pytest.param(("submit", "ftp://host/x.csv"), (".jsonl",), id="unknown-scheme"),
        pytest.param(("submit", "{data}", "--set", "epoch=3"), ("did you mean epochs?",), id="set"),
        pytest.param(("submit", "{data}", "--set", "epochs=-1"), ("epochs=-1",), id="set-range"),
        pytest.param(
            ("submit", "{data}", "--turns", "forever", "--wait"), ("--wait",), id="wait-forever"
        ),
        pytest.param(
            ("contribute", "{model}", "--base-version", "0", "--name", "a b"),
            ("'a b'", "lower-case letters"),
            id="contribute-name",
        ),
        pytest.param(("pull", "newest", "{new}"), ("'newest'", "a number"), id="pull-version"),
    ],
)
def test_arguments_that_cannot_be_taken(
    world: World, command: tuple[str, ...], says: tuple[str, ...], tmp_path: Path
) -> None:
    done = run(world, command, tmp_path)

    check(done, 2, "cannot be taken: expected", *says)


@pytest.mark.parametrize(
    ("command", "says"),
    [
        pytest.param(("pull", "99", "{new}"), ("base version '99'", "newest is 0"), id="version"),
        pytest.param(("show", "nobody"), ("'nobody'",), id="show"),
        pytest.param(("show", "../../etc"), ("'../../etc'",), id="show-dots"),
        pytest.param(("cancel", "nobody"), ("'nobody'",), id="cancel"),
        pytest.param(("cancel", "../x y"), ("'../x y'",), id="cancel-dots"),
        pytest.param(("cancel", ""), ("''",), id="cancel-nothing"),
    ],
)
def test_what_is_not_there_is_named(
    world: World, command: tuple[str, ...], says: tuple[str, ...], tmp_path: Path
) -> None:
    done = run(world, command, tmp_path)

    check(done, 8, "does not exist", *says)
    assert list(tmp_path.iterdir()) == []


def run(world: World, command: tuple[str, ...], tmp_path: Path, **own: str) -> Finished:
    """Run a command in which ``{data}``, ``{model}`` and ``{new}`` are paths."""
    data = world.data / "good.jsonl"
    good(data)
    paths = {"{data}": data, "{model}": world.data, "{new}": tmp_path / "new"}
    return world.run_warm(*(paths.get(word, word) for word in command), **own)


def test_pull_writes_over_nothing(world: World, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")

    check(world.run("coldfusion", "pull", tmp_path), 9, "already exists", "an empty one")

    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


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


# --- models -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directories of models, all of them wrong."""
    import torch
    from transformers import (
        AutoTokenizer,
        BertConfig,
        BertModel,
        DistilBertConfig,
        DistilBertModel,
        T5Config,
        T5Model,
    )

    root = tmp_path_factory.mktemp("models")

    def copy(name: str) -> Path:
        shutil.copytree(tiny_model_dir, root / name)
        return root / name

    def save(name: str, model: torch.nn.Module) -> None:
        (copy(name) / "model.safetensors").unlink()
        model.save_pretrained(root / name)  # type: ignore[operator]

    save(
        "distilbert",
        DistilBertModel(DistilBertConfig(dim=32, n_layers=1, n_heads=2, hidden_dim=32)),
    )
    config = {**BertConfig.from_pretrained(tiny_model_dir).to_dict(), "hidden_size": 16}
    save("narrow", BertModel(BertConfig(**config)))
    save(
        "t5",
        T5Model(T5Config(vocab_size=200, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)),
    )
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    tokenizer.add_tokens(["otherwise"])
    tokenizer.save_pretrained(copy("tokens"))
    weights = copy("pickle") / "model.safetensors"
    torch.save(
        BertModel.from_pretrained(tiny_model_dir).state_dict(), root / "pickle/pytorch_model.bin"
    )
    weights.unlink()
    (root / "nothing").mkdir()
    return root


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        pytest.param(
            "distilbert",
            10,
            ("its architecture is distilbert, expected bert", "finetuned from tiny-bert"),
            id="another-architecture",
        ),
        pytest.param(
            "tokens", 10, ("tokenizer's vocabulary", "expected", "finetune with"), id="tokenizer"
        ),
        pytest.param(
            "narrow", 10, ("tensor '", "(", "expected (", "finetuned from another"), id="shapes"
        ),
        pytest.param(
            "pickle",
            10,
            ("weight file is none in safetensors", "expected safetensors"),
            id="pickle",
        ),
        pytest.param("nothing", 8, ("config.json", "save_pretrained"), id="no-model"),
    ],
)
def test_models_that_cannot_be_contributed(
    world: World, models: Path, name: str, code: int, says: tuple[str, ...]
) -> None:
    done = world.run_warm("contribute", models / name, "--base-version", "0")

    check(done, code, name, *says)


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        pytest.param(
            "pickle",
            10,
            ("weight file is none in safetensors", "expected safetensors"),
            id="pickle",
        ),
        pytest.param(
            "t5", 10, ("encoder-decoder, expected encoder or decoder", "such as BERT"), id="t5"
        ),
        pytest.param("nothing", 10, ("expected one that transformers loads",), id="no-model"),
        pytest.param("nowhere", 8, ("does not exist", "save_pretrained", "Hub id"), id="no-dir"),
    ],
)
def test_models_that_no_repository_can_begin_with(
    world: World, models: Path, name: str, code: int, says: tuple[str, ...]
) -> None:
    fresh = {"COLDFUSION_REPOSITORY": f"from-{name}"}

    done = world.run_warm("init", "--base", models / name, **fresh)

    check(done, code, name, *says)
    assert list(world.store.list(f"from-{name}/")) == []


def test_a_repository_that_could_not_begin_can_begin_later(
    world: World, models: Path, tiny_model_dir: Path
) -> None:
    fresh = {"COLDFUSION_REPOSITORY": f"{world.repository.name}-later"}
    first = world.run_warm("init", "--base", models / "pickle", **fresh)
    check(first, 10)

    second = world.run_warm("init", "--base", tiny_model_dir, "--json", **fresh)
    third = world.run_warm("init", "--base", tiny_model_dir, **fresh)

    assert second.json()["repository"] == fresh["COLDFUSION_REPOSITORY"]
    check(third, 9, "already exists", "COLDFUSION_REPOSITORY")


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
    uploads = idle_world.store._client._list_multipart_uploads(idle_world.store.bucket)
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
