"""A gRPC call in plain bytes: enough of HTTP/2 to ask a server, with a token or without."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socket
import struct
import time

__all__ = ["call", "field", "token"]

_SETTINGS, _HEADERS, _DATA = 4, 1, 0
_END_STREAM, _END_HEADERS = 1, 4


def call(port: int, method: str, message: bytes, authorization: str | None = None) -> None:
    """Call a method of a server on loopback, and wait for the end of its answer."""
    headers = {
        ":method": "POST",
        ":scheme": "http",
        ":path": method,
        ":authority": "loopback",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    if authorization is not None:
        headers["authorization"] = f"Bearer {authorization}"
    block = b"".join(b"\0" + _text(name) + _text(value) for name, value in headers.items())
    body = b"\0" + struct.pack(">I", len(message)) + message
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + _frame(_SETTINGS, 0, 0, b"")
            + _frame(_HEADERS, _END_HEADERS, 1, block)
            + _frame(_DATA, _END_STREAM, 1, body)
        )
        with connection.makefile("rb") as answer:
            while True:
                head = answer.read(9)
                assert len(head) == 9, "the server hung up"
                answer.read(int.from_bytes(head[:3]))
                if head[3] == _HEADERS and head[4] & _END_STREAM:
                    return


def field(number: int, value: bytes) -> bytes:
    """A short field of a message of Protocol Buffers."""
    return bytes([number << 3 | 2, len(value)]) + value


def token(key: str) -> str:
    """A JSON web token that is valid for a minute, signed with a key (RFC 7519, HS256)."""
    parts = ({"alg": "HS256", "typ": "JWT"}, {"exp": int(time.time()) + 60})
    text = b".".join(_base64(json.dumps(part).encode()) for part in parts)
    return (text + b"." + _base64(hmac.digest(key.encode(), text, hashlib.sha256))).decode()


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def _text(text: str) -> bytes:
    """A string of HPACK, not compressed (RFC 7541, 5.1 and 5.2)."""
    data = text.encode()
    if len(data) < 127:
        return bytes([len(data)]) + data
    rest, length = len(data) - 127, bytearray([127])
    while rest >= 128:
        length.append(rest % 128 | 128)
        rest //= 128
    return bytes([*length, rest]) + data
