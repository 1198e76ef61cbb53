"""Every role is refused what is not its own, by real servers with the files of the chart."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from coldfusion_queue.errors import AccessDeniedError
from coldfusion_queue.local.ports import GRPC_OFFSET
from tests.acceptance.access import ACL_FILES, POLICIES, Access, roles_servers
from tests.acceptance.grpc import call, field

REPOSITORY, SITE = "shared", "hospital-a"


@pytest.fixture(scope="module")
def access(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Access]:
    with roles_servers(tmp_path_factory.mktemp("access"), REPOSITORY, SITE) as found:
        found.open_store("setup").create_bucket()
        yield found


#: What a role may do with each kind of object, for the roles that may do anything with it.
OBJECTS = {
    "base/000001-00/model.safetensors": {
        **dict.fromkeys(("finetune", "site", "evaluation", "submit"), "get"),
        "fusion": "get put delete",
    },
    "ledger/0000000001.json": {
        **dict.fromkeys(("finetune", "site", "evaluation", "submit", "exporter"), "get"),
        "fusion": "get put",
    },
    "ledger/0000000000.json": {
        **dict.fromkeys(("finetune", "site", "evaluation", "submit", "exporter"), "get"),
        "fusion": "get put",
        "setup": "get put",
    },
    "repository.json": {
        **dict.fromkeys(("finetune", "site", "evaluation", "submit", "exporter", "fusion"), "get"),
        "setup": "get put",
    },
    "evaluations/a/b/frozen-0-c.json": {
        **dict.fromkeys(("exporter", "submit", "fusion"), "get"),
        "evaluation": "get put",
    },
    "wanted/a.json": {"evaluation": "get delete", "fusion": "get put delete"},
    "candidates/0000000001.json": {
        **dict.fromkeys(("exporter", "submit"), "get"),
        "fusion": "get put delete",
    },
    "datasets/a/train.parquet": {
        **dict.fromkeys(("finetune", "evaluation"), "get"),
        "submit": "put",
        "fusion": "get delete",
    },
    "datasets/a/dataset.json": {
        **dict.fromkeys(("finetune", "evaluation"), "get"),
        "submit": "get put",
        "fusion": "get delete",
    },
    "submissions/a/submission.json": {
        **dict.fromkeys(("finetune", "site", "fusion"), "get"),
        "submit": "get put",
    },
    "submissions/a/failed.json": {
        **dict.fromkeys(("finetune", "site"), "get put"),
        **dict.fromkeys(("submit", "fusion"), "get"),
    },
    "contributions/a/b/shared.safetensors": {
        **dict.fromkeys(("finetune", "site"), "get put delete"),
        "fusion": "get delete",
    },
    "contributions/a/contribution.json": {
        **dict.fromkeys(("finetune", "site"), "get put"),
        **dict.fromkeys(("submit", "fusion"), "get"),
    },
    "contributions/a/decision.json": {
        **dict.fromkeys(("finetune", "site", "submit"), "get"),
        "fusion": "get put",
    },
    "inspections/a.json": {"fusion": "get put"},
    "overrides/a.json": {"fusion": "get"},
    "checkpoints/a/b/checkpoint.safetensors": {
        "finetune": "get put delete",
        "site": "get delete",
        "fusion": "get delete",
    },
    "inbox/a": {
        **dict.fromkeys(("finetune", "site"), "get put"),
        "fusion": "get put delete",
    },
}


@pytest.mark.parametrize("role", POLICIES)
def test_the_store_refuses_a_role_whatever_is_not_its_own(role: str, access: Access) -> None:
    store = access.open_store(role)

    def may(action: str, key: str) -> bool:
        # What is there stays there: creating does not overwrite, and what is deleted is not real.
        ask = {"get": store.find, "put": lambda name: store.create(name, b""), "delete": delete}
        try:
            ask[action](key)
        except AccessDeniedError:
            return False
        return True

    def delete(key: str) -> None:
        store.delete([key])

    def rights(key: str) -> str:
        return " ".join(action for action in ("get", "put", "delete") if may(action, key))

    assert {key: rights(f"{REPOSITORY}/{key}") for key in OBJECTS} == {
        key: who.get(role, "") for key, who in OBJECTS.items()
    }
    assert {rights(f"another/{key}") for key in OBJECTS} == {""}
    for prefix in ("", "another/", REPOSITORY):
        with pytest.raises(AccessDeniedError):
            list(store.list(prefix))
    if role != "setup":
        with pytest.raises(AccessDeniedError):
            store.create_bucket()


#: Who may do what at the broker; ``R`` is the repository.
COMMANDS = {
    # Its own messages a role takes and puts back; those of others it may hand in, and no more.
    "BRPOP finetune 1": "finetune fusion",
    "BRPOP finetune\x06\x163 1": "finetune fusion",
    "LPUSH finetune message": "finetune fusion submit",
    "BRPOP finetune.hospital-a 1": "site fusion",
    "LPUSH finetune.hospital-a message": "site fusion submit",
    "BRPOP finetune.hospital-a\x06\x163 1": "site fusion",
    "BRPOP finetune.hospital-b 1": "fusion",
    "BRPOP evaluate 1": "evaluation fusion",
    "LPUSH evaluate message": "evaluation fusion",
    "BRPOP fusion 1": "fusion",
    "LPUSH fusion message": "fusion beat",
    "LLEN finetune": "finetune fusion submit exporter keda",
    "LRANGE finetune 0 -1": "finetune fusion",
    "LINDEX finetune -1": "finetune fusion submit exporter",
    # What workers have in hand.
    "HGETALL unacked:finetune": "finetune fusion",
    "HVALS unacked:finetune": "finetune fusion submit exporter",
    "HSET unacked:finetune tag message": "finetune",
    "HSET unacked:finetune:a100 tag message": "finetune",
    "ZADD unacked:finetune:a100_index 0 tag": "finetune",
    "HSET unacked:evaluate tag message": "evaluation",
    "HSET unacked:fusion tag message": "fusion",
    "SET unacked:fusion_mutex token": "fusion",
    "HSET unacked.hospital-a tag message": "site",
    "HGETALL unacked.hospital-ab": "fusion",
    "HSET unacked.hospital-ab tag message": "",
    "HLEN unacked:finetune": "finetune fusion keda",
    "HLEN unacked:finetune:a100": "finetune fusion keda",
    "HLEN unacked.hospital-a": "site fusion keda",
    # What the repository's processes tell each other.
    "SET coldfusion:R:turn:a.t00001 sent": "finetune site evaluation fusion submit",
    "SET coldfusion:R:progress:a report": "finetune site fusion",
    "GET coldfusion:R:progress:a": "finetune site fusion submit",
    "SET coldfusion:R:fusion-lock token": "fusion",
    "MGET coldfusion:R:turn:a.t00001": "finetune site evaluation fusion submit exporter",
    "SADD coldfusion:R:sites hospital-a": "site fusion submit",
    "SMEMBERS coldfusion:R:sites": "site fusion submit exporter",
    "SADD coldfusion:pools a100": "finetune",
    "GET coldfusion:R:stored": "fusion submit exporter",
    "SET coldfusion:R:stored {}": "fusion",
    # Who says that it is there, and who asks.
    "ZADD workers:finetune 0 worker": "finetune",
    "ZADD workers:finetune.hospital-a 0 worker": "site",
    "ZADD workers:finetune.hospital-ab 0 worker": "",
    "ZADD workers:evaluate 0 worker": "evaluation",
    "ZADD workers:fusion 0 worker": "fusion",
    "ZCOUNT workers:finetune.hospital-a 0 1": "site fusion submit",
    "ZRANGE workers:finetune 0 -1": "finetune fusion submit exporter",
    "ZRANGE workers:finetune.hospital-a 0 -1": "site fusion submit exporter",
    "SET coldfusion:another:turn:a.t00001 sent": "",
    "GET coldfusion:another:progress:a": "",
    # Which queue a message comes to.
    "SADD _kombu.binding.finetune binding": "finetune fusion submit",
    "SADD _kombu.binding.fusion binding": "fusion beat",
    "SADD _kombu.binding.evaluate binding": "evaluation fusion",
    # Commanding workers, and telling monitors.
    "PUBLISH /0.celery.pidbox command": "finetune evaluation fusion",
    "PUBLISH /0.celeryev/task.sent event": "finetune evaluation fusion beat submit",
    # Seeing all keys, and administering.
    "SCAN 0": "fusion",
    "INFO": "finetune site evaluation fusion beat exporter submit",
    "TYPE finetune": "finetune fusion keda",
    **dict.fromkeys(("KEYS *", "FLUSHALL", "CONFIG GET *", "ACL LIST", "MONITOR", "SHUTDOWN"), ""),
    **dict.fromkeys(("CLIENT LIST", "DEBUG SLEEP 0", "FUNCTION FLUSH", "SCRIPT FLUSH"), ""),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_broker_lets_those_roles_do_it_that_have_to(command: str, access: Access) -> None:
    words = command.replace(":R:", f":{REPOSITORY}:").split(" ")

    def may(role: str) -> bool:
        answer = access.root.execute_command("ACL", "DRYRUN", role, *words)
        return answer in {"OK", b"OK"}

    assert [role for role in ACL_FILES if may(role)] == sorted(COMMANDS[command].split())


#: What the scaler runs, and one that would empty the queue.
LENGTH = """
local kind = redis.call('type', KEYS[1]).ok
local commands = {zset = 'zcard', set = 'scard', list = 'llen', hash = 'hlen', none = 'llen'}
return redis.call(commands[kind], KEYS[1])
"""
TAKE = "return redis.call('RPOP', KEYS[1])"


def test_the_scaler_counts_messages_and_changes_nothing_in_a_script_either(access: Access) -> None:
    root, keda = access.root, access.client("keda")
    root.lpush("finetune.scaled", "message")

    assert keda.eval(LENGTH, 1, "finetune.scaled") == 1
    assert keda.eval(LENGTH, 1, "unacked:finetune:a100") == 0
    with pytest.raises(redis.ResponseError, match="no permissions"):
        keda.eval(TAKE, 1, "finetune.scaled")
    with pytest.raises(redis.ResponseError, match=r"[Nn]o permissions"):
        keda.eval(LENGTH, 1, f"coldfusion:{REPOSITORY}:sites")
    assert root.delete("finetune.scaled") == 1
    keda.close()


def test_nobody_makes_himself_an_identity_behind_the_stores_back(access: Access) -> None:
    credential = field(1, b"stranger") + field(2, b"secret")
    identity = field(1, b"stranger") + field(2, credential) + field(3, b"Admin")

    call(access.store.own_ports["s3"] + GRPC_OFFSET, PUT_IDENTITY, field(1, identity))

    store = access.open_store("stranger", "secret")
    with pytest.raises(AccessDeniedError):
        list(store.list(""))


PUT_IDENTITY = "/messaging_pb.SeaweedS3IamCache/PutIdentity"
