"""Fixtures of all tests: real servers, settings of one's own, a tiny real model.

No fixture skips: a machine that lacks a part fails, because nothing here needs more than the
``test`` extra installs.
"""

from __future__ import annotations

import itertools
import os
import re
import secrets
import string
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest

from coldfusion_queue.keys import ObjectKeys
from coldfusion_queue.settings import Settings, load_settings
from coldfusion_queue.store import Store

if TYPE_CHECKING:
    from redis import Redis

# Models here are tiny: threads of torch would cost more than they do, and on a busy machine much
# more. It is read when torch is loaded, by this process and those that it starts.
os.environ.setdefault("OMP_NUM_THREADS", "1")

T = TypeVar("T")

#: Sentences that the tiny tokenizer's vocabulary is made from.
CORPUS = (
    "a small animal that lives in trees and eats nuts",
    "a library of functions for reading and writing images",
    "to move quickly on foot, faster than walking",
    "the quality of being kind, warm and generous",
    "a server that keeps the state of running programs",
    "of or relating to the sea, its ships and its weather",
)

_databases = itertools.count(1)


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """The ``COLDFUSION_*`` variables of one Valkey and one S3 server of this test run."""
    from coldfusion_queue.local import embedded_servers

    with embedded_servers(tmp_path_factory.mktemp("servers"), num_databases=1024) as variables:
        yield variables


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable of the person who runs the tests reaches them; the home is a fresh one."""
    for name in [name for name in os.environ if name.startswith("COLDFUSION_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLDFUSION_HOME", str(tmp_path / "home"))


@pytest.fixture
def settings(servers: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of a repository and a Redis database that no other test uses.

    They are in the environment too, so that processes which a test starts find them. All tests
    share one bucket (the first write to a fresh one takes the server 0.2 s); the repository's
    name keeps their objects apart.
    """
    variables = {
        **servers,
        "COLDFUSION_BROKER_URL": servers["COLDFUSION_BROKER_URL"][:-1] + str(next(_databases)),
        "COLDFUSION_REPOSITORY": f"repository-{secrets.token_hex(4)}",
        "COLDFUSION_METRICS_PORT": "0",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return load_settings()


@pytest.fixture
def store(settings: Settings) -> Store:
    """The object store of ``settings``."""
    return Store.open(settings)


@pytest.fixture
def keys(settings: Settings) -> ObjectKeys:
    """Object keys of the repository of ``settings``."""
    return ObjectKeys(settings.repository)


@pytest.fixture
def redis_client(settings: Settings) -> Iterator[Redis]:
    """A client of the Redis database of ``settings``."""
    import redis

    with redis.Redis.from_url(settings.broker_url.get_secret_value()) as client:
        yield client


@pytest.fixture
def wait_until() -> Callable[..., object]:
    """``wait_until(condition, deadline_seconds)``: polls until the condition answers truly."""

    def wait(condition: Callable[[], T], deadline_seconds: float = 30.0) -> T:
        end = time.monotonic() + deadline_seconds
        while not (answer := condition()):
            if time.monotonic() > end:
                pytest.fail(f"{condition} was not true within {deadline_seconds} s")
            time.sleep(0.02)
        return answer

    return wait


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT (2 layers, hidden size 32) that ``AutoModel`` and ``AutoTokenizer`` load.

    Always the same numbers. Shared by all tests: copy it before changing anything in it.
    """
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    directory = tmp_path_factory.mktemp("model") / "tiny-bert"
    vocabulary = directory.parent / "vocab.txt"
    vocabulary.write_text("\n".join(_wordpieces()) + "\n", encoding="utf-8")
    tokenizer = BertTokenizerFast.from_pretrained(str(directory.parent), model_max_length=64)
    tokenizer.save_pretrained(str(directory))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(20221201)
        model = BertModel(
            BertConfig(
                vocab_size=len(tokenizer),
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=64,
                max_position_embeddings=64,
            )
        )
    model.save_pretrained(str(directory))
    return directory


def _wordpieces() -> list[str]:
    # By hand: the library's trainer numbers its pieces differently in every process.
    words = sorted({word for text in CORPUS for word in re.findall(r"\w+", text)})
    letters = [letter for letter in string.ascii_lowercase + string.digits if letter not in words]
    inner = [f"##{letter}" for letter in string.ascii_lowercase + string.digits]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return [*special, *string.punctuation, *letters, *inner, *words]
