"""Servers that give each role its own credentials and rights, from the files that the chart ships.

``roles_servers`` runs a Valkey and a SeaweedFS of one's own, the latter with the command line of
the chart; nothing but the files says who may do what.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import redis
from pydantic import SecretStr

from coldfusion_queue.local.launch import launch
from coldfusion_queue.local.processes import stop
from coldfusion_queue.local.seaweed import S3Server
from coldfusion_queue.local.valkey import ValkeyServer
from coldfusion_queue.settings import Settings
from coldfusion_queue.store import Store

__all__ = ["ACL_FILES", "POLICIES", "Access", "acl_rules", "policy", "roles_servers"]

_FILES = Path(__file__).parents[2] / "helm" / "coldfusion" / "files" / "access"

#: The files of each role, by its name.
POLICIES = {path.stem: path for path in sorted((_FILES / "store").glob("*.json"))}
ACL_FILES = {path.stem: path for path in sorted((_FILES / "redis").glob("*.acl"))}


def policy(role: str, bucket: str, repository: str) -> dict[str, Any]:
    """The IAM policy of a role at the object store."""
    text = POLICIES[role].read_text("utf-8")
    found: dict[str, Any] = json.loads(
        text.replace("BUCKET", bucket).replace("REPOSITORY", repository)
    )
    return found


def acl_rules(role: str, repository: str, site: str) -> list[str]:
    """The rules of a role's user at the broker."""
    text = ACL_FILES[role].read_text("utf-8")
    return text.replace("REPOSITORY", repository).replace("SITE", site).split()


@dataclass(frozen=True)
class RoleServer(S3Server):
    """SeaweedFS as the chart runs it: an identity for each role, and none that may do all."""

    repository: str = ""
    keys: Mapping[str, str] | None = None
    """Secret key of each role; its access key is its name."""

    @classmethod
    def of(cls, directory: Path, repository: str, keys: Mapping[str, str]) -> Self:
        """A server that does not run yet; its bucket is not there yet either."""
        plain = S3Server.new(directory, volume_megabytes=64)
        own = {**vars(plain), "access_key": "", "secret_key": ""}
        return cls(**own, repository=repository, keys=keys)

    @property
    def command(self) -> tuple[str, ...]:
        """``weed server`` instead of ``weed mini``, because only that can bind S3 alone."""
        program, *_ = super().command
        ports = self.own_ports
        return (
            *(program, "-logtostderr=true", "server", f"-dir={self._data_dir}"),
            *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3"),
            *(f"-{part}.port={ports[part]}" for part in ("s3", "master", "volume", "filer")),
            *("-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.autoCreateBucket=false"),
            *(f"-s3.config={self.directory / 's3.json'}", "-master.telemetry=false"),
            *("-volume.preStopSeconds=0", "-volume.max=100"),
            f"-master.volumeSizeLimitMB={self.volume_megabytes}",
            *self._socket_options,
        )

    @property
    def environment(self) -> Mapping[str, str]:
        """Keys that keep its own parts apart from everybody else."""
        names = ("FILER_SIGNING", "FILER_SIGNING_READ", "SIGNING")
        return {f"WEED_JWT_{name}_KEY": secrets.token_hex(20) for name in names}

    def prepare(self) -> None:
        """Write who may do what."""
        super().prepare()
        identities, policies = [], []
        for role, secret in (self.keys or {}).items():
            credentials = [{"accessKey": role, "secretKey": secret}]
            identities.append({"name": role, "credentials": credentials, "policyNames": [role]})
            content = json.dumps(policy(role, self.bucket, self.repository))
            policies.append({"name": role, "content": content})
        config = {"identities": identities, "policies": policies}
        (self.directory / "s3.json").write_text(json.dumps(config), encoding="utf-8")

    def answers(self) -> bool:
        """Whether its S3 gateway and its volumes are up."""
        import urllib3

        with suppress(urllib3.exceptions.HTTPError):
            return urllib3.request("GET", f"{self.endpoint}/healthz", retries=0).status == 200
        return False


@dataclass(frozen=True)
class Access:
    """Who reaches which server how."""

    repository: str
    site: str
    broker: str
    """``host:port``."""
    store: RoleServer
    passwords: Mapping[str, str]
    """Of each role, at both."""
    root: redis.Redis
    """A client of the broker that may do all."""

    def variables(self, role: str) -> dict[str, str]:
        """All that a process of a role is given."""
        found = {
            "COLDFUSION_REPOSITORY": self.repository,
            "COLDFUSION_BROKER_URL": "redis://127.0.0.1:1/0",
            "COLDFUSION_S3_ENDPOINT": self.store.endpoint,
            "COLDFUSION_S3_BUCKET": self.store.bucket,
        }
        if role in ACL_FILES:
            found["COLDFUSION_BROKER_URL"] = (
                f"redis://{role}:{self.passwords[role]}@{self.broker}/0"
            )
        if role in POLICIES:
            found["COLDFUSION_S3_ACCESS_KEY"] = role
            found["COLDFUSION_S3_SECRET_KEY"] = self.passwords[role]
        return found

    def denied(self) -> list[str]:
        """What the broker refused, and to whom."""
        entries: list[dict[str, Any]] = self.root.acl_log()  # type: ignore[assignment]
        return [f"{item['username']}: {item['reason']} {item['object']}" for item in entries]

    def open_store(self, role: str, secret: str | None = None) -> Store:
        """The object store with the rights of a role, or of somebody else."""
        settings = Settings.model_construct(
            s3_endpoint=self.store.endpoint,
            s3_bucket=self.store.bucket,
            s3_access_key=SecretStr(role),
            s3_secret_key=SecretStr(secret or self.passwords[role]),
            s3_addressing="path",
        )
        return Store.open(settings, max_attempts=1)

    def client(self, role: str) -> redis.Redis:
        """A client of the broker with the rights of a role."""
        url = self.variables(role)["COLDFUSION_BROKER_URL"]
        return redis.Redis.from_url(url, decode_responses=True)


@contextmanager
def roles_servers(directory: Path, repository: str, site: str) -> Iterator[Access]:
    """The servers for the time of the context."""
    passwords = {role: secrets.token_hex(16) for role in {*POLICIES, *ACL_FILES}}
    valkey, valkey_process = launch(
        ValkeyServer.new(directory / "valkey"), directory / "valkey.log", die_with_parent=True
    )
    keys = {role: passwords[role] for role in POLICIES}
    store, store_process = launch(
        RoleServer.of(directory / "s3", repository, keys),
        directory / "s3.log",
        die_with_parent=True,
    )
    root = redis.Redis.from_url(valkey.url, decode_responses=True)
    try:
        for role in ACL_FILES:
            rules = acl_rules(role, repository, site)
            root.execute_command("ACL", "SETUSER", role, "on", f">{passwords[role]}", *rules)
        broker = f"127.0.0.1:{valkey.port}"
        yield Access(repository, site, broker, store, passwords, root)
    finally:
        root.close()
        stop([valkey_process, store_process], 0)
        store.clean()
