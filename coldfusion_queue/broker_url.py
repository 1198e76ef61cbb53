"""The broker's URL: its forms, the credentials that are put into it, and how it is shown."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from pydantic import SecretStr

__all__ = [
    "NO_CLUSTER",
    "SentinelUrl",
    "check_broker_url",
    "has_credentials",
    "is_sentinel",
    "is_tls",
    "masked_url",
    "with_credentials",
]

#: Why a cluster is refused, and what to do.
NO_CLUSTER = (
    "Redis Cluster cannot be the broker, because the queue library waits for keys that lie on "
    "several of its nodes; use a server that is no cluster (redis:// or rediss://), and replicas "
    "with Sentinel (sentinel://) if another one is to take over"
)

_SCHEMES = ("redis", "rediss", "sentinel", "sentinels", "unix")
_SENTINEL_PORT = 26379

# All before the last @ of the authority is user and password, as for urlsplit, which does not know
# several hosts.
_PARTS = re.compile(r"([^:/?#]*)://(?:([^/?#]*)@)?([^/?#]*)(.*)", re.DOTALL)


def check_broker_url(url: str) -> None:
    """Refuse what is no URL of a broker.

    Raises:
        ValueError: with a sentence that shows no part of the value: a password can stand anywhere
            in a URL that is wrong.
    """
    scheme, _, hosts, rest = _split(url)
    if "cluster" in scheme.lower():
        raise ValueError(NO_CLUSTER)
    if scheme not in _SCHEMES:
        raise ValueError(
            "expected a URL that begins with redis://, rediss:// (TLS), sentinel://, sentinels:// "
            "(TLS) or unix://"
        )
    if is_sentinel(url):
        SentinelUrl.parse(url)
    elif not _has_valid_port(hosts) or "@" in rest:
        raise ValueError(
            "expected [[user]:password@]host:port/db; a / # ? @ : in user or password is "
            "written as %2F %23 %3F %40 %3A"
        )
    if {"username", "password"} & dict(parse_qsl(urlsplit(rest).query)).keys():
        raise ValueError("expected user and password before the host, or in settings of their own")


def is_sentinel(url: str) -> bool:
    """Whether the hosts of a URL are Sentinels, which know where the broker is."""
    return _split(url)[0] in {"sentinel", "sentinels"}


def is_tls(url: str) -> bool:
    """Whether connections are encrypted."""
    return _split(url)[0] in {"rediss", "sentinels"}


def has_credentials(url: str) -> bool:
    """Whether a user or a password is in the URL."""
    return bool(_split(url)[1])


def with_credentials(url: str, username: str | None, password: str) -> str:
    """The URL, which has no credentials, with these."""
    scheme, _, hosts, rest = _split(url)
    return f"{scheme}://{_quoted(username, password)}{hosts}{rest}"


def masked_url(url: SecretStr) -> str:
    """The URL without its password, for messages and logs."""
    scheme, credentials, hosts, rest = _split(url.get_secret_value())
    username, colon, _ = (credentials or "").partition(":")
    shown = f"{username}:****@" if colon else f"{username}@" if username else ""
    return f"{scheme}://{shown}{hosts}{rest}"


@dataclass(frozen=True)
class SentinelUrl:
    """What ``sentinel://[[user]:password@]host:port[,host:port...]/db`` says."""

    #: Host and port of each Sentinel.
    sentinels: tuple[tuple[str, int], ...]
    #: Credentials of the server that they name; Sentinels have their own.
    username: str | None
    password: str | None = field(repr=False)
    db: int

    @classmethod
    def parse(cls, url: str) -> SentinelUrl:
        """Take a URL apart.

        Raises:
            ValueError: it has another form.
        """
        _, credentials, hosts, rest = _split(url)
        split = [urlsplit(f"//{host}") for host in hosts.split(",") if _has_valid_port(host)]
        names = [(part.hostname, part.port or _SENTINEL_PORT) for part in split]
        sentinels = tuple((name, port) for name, port in names if name)
        if len(sentinels) < hosts.count(",") + 1 or not re.fullmatch(r"(/\d*)?", rest):
            raise ValueError(
                "expected [[user]:password@]host:port[,host:port...]/db; a / # ? @ : in user or "
                "password is written as %2F %23 %3F %40 %3A"
            )
        username, _, password = (credentials or "").partition(":")
        return cls(
            sentinels, unquote(username) or None, unquote(password) or None, int(rest[1:] or 0)
        )

    def each(self) -> tuple[str, ...]:
        """A URL of each Sentinel by itself, with credentials and database."""
        own = _quoted(self.username, self.password) if self.password is not None else ""
        hosts = [(f"[{name}]" if ":" in name else name, port) for name, port in self.sentinels]
        return tuple(f"sentinel://{own}{name}:{port}/{self.db}" for name, port in hosts)


def _split(url: str) -> tuple[str, str | None, str, str]:
    """Scheme, credentials, hosts and the rest of a URL."""
    found = _PARTS.fullmatch(url)
    if found is None:
        return "", None, "", url
    scheme, credentials, hosts, rest = found.groups()
    return scheme, credentials, hosts, rest


def _quoted(username: str | None, password: str) -> str:
    return f"{quote(username or '', safe='')}:{quote(password, safe='')}@"


def _has_valid_port(host: str) -> bool:
    try:
        urlsplit(f"//{host}").port  # noqa: B018 - it is checked when it is asked for
    except ValueError:
        return False
    return True
