"""Settings: where they come from, what is refused, and that secrets stay secret."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from coldfusion_queue.broker_url import masked_url
from coldfusion_queue.errors import SettingsError
from coldfusion_queue.settings import Settings, load_settings, stack_env_file

SECRET = "hunter2-s3cr3t"


def setenv(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"COLDFUSION_{name}", value)


def write_stack_env(text: str) -> None:
    stack_env_file().parent.mkdir(parents=True, exist_ok=True)
    stack_env_file().write_text(text)


def problem(monkeypatch: pytest.MonkeyPatch, **variables: str) -> str:
    setenv(monkeypatch, **variables)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    return str(caught.value)


# --- where they come from ---------------------------------------------------------------------


def test_defaults_need_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLDFUSION_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    settings = load_settings()
    assert settings.home == Path("/home/someone/.coldfusion")
    assert settings.repository == "default"
    assert settings.cache_dir == settings.home / "cache"
    assert settings.stack_dir == settings.home / "stack"
    assert stack_env_file() == settings.stack_dir / "stack.env"


def test_environment_goes_before_stack_env_and_that_before_defaults(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_stack_env(
        "COLDFUSION_S3_BUCKET=from-the-stack\n"
        "COLDFUSION_S3_ENDPOINT=http://127.0.0.1:1111\n"
        "COLDFUSION_BROKER_URL=redis://:pass%2Fword@127.0.0.1:2222/0\n"
    )
    setenv(monkeypatch, S3_BUCKET="from-the-environment")
    settings = load_settings()
    assert settings.s3_bucket == "from-the-environment"
    assert settings.s3_endpoint == "http://127.0.0.1:1111"
    assert settings.broker_url.get_secret_value() == "redis://:pass%2Fword@127.0.0.1:2222/0"
    assert settings.repository == "default"
    assert load_settings(s3_bucket="from-the-caller").s3_bucket == "from-the-caller"


def test_empty_variables_count_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    setenv(monkeypatch, HOME="", S3_BUCKET="", S3_ACCESS_KEY="", METRICS_PORT="")
    settings = load_settings()
    assert settings.s3_bucket == "coldfusion"
    assert settings.s3_access_key is None
    assert settings.metrics_port == 9464
    assert stack_env_file() == settings.home / "stack" / "stack.env"


def test_tilde_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "ca.pem").touch()
    setenv(monkeypatch, HOME="~/cf", S3_CA_FILE="~/ca.pem")
    settings = load_settings()
    assert settings.home == tmp_path / "cf"
    assert settings.s3_ca_file == tmp_path / "ca.pem"
    assert stack_env_file() == tmp_path / "cf" / "stack" / "stack.env"


def test_settings_do_not_change_once_read() -> None:
    settings = load_settings()
    with pytest.raises(ValidationError, match="frozen"):
        settings.s3_bucket = "another"  # type: ignore[misc]


def test_every_setting_is_documented() -> None:
    undocumented = [name for name, field in Settings.model_fields.items() if not field.description]
    assert undocumented == []


# --- what is refused --------------------------------------------------------------------------


def test_every_wrong_variable_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    text = problem(
        monkeypatch,
        REPOSITORY="Not A Name",
        BROKER_URL="amqp://broker",
        S3_ENDPOINT="s3.example.org",
        TRANSFER_THREADS="0",
        TRANSFER_PART_BYTES="1024",
        DEVICE="tpu",
        LOG_FORMAT="xml",
        FUSION_CHUNK_BYTES="many",
        S3_MAX_ATTEMPT="3",
    )
    for name in (
        "REPOSITORY",
        "BROKER_URL",
        "S3_ENDPOINT",
        "TRANSFER_THREADS",
        "TRANSFER_PART_BYTES",
        "DEVICE",
        "LOG_FORMAT",
        "FUSION_CHUNK_BYTES",
        "S3_MAX_ATTEMPT",
    ):
        assert f"  COLDFUSION_{name}: " in text
    assert "did you mean COLDFUSION_S3_MAX_ATTEMPTS?" in text
    assert "COLDFUSION_S3_BUCKET" not in text


def test_unknown_variable_without_a_likeness_is_refused_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = problem(monkeypatch, XYZZY="1")
    assert "COLDFUSION_XYZZY: no such setting\n" in text


def test_kubernetes_service_links_are_not_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    setenv(
        monkeypatch,
        SERVICE_HOST="10.0.0.7",
        EXPORTER_SERVICE_HOST="10.0.0.8",
        EXPORTER_SERVICE_PORT="9464",
        EXPORTER_SERVICE_PORT_METRICS="9464",
        EXPORTER_PORT="tcp://10.0.0.8:9464",
        EXPORTER_PORT_9464_TCP="tcp://10.0.0.8:9464",
        EXPORTER_PORT_9464_TCP_PROTO="tcp",
        EXPORTER_PORT_9464_TCP_PORT="9464",
        EXPORTER_PORT_9464_TCP_ADDR="10.0.0.8",
    )
    load_settings()


def test_a_port_that_is_no_service_link_is_a_misspelt_setting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = problem(monkeypatch, METRIC_PORT="9000")
    assert "COLDFUSION_METRIC_PORT: no such setting, did you mean COLDFUSION_METRICS_PORT?" in text


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        pytest.param(
            {"S3_ACCESS_KEY": "key"},
            ["COLDFUSION_S3_ACCESS_KEY and COLDFUSION_S3_SECRET_KEY", "both or neither"],
            id="one-key",
        ),
        pytest.param(
            {"FINETUNE_TIME_LIMIT_SECONDS": "90000"},
            ["COLDFUSION_FINETUNE_TIME_LIMIT_SECONDS", "(90000)", "GC_GRACE_SECONDS is 86400"],
            id="finetune-longer-than-the-default-grace",
        ),
        pytest.param(
            {"RECONCILE_INTERVAL_SECONDS": "10.5"},
            ["COLDFUSION_RECONCILE_INTERVAL_SECONDS is 10.5", "a sixth", "LEASE_SECONDS (60)"],
            id="looks-too-rare-for-the-default-lease",
        ),
        pytest.param(
            {"LEASE_SECONDS": "30"},
            ["COLDFUSION_RECONCILE_INTERVAL_SECONDS is 10,", "(30)", "too late"],
            id="lease-too-short-for-the-default-looks",
        ),
        pytest.param(
            {"FINETUNE_TIME_LIMIT_SECONDS": "600", "GC_GRACE_SECONDS": "659"},
            ["COLDFUSION_GC_GRACE_SECONDS is 659", "60 s more", "(600)", "still runs"],
            id="grace-shorter-than-a-finetune",
        ),
        pytest.param(
            {"S3_CA_FILE": "/no/such/file.pem"},
            ["COLDFUSION_S3_CA_FILE: no file at /no/such/file.pem"],
            id="missing-ca-file",
        ),
    ],
)
def test_settings_that_do_not_fit_together(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], words: list[str]
) -> None:
    text = problem(monkeypatch, **variables)
    for word in words:
        assert word in text


def test_settings_that_fit_together_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    setenv(
        monkeypatch,
        S3_ACCESS_KEY="key",
        S3_SECRET_KEY="secret",
        FINETUNE_TIME_LIMIT_SECONDS="500",
        GC_GRACE_SECONDS="560",
        LEASE_SECONDS="30",
        RECONCILE_INTERVAL_SECONDS="5",
    )
    settings = load_settings()
    assert (settings.lease_seconds, settings.reconcile_interval_seconds) == (30, 5)


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"SITE": "a"}, "COLDFUSION_SITE and COLDFUSION_SITE_DATA_DIR: give both or neither"),
        ({"SITE_DATA_DIR": "/"}, "COLDFUSION_SITE and COLDFUSION_SITE_DATA_DIR: give both"),
        ({"SITE": "A.b", "SITE_DATA_DIR": "/"}, "COLDFUSION_SITE: site name 'A.b' cannot be taken"),
        (
            {"SITE": "a", "SITE_DATA_DIR": "/no/such/place"},
            "COLDFUSION_SITE_DATA_DIR: no directory at /no/such/place",
        ),
    ],
)
def test_a_site_has_a_name_and_a_directory(
    variables: dict[str, str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert says in problem(monkeypatch, **variables)


def test_a_task_may_take_longer_than_the_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    setenv(monkeypatch, FUSION_TIME_LIMIT_SECONDS="600", FINETUNE_TIME_LIMIT_SECONDS="600")
    assert load_settings().lease_seconds == 60


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("http://127.0.0.1:9000", "http://127.0.0.1:9000"),
        ("https://s3.example.org/", "https://s3.example.org"),
        ("http://[::1]:9000", "http://[::1]:9000"),
    ],
)
def test_endpoint_is_taken(monkeypatch: pytest.MonkeyPatch, given: str, taken: str) -> None:
    setenv(monkeypatch, S3_ENDPOINT=given)
    assert load_settings().s3_endpoint == taken


@pytest.mark.parametrize(
    "endpoint",
    [
        "127.0.0.1:9000",
        "s3://bucket",
        "http://",
        "http://host:port",
        "http://host:99999",
        "http://host/bucket",
        "http://host?query",
        f"http://user:{SECRET}@host",
        f"ftp://user:{SECRET}@host",
        f"user:{SECRET}@host",
    ],
)
def test_endpoint_is_refused(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    text = problem(monkeypatch, S3_ENDPOINT=endpoint)
    assert "  COLDFUSION_S3_ENDPOINT: " in text
    assert SECRET not in text


# --- secrets ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        f"{SECRET}:x@host:6379",
        f"amqp://user:{SECRET}@host",
        f"redis://:{SECRET}/x@host:6379/0",
        f"redis://:{SECRET}#x@host:6379/0",
        f"redis://:{SECRET}?x@host:6379/0",
        f"redis://:12#{SECRET}@host:6379/0",
        f"redis://user:{SECRET}@host:port/0",
        SECRET,
    ],
)
def test_wrong_broker_url_is_not_shown(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    text = problem(monkeypatch, BROKER_URL=url)
    assert "  COLDFUSION_BROKER_URL: expected " in text
    assert SECRET not in text


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost",
        "redis://user:pass%2Fword@[::1]:6379/15",
        "rediss://:password@redis.example.org:6380/0?ssl_cert_reqs=required",
        "unix:///run/valkey.sock?db=1",
        "unix://user:password@/run/valkey.sock",
    ],
)
def test_broker_url_is_taken(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    setenv(monkeypatch, BROKER_URL=url)
    assert load_settings().broker_url.get_secret_value() == url


def test_secrets_are_in_no_representation(monkeypatch: pytest.MonkeyPatch) -> None:
    setenv(
        monkeypatch,
        BROKER_URL=f"redis://:{SECRET}@host/0",
        S3_ACCESS_KEY="key",
        S3_SECRET_KEY=SECRET,
        S3_SESSION_TOKEN=SECRET,
    )
    settings = load_settings()
    assert SECRET not in repr(settings) + str(settings) + settings.model_dump_json()
    assert settings.s3_secret_key == SecretStr(SECRET)
    # Nor in the message about another variable, or about both keys together.
    assert SECRET not in problem(monkeypatch, TRANSFER_THREADS="0")
    monkeypatch.delenv("COLDFUSION_TRANSFER_THREADS")
    monkeypatch.delenv("COLDFUSION_S3_ACCESS_KEY")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(caught.value.__context__ if caught.value.__cause__ else "")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://:pw@host:6379/0", "redis://:****@host:6379/0"),
        ("rediss://user:pw@host/1?a=b", "rediss://user:****@host/1?a=b"),
        ("redis://user:p%40w@host", "redis://user:****@host"),
        ("unix://user:pw@/run/valkey.sock", "unix://user:****@/run/valkey.sock"),
    ],
)
def test_masked_url_hides_the_password_alone(url: str, shown: str) -> None:
    assert masked_url(SecretStr(url)) == shown


def test_the_tests_see_no_variable_of_the_person_who_runs_them() -> None:
    assert [name for name in os.environ if name.startswith("COLDFUSION_")] == ["COLDFUSION_HOME"]


def test_full_parameters_need_no_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    setenv(monkeypatch, CONTRIBUTION_FORM="full")
    assert load_settings().contribution_form == "full"
    setenv(monkeypatch, CONTRIBUTION_DTYPE="float32")
    assert load_settings().contribution_dtype == "float32"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "quantised"])
def test_full_parameters_are_not_rounded_to_half_precision(
    monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    text = problem(monkeypatch, CONTRIBUTION_FORM="full", CONTRIBUTION_DTYPE=dtype)
    assert f"COLDFUSION_CONTRIBUTION_DTYPE is {dtype}, expected float32" in text
    assert "upload the delta" in text
