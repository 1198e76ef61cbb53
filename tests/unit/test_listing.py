"""Listings, read as the client library reads them."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st
from minio import Minio
from minio.datatypes import parse_list_objects

from coldfusion_queue.store.listing import list_objects, read_page

KEYS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1).filter(
    lambda text: text.strip() == text and "\ufffe" not in text and "\uffff" not in text
)
TIMES = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))


def add(parent: ET.Element, name: str, text: str | None = None) -> ET.Element:
    child = ET.SubElement(parent, name)
    child.text = text
    return child


@st.composite
def pages(draw: st.DrawFn) -> bytes:
    """An answer to ListObjectsV2, as one server or another writes it."""
    space = draw(st.sampled_from([None, "http://s3.amazonaws.com/doc/2006-03-01/"]))
    is_encoded, is_precise = draw(st.booleans()), draw(st.booleans())
    root = ET.Element("ListBucketResult", {"xmlns": space} if space else {})
    add(root, "Name", "bucket")
    is_truncated = draw(st.booleans())
    add(root, "IsTruncated", draw(st.sampled_from(["true", "True"])) if is_truncated else "false")
    if is_encoded:
        add(root, "EncodingType", "url")
    if is_truncated and draw(st.booleans()):
        add(root, "NextContinuationToken", draw(st.text("abc/=+", min_size=1)))

    def written(key: str) -> str:
        return quote_plus(key) if is_encoded else key

    for key in sorted(draw(st.lists(KEYS, min_size=1, max_size=5))):
        item = add(root, "Contents")
        add(item, "Key", written(key))
        moment = draw(TIMES).strftime("%Y-%m-%dT%H:%M:%S")
        add(item, "LastModified", moment + (".123Z" if is_precise else "Z"))
        if draw(st.booleans()):
            add(item, "ETag", draw(st.sampled_from(['"abc"', "abc", '"abc-2"'])))
        add(item, "Size", str(draw(st.integers(0, 2**50))))
        owner = add(item, "Owner")
        add(owner, "ID", "somebody")
        add(item, "StorageClass", "STANDARD")
    for key in draw(st.lists(KEYS, max_size=2)):
        add(add(root, "CommonPrefixes"), "Prefix", f"{written(key)}/")
    return bytes(ET.tostring(root, "utf-8"))


@given(pages())
def test_a_page_reads_as_the_client_library_reads_it(data: bytes) -> None:
    answer = cast(Any, SimpleNamespace(data=data))
    expected, is_truncated, token, _ = parse_list_objects(answer)

    objects, found_token = read_page(data)

    assert [item.key for item in objects] == [item.object_name for item in expected]
    assert [item.num_bytes for item in objects] == [item.size or 0 for item in expected]
    assert [item.etag for item in objects] == [item.etag or "" for item in expected]
    told = [(item, other.last_modified) for item, other in zip(objects, expected, strict=True)]
    assert all(item.last_modified == other for item, other in told if other is not None)
    assert found_token == (token if is_truncated else None)


class Pages:
    """A client whose server has these pages; keeps what it was asked."""

    def __init__(self, *answers: str) -> None:
        self._answers = list(answers)
        self.asked: list[dict[str, str]] = []

    def _execute(self, method: str, bucket: str, query_params: dict[str, str]) -> Any:
        assert (method, bucket) == ("GET", "bucket")
        self.asked.append(query_params)
        return SimpleNamespace(data=self._answers.pop(0).encode())


def page(*keys: str, token: str | None = None, is_last: bool = False) -> str:
    objects = "".join(f"<Contents><Key>{key}</Key><Size>1</Size></Contents>" for key in keys)
    more = f"<NextContinuationToken>{token}</NextContinuationToken>" if token else ""
    truncated = f"<IsTruncated>{str(not is_last).lower()}</IsTruncated>"
    return f"<ListBucketResult>{truncated}{more}{objects}</ListBucketResult>"


def test_pages_are_asked_for_one_by_one_as_they_are_wanted() -> None:
    client = Pages(page("a", "b", token="one"), page("c", token="two"), page("d", is_last=True))
    listed = list_objects(cast(Minio, client), "bucket", "p/", recursive=True)

    assert next(listed).key == "a"
    assert len(client.asked) == 1
    assert [item.key for item in listed] == ["b", "c", "d"]
    assert [item.get("continuation-token") for item in client.asked] == [None, "one", "two"]
    assert {(item["prefix"], item["delimiter"]) for item in client.asked} == {("p/", "")}


def test_a_server_without_tokens_is_asked_for_what_follows_the_last_key() -> None:
    client = Pages(page("a", "b"), page("c", is_last=True))

    listed = list(list_objects(cast(Minio, client), "bucket", "", recursive=False))

    assert [item.key for item in listed] == ["a", "b", "c"]
    assert client.asked[1]["continuation-token"] == "b"
    assert client.asked[0]["delimiter"] == "/"


def test_an_answer_that_is_cut_is_no_short_listing() -> None:
    with pytest.raises(ET.ParseError):
        read_page(page("a", "b", token="one").encode()[:-30])
