"""The broker's URL: credentials from settings of their own, Sentinels, and what is refused."""

from __future__ import annotations

import pytest
from kombu import Connection
from pydantic import SecretStr

from coldfusion_queue.broker_url import SentinelUrl, check_broker_url, masked_url
from coldfusion_queue.errors import SettingsError
from coldfusion_queue.queue.app import make_app
from coldfusion_queue.queue.connection import connect_redis
from coldfusion_queue.settings import Settings, load_settings

SECRET = "p/w#1?@:;%,+ x"
ENCODED = "p%2Fw%231%3F%40%3A%3B%25%2C%2B%20x"


def load(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Settings:
    for name, value in variables.items():
        monkeypatch.setenv(f"COLDFUSION_{name}", value)
    return load_settings()


def problem(monkeypatch: pytest.MonkeyPatch, **variables: str) -> str:
    with pytest.raises(SettingsError) as caught:
        load(monkeypatch, **variables)
    assert SECRET not in str(caught.value)
    assert ENCODED not in str(caught.value)
    return str(caught.value)


# --- credentials ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "username", "expected"),
    [
        ("redis://host:6379/0", "user@x", f"redis://user%40x:{ENCODED}@host:6379/0"),
        ("rediss://[::1]:6379/0", None, f"rediss://:{ENCODED}@[::1]:6379/0"),
        ("unix:///run/valkey.sock?db=1", "u", f"unix://u:{ENCODED}@/run/valkey.sock?db=1"),
        (None, None, f"redis://:{ENCODED}@127.0.0.1:6379/0"),
    ],
)
def test_credentials_of_their_own_are_put_into_the_url(
    monkeypatch: pytest.MonkeyPatch, url: str | None, username: str | None, expected: str
) -> None:
    given = {"BROKER_URL": url, "BROKER_USERNAME": username, "BROKER_PASSWORD": SECRET}

    settings = load(monkeypatch, **{name: value for name, value in given.items() if value})

    assert settings.broker_url.get_secret_value() == expected
    assert SECRET not in repr(settings)
    assert ENCODED not in repr(settings) + masked_url(settings.broker_url)


def test_client_and_queue_log_in_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(
        monkeypatch, BROKER_URL="redis://h/2", BROKER_USERNAME="u:1", BROKER_PASSWORD=SECRET
    )

    options = connect_redis(settings).connection_pool.connection_kwargs
    queue: Connection = make_app(settings).connection()

    assert (options["username"], options["password"], options["db"]) == ("u:1", SECRET, 2)
    assert (queue.userid, queue.password, queue.virtual_host) == ("u:1", SECRET, "2")
    assert SECRET not in queue.as_uri()


@pytest.mark.parametrize("url", ["redis://user@host", f"redis://:{ENCODED}@host", "redis://:@h"])
def test_credentials_are_given_in_one_place(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    text = problem(monkeypatch, BROKER_URL=url, BROKER_PASSWORD=SECRET)

    assert "  COLDFUSION_BROKER_URL: expected no user or password in it" in text


def test_a_user_has_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    text = problem(monkeypatch, BROKER_USERNAME="user")

    assert "COLDFUSION_BROKER_USERNAME: give COLDFUSION_BROKER_PASSWORD as well" in text


# --- Sentinel ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "sentinels", "db"),
    [
        ("sentinel://a:1/0", (("a", 1),), 0),
        ("sentinel://a:1,b:2,c/15", (("a", 1), ("b", 2), ("c", 26379)), 15),
        ("sentinels://[::1]:1,[fe80::2]", (("::1", 1), ("fe80::2", 26379)), 0),
        ("sentinel://a/", (("a", 26379),), 0),
    ],
)
def test_sentinels_are_read_from_the_url(
    url: str, sentinels: tuple[tuple[str, int], ...], db: int
) -> None:
    found = SentinelUrl.parse(url)

    assert (found.sentinels, found.db) == (sentinels, db)
    assert (found.username, found.password) == (None, None)
    assert SentinelUrl.parse(found.each()[-1]).sentinels == sentinels[-1:]


@pytest.mark.parametrize("scheme", ["sentinel", "sentinels"])
def test_client_and_queue_know_all_sentinels(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    settings = load(
        monkeypatch,
        BROKER_URL=f"{scheme}://a:1,b:2/3",
        BROKER_USERNAME="user",
        BROKER_PASSWORD=SECRET,
        BROKER_SENTINEL_MASTER="main",
        BROKER_SENTINEL_PASSWORD=f"{SECRET}2",
    )

    pool = connect_redis(settings).connection_pool
    app = make_app(settings)
    queue: Connection = app.connection()

    assert pool.service_name == "main"
    options = pool.connection_kwargs
    assert (options["username"], options["password"], options["db"]) == ("user", SECRET, 3)
    asked = [item.connection_pool.connection_kwargs for item in pool.sentinel_manager.sentinels]
    assert [(item["host"], item["port"]) for item in asked] == [("a", 1), ("b", 2)]
    assert {item["password"] for item in asked} == {f"{SECRET}2"}
    assert queue.alt == [f"sentinel://user:{ENCODED}@{host}/3" for host in ("a:1", "b:2")]
    assert queue.transport_options["master_name"] == "main"
    own = queue.transport_options["sentinel_kwargs"]
    assert own["password"] == f"{SECRET}2"
    is_encrypted = scheme == "sentinels"
    assert ("SSL" in pool.connection_class.__name__) == is_encrypted
    assert ("SSL" in asked[0].get("connection_class", type).__name__) is False
    assert own.get("ssl", False) == is_encrypted == bool(queue.ssl)
    assert SECRET not in queue.as_uri() + repr(queue)


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        pytest.param(
            {"BROKER_URL": "sentinel://a:1/0"},
            "COLDFUSION_BROKER_SENTINEL_MASTER: expected the name by which",
            id="no-name",
        ),
        pytest.param(
            {"BROKER_SENTINEL_MASTER": "main"},
            "COLDFUSION_BROKER_SENTINEL_MASTER is for Sentinels: unset it",
            id="name-alone",
        ),
        pytest.param(
            {"BROKER_SENTINEL_PASSWORD": SECRET},
            "COLDFUSION_BROKER_SENTINEL_PASSWORD is for Sentinels: unset it",
            id="password-alone",
        ),
    ],
)
def test_sentinels_and_the_servers_name_come_together(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], says: str
) -> None:
    assert says in problem(monkeypatch, **variables)


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "sentinel://",
        "sentinel://a:1,/0",
        "sentinel://a:1,b:port/0",
        "sentinel://a:1;b:2/0",
        "sentinel://a:1/0?x=1",
        "sentinel://a:1/main",
        f"sentinel://:{SECRET}@a:1/0",
        "redis://host/0?password=x",
        "redis://host/0?db=1&username=x",
    ],
)
def test_wrong_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"^expected ") as caught:
        check_broker_url(url)

    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "scheme", ["redis+cluster", "rediss+cluster", "redis-cluster", "rediss-cluster"]
)
def test_a_cluster_is_refused_with_what_to_use_instead(
    monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    text = problem(monkeypatch, BROKER_URL=f"{scheme}://:{ENCODED}@a:6379,b:6379/0")

    assert "COLDFUSION_BROKER_URL: Redis Cluster cannot be the broker" in text
    assert "use a server that is no cluster" in text
    assert "sentinel://" in text


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"sentinel://user:{ENCODED}@a:1,b:2/0", "sentinel://user:****@a:1,b:2/0"),
        (f"sentinels://:{ENCODED}@[::1]:1,[::2]/0", "sentinels://:****@[::1]:1,[::2]/0"),
        ("redis://user@host", "redis://user@host"),
    ],
)
def test_masked_url_hides_the_password_alone(url: str, shown: str) -> None:
    assert masked_url(SecretStr(url)) == shown
