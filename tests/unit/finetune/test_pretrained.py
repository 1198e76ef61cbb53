"""Models that a repository begins with: language models, tied and in shards, and wrong ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from coldfusion_queue.errors import IncompatibleModelError
from coldfusion_queue.finetune.pretrained import export_pretrained, save_recycled
from coldfusion_queue.finetune.run import finetune
from coldfusion_queue.settings import Settings
from tests.unit.finetune.conftest import MakeRequest
from tests.unit.finetune.families import FAMILIES, Family, save, tensors_of
from tests.watching import ignore

ENCODERS = [family for family in FAMILIES if family.name not in {"Qwen2", "Llama"}]
DECODERS = [family for family in FAMILIES if family.name in {"Qwen2", "Llama"}]


@pytest.mark.parametrize("family", ENCODERS, ids=lambda family: family.name)
def test_a_masked_language_model_is_published_without_its_head(
    family: Family, tmp_path: Path
) -> None:
    source = save(family, tmp_path / "source", "ForMaskedLM")

    export_pretrained(str(source), tmp_path / "base", "5GB")

    expected = family.build("ForMaskedLM").base_model.state_dict()
    base = tensors_of(tmp_path / "base")
    assert all(torch.equal(base[name], value) for name, value in expected.items())
    assert base.keys() == family.build("Model").state_dict().keys()


@pytest.mark.parametrize("shard_size", ["5GB", "20KB"])
@pytest.mark.parametrize("is_tied", [False, True], ids=["own-head", "tied-head"])
@pytest.mark.parametrize("family", DECODERS, ids=lambda family: family.name)
def test_a_causal_language_model_is_published_without_its_head(
    family: Family, is_tied: bool, shard_size: str, tmp_path: Path
) -> None:
    source = save(family, tmp_path / "source", "ForCausalLM", tie_word_embeddings=is_tied)
    with safe_open(source / "model.safetensors", framework="pt") as file:
        assert ("lm_head.weight" in file.keys()) != is_tied  # noqa: SIM118

    identity = export_pretrained(str(source), tmp_path / "base", shard_size)

    built = family.build("ForCausalLM", tie_word_embeddings=is_tied)
    expected, base = built.base_model.state_dict(), tensors_of(tmp_path / "base")
    assert base.keys() == expected.keys()
    assert all(torch.equal(base[name], value) for name, value in expected.items())
    assert identity.num_parameters == sum(tensor.numel() for tensor in base.values())
    num_files = len([*(tmp_path / "base").glob("*.safetensors")])
    assert num_files > 1 if shard_size == "20KB" else num_files == 1


@pytest.mark.parametrize("family", DECODERS, ids=lambda family: family.name)
def test_a_decoder_in_bfloat16_and_in_shards_is_finetuned(
    family: Family, make_request: MakeRequest, quick_settings: Settings, tmp_path: Path
) -> None:
    source, base_dir = tmp_path / "source", tmp_path / "base"
    family.build("ForCausalLM", tie_word_embeddings=True).bfloat16().save_pretrained(source)
    family.tokenizer().save_pretrained(source)
    export_pretrained(str(source), base_dir, "10KB")
    base = tensors_of(base_dir)

    request = make_request("pair", base_dir=base_dir, pooling="last")
    result = finetune(request, quick_settings, tmp_path, ignore)

    delta = load_file(result.shared)
    assert delta.keys() == base.keys()
    assert all(tensor.dtype == torch.bfloat16 for tensor in [*delta.values(), *base.values()])
    assert all(bool(tensor.any() and torch.isfinite(tensor).all()) for tensor in delta.values())


@pytest.mark.parametrize("family", DECODERS, ids=lambda family: family.name)
def test_a_causal_language_model_that_was_finetuned_elsewhere_is_recycled(
    family: Family, tmp_path: Path
) -> None:
    source = save(family, tmp_path / "source", "ForCausalLM")
    export_pretrained(str(source), tmp_path / "base", "5GB")
    other = family.build("ForCausalLM")
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 0.5
    other.save_pretrained(tmp_path / "other")

    missing = save_recycled(tmp_path / "other", tmp_path / "base", tmp_path / "delta")

    assert missing == []
    for tensor in load_file(tmp_path / "delta").values():
        torch.testing.assert_close(tensor, torch.full_like(tensor, 0.5))


@pytest.mark.parametrize(
    ("name", "brings_pooler"), [("Bert", True), ("Roberta", False)], ids=["Bert", "Roberta"]
)
def test_a_recycled_classifiers_pooler_is_contributed_if_it_has_one(
    name: str, brings_pooler: bool, tmp_path: Path
) -> None:
    family = next(family for family in FAMILIES if family.name == name)
    export_pretrained(str(save(family, tmp_path / "source")), tmp_path / "base", "5GB")
    other = family.build("ForSequenceClassification")
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 0.5
    other.save_pretrained(tmp_path / "other")

    missing = save_recycled(tmp_path / "other", tmp_path / "base", tmp_path / "delta")

    delta = load_file(tmp_path / "delta")
    poolers = {"pooler.dense.weight", "pooler.dense.bias"}
    unchanged = {name for name, tensor in delta.items() if not tensor.any()}
    assert unchanged == set(missing) == (set() if brings_pooler else poolers)


def test_a_tokenizer_with_more_tokens_than_the_model_has_embeddings_is_refused(
    tmp_path: Path,
) -> None:
    source = save(FAMILIES[0], tmp_path / "source")
    tokenizer = FAMILIES[0].tokenizer()
    num_embeddings = len(tokenizer)
    tokenizer.add_tokens(["otherwise"])
    tokenizer.save_pretrained(source)
    expected = f"{num_embeddings + 1} tokens, expected at most the {num_embeddings} "

    with pytest.raises(IncompatibleModelError, match=f"vocabulary is {expected}.*resize"):
        export_pretrained(str(source), tmp_path / "base", "5GB")

    assert not (tmp_path / "base").exists()


def test_a_model_with_more_embeddings_than_tokens_is_taken(tmp_path: Path) -> None:
    family = FAMILIES[-1]
    source = save(family, tmp_path / "source", vocab_size=1000)

    export_pretrained(str(source), tmp_path / "base", "5GB")

    config = json.loads((tmp_path / "base" / "config.json").read_text(encoding="utf-8"))
    assert config["vocab_size"] == 1000
