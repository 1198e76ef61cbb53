"""Texts of every length, tokenizers of every kind: what each family of models is given of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import transformers
from torch import Tensor, nn

from coldfusion_queue.evaluation.features import Embedder
from coldfusion_queue.finetune.model import SequenceModel, load_body, load_tokenizer, num_positions
from coldfusion_queue.finetune.run import finetune
from coldfusion_queue.finetune.tokens import TokenizedExamples, tokenize
from coldfusion_queue.intake.examples import Examples
from coldfusion_queue.records import Hyperparameters
from coldfusion_queue.settings import load_settings
from tests.conftest import CORPUS
from tests.unit.finetune.conftest import request_on
from tests.unit.finetune.families import FAMILIES, POSITIONS, Family, save
from tests.watching import ignore

LONG = " ".join(CORPUS * 2)  # for every tokenizer more than the model can take
TEXTS = ["a", "on foot", CORPUS[0], LONG]
PAIRS = ["sea", CORPUS[1], "a library", "trees"]


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family.name)
def family(request: pytest.FixtureRequest) -> Family:
    chosen: Family = request.param
    return chosen


@pytest.fixture(scope="module")
def model_dir(family: Family, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(family, tmp_path_factory.mktemp(family.name))


def sequence_model(directory: Path, pooling: Literal["mean", "first", "last"]) -> SequenceModel:
    """With a head whose outputs are about 1, so that small errors are seen."""
    torch.manual_seed(1)
    model = SequenceModel(load_body(directory), 3, pooling, dropout=0.0).eval()
    nn.init.normal_(model.head.weight, std=0.2)
    return model


def tokenized(
    model: SequenceModel, directory: Path, texts: list[str], pairs: list[str] | None = None
) -> TokenizedExamples:
    tokenizer = load_tokenizer(directory, model.body)
    examples = Examples(texts, pairs, [0] * len(texts))
    return tokenize(examples, tokenizer, tokenizer.model_max_length)


def outputs_alone(model: SequenceModel, data: TokenizedExamples) -> Tensor:
    return torch.cat([model(data.batch([index])) for index in range(len(data))])


@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
@pytest.mark.parametrize("is_pair", [False, True], ids=["single", "pair"])
@torch.inference_mode()
def test_a_padded_batch_gives_what_each_example_gives_alone(
    pooling: Literal["mean", "first", "last"], is_pair: bool, model_dir: Path
) -> None:
    model = sequence_model(model_dir, pooling)
    data = tokenized(model, model_dir, TEXTS, PAIRS if is_pair else None)

    batch = data.batch(range(len(TEXTS)))

    assert batch["attention_mask"].sum(dim=1).tolist() == data.lengths.tolist()
    assert len(set(data.lengths)) > 1
    assert not batch["attention_mask"].diff(dim=1).gt(0).any()  # padding is on the right
    outputs = model(batch)
    assert outputs.std() > 0.1
    torch.testing.assert_close(outputs, outputs_alone(model, data), rtol=0, atol=1e-5)


@torch.inference_mode()
def test_the_last_tokens_state_is_that_of_the_text_and_not_of_padding(model_dir: Path) -> None:
    model = sequence_model(model_dir, "last")
    data = tokenized(model, model_dir, TEXTS)

    for index, length in enumerate(data.lengths):
        hidden = model.body(**data.batch([index])).last_hidden_state
        expected = model.head(hidden[0, length - 1])
        padded = model(data.batch([index, len(TEXTS) - 1]))[0]
        torch.testing.assert_close(padded, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "claimed", [None, 10**30, 1e30, float("inf"), POSITIONS + 1, 3 * POSITIONS]
)
def test_texts_are_cut_to_the_positions_that_the_model_has(
    claimed: float | None, model_dir: Path, tmp_path: Path
) -> None:
    for file in model_dir.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings["model_max_length"] = claimed
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    model = sequence_model(tmp_path, "mean")

    data = tokenized(model, tmp_path, ["a", LONG])

    assert data.lengths[1] == POSITIONS
    assert torch.isfinite(model(data.batch([0, 1]))).all()


def test_a_tokenizer_that_knows_of_a_shorter_limit_keeps_it(family: Family, tmp_path: Path) -> None:
    family.build("Model").save_pretrained(tmp_path)
    tokenizer = family.tokenizer()
    tokenizer.model_max_length = 11
    tokenizer.save_pretrained(tmp_path)

    assert load_tokenizer(tmp_path, load_body(tmp_path)).model_max_length == 11


def test_long_texts_and_a_great_max_length_are_finetuned_and_probed(
    model_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    rows = [{"text": f"{index} {LONG}", "label": f"{index % 2}"} for index in range(4)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "data" / "train.jsonl").write_text(lines, encoding="utf-8")
    hyperparameters = Hyperparameters(epochs=1, batch_size=2, max_length=100_000)
    (tmp_path / "prepared").mkdir()
    request = request_on(tmp_path / "data", tmp_path / "prepared", model_dir, hyperparameters)

    result = finetune(request, load_settings(device="cpu"), tmp_path, ignore)

    assert 0 < result.metrics["train_loss"] < 10
    embedder = Embedder(model_dir, torch.device("cpu"), max_length=100_000)
    features = embedder.embed(Examples([row["text"] for row in rows], None, [0] * 4))
    assert bool(torch.isfinite(torch.from_numpy(features)).all())


@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
@pytest.mark.parametrize("texts", [["", LONG], ["", ""], [" ", "\x00"]], ids=repr)
def test_a_text_of_nothing_has_numbers_and_gradients(
    texts: list[str], pooling: Literal["mean", "first", "last"], model_dir: Path
) -> None:
    model = sequence_model(model_dir, pooling)
    data = tokenized(model, model_dir, texts)

    outputs = model(data.batch([0, 1]))
    outputs.square().sum().backward()

    assert data.lengths.min() > 0
    torch.testing.assert_close(outputs, outputs_alone(model, data), rtol=0, atol=1e-5)
    gradients = [item.grad for item in model.parameters() if item.grad is not None]
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
    assert any(bool(gradient.any()) for gradient in gradients)


@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
def test_a_row_of_padding_alone_harms_nobody(
    pooling: Literal["mean", "first", "last"], model_dir: Path
) -> None:
    model = sequence_model(model_dir, pooling)
    batch = tokenized(model, model_dir, TEXTS).batch([2, 2])
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    batch["attention_mask"][1] = 0

    outputs = model(batch)
    outputs.square().sum().backward()

    assert torch.isfinite(outputs).all()
    alone = model({name: value[:1] for name, value in batch.items()})
    torch.testing.assert_close(outputs[:1], alone, rtol=0, atol=1e-5)
    gradients = [item.grad for item in model.parameters() if item.grad is not None]
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)


def test_where_the_second_text_begins_can_be_told(model_dir: Path) -> None:
    model = sequence_model(model_dir, "mean")

    data = tokenized(model, model_dir, ["ab", "a"], ["c", "bc"])

    first, second = (data.batch([index])["input_ids"][0].tolist() for index in range(2))
    assert first != second
    assert load_tokenizer(model_dir, model.body).unk_token_id not in first


def test_a_model_is_given_no_input_that_it_does_not_know(model_dir: Path, family: Family) -> None:
    model = sequence_model(model_dir, "mean")
    kinds = {"token_type_ids"} if family.name == "Bert" else set()

    batch = tokenized(model, model_dir, ["a"], ["b"]).batch([0])

    assert batch.keys() == {"input_ids"} | kinds


def test_a_tokenizer_that_tells_of_more_than_the_model_has_is_understood(tmp_path: Path) -> None:
    roberta = next(family for family in FAMILIES if family.name == "Roberta")
    save(roberta, tmp_path)
    bert = next(family for family in FAMILIES if family.name == "Bert")
    bert.tokenizer().save_pretrained(tmp_path)  # second texts are of kind 1, of which it has none
    model = sequence_model(tmp_path, "mean")

    assert torch.isfinite(model(tokenized(model, tmp_path, ["a"], ["b"]).batch([0]))).all()


@pytest.mark.parametrize("has_end", [True, False], ids=["end", "neither-end-nor-unknown"])
def test_a_tokenizer_without_a_padding_token_pads(has_end: bool, tmp_path: Path) -> None:
    llama = next(family for family in FAMILIES if family.name == "Llama")
    save(llama, tmp_path)
    path = tmp_path / "tokenizer_config.json"
    names = {"pad_token", *(() if has_end else ("eos_token", "unk_token", "bos_token"))}
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings |= dict.fromkeys(names)
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(settings), encoding="utf-8")
    plain: Any = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert plain.pad_token is None
    model = sequence_model(tmp_path, "last")
    data = tokenized(model, tmp_path, TEXTS)

    outputs = model(data.batch(range(len(TEXTS))))

    torch.testing.assert_close(outputs, outputs_alone(model, data), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        pytest.param(transformers.BertConfig(), 512, id="bert"),
        pytest.param(transformers.RobertaConfig(max_position_embeddings=514), 512, id="roberta"),
        pytest.param(transformers.XLMRobertaConfig(max_position_embeddings=514), 512, id="xlm-r"),
        pytest.param(transformers.MPNetConfig(max_position_embeddings=514), 512, id="mpnet"),
        pytest.param(transformers.GPT2Config(n_positions=1024), 1024, id="gpt2"),
        pytest.param(transformers.OPTConfig(), 2048, id="opt"),
        pytest.param(transformers.XLNetConfig(), sys.maxsize, id="xlnet"),
    ],
)
def test_the_number_of_positions_is_read_off_the_model(config: Any, expected: int) -> None:
    with torch.device("meta"):
        body = transformers.AutoModel.from_config(config)

    assert num_positions(body) == expected


def test_a_model_takes_as_many_tokens_as_it_has_positions_and_no_more(
    model_dir: Path, family: Family
) -> None:
    body = load_body(model_dir)
    assert num_positions(body) == POSITIONS
    ids = torch.full((1, POSITIONS + 1), 5)

    body(input_ids=ids[:, 1:], attention_mask=torch.ones_like(ids[:, 1:]))

    if family.name in {"Bert", "Roberta", "DistilBert"}:  # the others count positions otherwise
        with pytest.raises((IndexError, RuntimeError)):
            body(input_ids=ids, attention_mask=torch.ones_like(ids))
