"""What was asked of an S3 store, as its policies name it; and what a policy allows of that."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

__all__ = ["Request", "StoreRecorder", "allows", "as_at_aws", "patterns", "recording"]

_REQUEST = re.compile(rb"(GET|HEAD|PUT|POST|DELETE) (/[^ \r\n]*) HTTP/1\.1\r\n")
_DELETED = re.compile(rb"<Key>([^<]+)</Key>")
_ACTIONS = {"GET": "s3:GetObject", "HEAD": "s3:GetObject", "PUT": "s3:PutObject"}


@dataclass(frozen=True)
class Request:
    """One right that was made use of."""

    action: str
    resource: str
    prefix: str | None = None
    """Of a listing; a bucket that is looked up has none."""


class StoreRecorder:
    """Passes bytes on to a store, and keeps those on their way there.

    Args:
        target: URL of the store.
    """

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self._target = (parts.hostname, parts.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets = [self._listener]
        self._sent: list[bytearray] = []
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._start(self._accept)

    def requests(self) -> set[Request]:
        """What was asked for so far, each once."""
        return {found for sent in self._sent for found in _requests(bytes(sent))}

    def close(self) -> None:
        """Break every connection."""
        for end in self._sockets:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _start(self, target: Any, *arguments: Any) -> None:
        threading.Thread(target=target, args=arguments, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                self._sockets += [client, server]
                self._sent.append(bytearray())
                self._start(self._pump, client, server, self._sent[-1])
                self._start(self._pump, server, client, None)

    def _pump(self, source: socket.socket, sink: socket.socket, kept: bytearray | None) -> None:
        with suppress(OSError):
            while piece := source.recv(1 << 16):
                if kept is not None:
                    kept += piece
                sink.sendall(piece)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextmanager
def recording(target: str) -> Iterator[StoreRecorder]:
    """A recorder in front of a store, for the time of the context."""
    recorder = StoreRecorder(target)
    try:
        yield recorder
    finally:
        recorder.close()


def as_at_aws(requests: Iterable[Request]) -> set[Request]:
    """The same, and what AWS asks for besides.

    It says that an object is not there only to those who may list what begins with its key; to
    everybody else it says that access is denied.
    """
    asked = set(requests)
    for request in list(asked):
        if request.action == "s3:GetObject":
            arn, _, key = request.resource.partition("/")
            asked.add(Request("s3:ListBucket", arn, key))
    return asked


def _requests(sent: bytes) -> Iterator[Request]:
    found = list(_REQUEST.finditer(sent))
    ends = [match.start() for match in found[1:]] + [len(sent)]
    for match, end in zip(found, ends, strict=True):
        parts = urlsplit(match[2].decode())
        query = parse_qs(parts.query, keep_blank_values=True)
        if parts.path != "/":  # that asks for the server's name
            yield from _named(match[1].decode(), parts.path, query, sent[match.end() : end])


def _named(
    method: str, path: str, query: Mapping[str, list[str]], rest: bytes
) -> Iterator[Request]:
    bucket, _, key = unquote(path).lstrip("/").partition("/")
    arn = f"arn:aws:s3:::{bucket}"
    if key == ".clock":  # answered with the time, whatever else is said
        return
    if key:
        is_abort = method == "DELETE" and "uploadId" in query
        deletes = "s3:AbortMultipartUpload" if is_abort else "s3:DeleteObject"
        action = {**_ACTIONS, "POST": "s3:PutObject", "DELETE": deletes}[method]
        yield Request(action, f"{arn}/{key}")
    elif "delete" in query:
        for name in _DELETED.findall(rest):
            yield Request("s3:DeleteObject", f"{arn}/{name.decode()}")
    elif method == "PUT":
        yield Request("s3:CreateBucket", arn)
    else:
        yield Request("s3:ListBucket", arn, query.get("prefix", [None])[0])


def allows(policy: Mapping[str, Any], request: Request) -> bool:
    """Whether a policy allows a request; of IAM this knows what our policies are made of."""
    return any(_matches(statement, request) for statement in policy["Statement"])


def patterns(policy: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each single right of a policy: its name, and a policy that holds no other."""
    for statement in policy["Statement"]:
        condition = statement.get("Condition", {}).get("StringLike", {})
        for prefix in condition.get("s3:prefix", ()):
            single = {"Condition": {"StringLike": {"s3:prefix": [prefix]}}}
            yield f"{statement['Sid']} {prefix}", {"Statement": [{**statement, **single}]}
        for resource in statement["Resource"] if not condition else ():
            single = {"Resource": [resource]}
            yield f"{statement['Sid']} {resource}", {"Statement": [{**statement, **single}]}


def _matches(statement: Mapping[str, Any], request: Request) -> bool:
    assert statement["Effect"] == "Allow"
    return (
        request.action in statement["Action"]
        and _is_like(request.resource, statement["Resource"])
        and all(
            _holds(operator, keys, request)
            for operator, keys in statement.get("Condition", {}).items()
        )
    )


def _holds(operator: str, keys: Mapping[str, Any], request: Request) -> bool:
    assert set(keys) == {"s3:prefix"}
    if operator == "Null":
        return (request.prefix is None) == (keys["s3:prefix"] == "true")
    assert operator == "StringLike"
    return request.prefix is not None and _is_like(request.prefix, keys["s3:prefix"])


def _is_like(text: str, wanted: Iterable[str]) -> bool:
    return any(fnmatchcase(text, pattern) for pattern in wanted)
