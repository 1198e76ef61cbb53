"""Settings from a directory of files, as an orchestrator mounts secrets, and how they are mixed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from coldfusion_queue.errors import SettingsError
from coldfusion_queue.settings import load_settings, stack_env_file

SECRET = "hunter2-s3cr3t"


@pytest.fixture
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "secrets"
    directory.mkdir()
    monkeypatch.setenv("COLDFUSION_SECRETS_DIR", str(directory))
    return directory


def write(directory: Path, **values: str) -> None:
    for name, value in values.items():
        (directory / f"COLDFUSION_{name}").write_text(value)


def problem() -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings()
    return str(caught.value)


def test_each_file_is_a_setting(secrets: Path) -> None:
    write(secrets, S3_ACCESS_KEY="key", S3_SECRET_KEY=f"{SECRET}\n", LEASE_SECONDS="120\r\n")

    settings = load_settings()

    assert settings.secrets_dir == secrets
    assert settings.s3_secret_key is not None
    assert settings.s3_secret_key.get_secret_value() == SECRET
    assert settings.lease_seconds == 120
    assert SECRET not in repr(settings)


def test_only_the_newline_at_the_end_is_cut_off(secrets: Path) -> None:
    write(secrets, BROKER_PASSWORD=" a b \n\n")

    password = load_settings().broker_password

    assert password is not None
    assert password.get_secret_value() == " a b "


def test_the_environment_goes_before_files_and_they_before_the_stack(
    secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack_env_file().parent.mkdir(parents=True)
    stack_env_file().write_text(
        "COLDFUSION_S3_BUCKET=stack\nCOLDFUSION_S3_REGION=stack\nCOLDFUSION_REPOSITORY=stack\n"
    )
    write(secrets, S3_BUCKET="secret", S3_REGION="secret", LOG_LEVEL="DEBUG")
    monkeypatch.setenv("COLDFUSION_S3_BUCKET", "environment")
    monkeypatch.setenv("COLDFUSION_S3_REGION", "")  # an empty variable is none
    monkeypatch.setenv("coldfusion_log_level", "ERROR")  # a variable too

    settings = load_settings()

    assert settings.s3_bucket == "environment"
    assert settings.s3_region == "secret"
    assert settings.repository == "stack"
    assert settings.log_level == "ERROR"
    assert load_settings(s3_region="caller").s3_region == "caller"


def test_an_empty_file_is_none(secrets: Path) -> None:
    write(secrets, S3_ACCESS_KEY="", S3_BUCKET="\n")

    settings = load_settings()

    assert settings.s3_access_key is None
    assert settings.s3_bucket == "coldfusion"


def test_what_kubernetes_mounts_is_read(secrets: Path) -> None:
    # Its files are links into a directory to which one link points, so that all change at once.
    data = secrets / "..2026_11_26_09_00_00.123"
    data.mkdir()
    write(data, BROKER_PASSWORD=SECRET)
    (secrets / "..data").symlink_to(data.name)
    (secrets / "COLDFUSION_BROKER_PASSWORD").symlink_to("..data/COLDFUSION_BROKER_PASSWORD")
    (secrets / "ca.crt").write_bytes(b"\xff")
    (secrets / "redis-password").write_text("of another program")

    assert load_settings().broker_url.get_secret_value() == f"redis://:{SECRET}@127.0.0.1:6379/0"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("COLDFUSION_S3_SECRET", "no such setting, did you mean COLDFUSION_S3_SECRET_KEY?"),
        ("coldfusion_s3_secret_key", "no such setting, did you mean COLDFUSION_S3_SECRET_KEY?"),
        ("COLDFUSION_s3_secret_key", "no such setting, did you mean COLDFUSION_S3_SECRET_KEY?"),
        ("COLDFUSION_XYZZY", "no such setting"),
        ("COLDFUSION_SERVICE_HOST", "no such setting"),
        ("COLDFUSION_HOME", "expected in the environment, not in a file"),
        ("COLDFUSION_SECRETS_DIR", "expected in the environment, not in a file"),
    ],
)
def test_a_file_that_looks_like_a_setting_and_is_none_is_refused(
    secrets: Path, name: str, says: str
) -> None:
    (secrets / name).write_text(SECRET)

    text = problem()

    assert f"  {secrets}/{name}: {says}" in text
    assert SECRET not in text


def test_all_that_is_wrong_is_told_at_once_and_no_value(
    secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(secrets, S3_ACESS_KEY=SECRET, METRICS_PORT=SECRET, DEVICE=SECRET)
    write(secrets, BROKER_URL=f"redis://:{SECRET}@host:port/0")
    (secrets / "COLDFUSION_S3_SECRET_KEY").symlink_to("nowhere")
    (secrets / "COLDFUSION_S3_SESSION_TOKEN").mkdir()
    (secrets / "COLDFUSION_BROKER_PASSWORD").write_bytes(b"\xff\xfe" + SECRET.encode())
    monkeypatch.setenv("COLDFUSION_LEASE_SECOND", "1")

    text = problem()

    for words in (
        "COLDFUSION_S3_ACESS_KEY: no such setting, did you mean COLDFUSION_S3_ACCESS_KEY?",
        "COLDFUSION_S3_SECRET_KEY: cannot be read: No such file or directory",
        "COLDFUSION_S3_SESSION_TOKEN: cannot be read: Is a directory",
        "COLDFUSION_BROKER_PASSWORD: cannot be read: it is no UTF-8 text",
        "  COLDFUSION_METRICS_PORT: ",
        "  COLDFUSION_DEVICE: ",
        "  COLDFUSION_BROKER_URL: expected [[user]:password@]host:port/db",
        "  COLDFUSION_LEASE_SECOND: no such setting, did you mean COLDFUSION_LEASE_SECONDS?",
    ):
        assert words in text
    assert SECRET not in text


def test_a_directory_that_is_not_there_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path, reason in (
        (tmp_path / "none", "No such file or directory"),
        (Path(__file__), "Not a directory"),
    ):
        monkeypatch.setenv("COLDFUSION_SECRETS_DIR", str(path))
        says = f"COLDFUSION_SECRETS_DIR: no directory that can be read at {path} ({reason})"
        assert says in problem()


def test_a_directory_that_cannot_be_read_is_refused(
    secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:  # a superuser is refused nothing
        raise PermissionError(13, os.strerror(13), str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)

    assert f"no directory that can be read at {secrets} (Permission denied)" in problem()
