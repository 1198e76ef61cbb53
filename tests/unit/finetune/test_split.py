"""What is shared and what is the head's follows from the model, not from a list of names."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

import coldfusion_queue.finetune
from coldfusion_queue.finetune.pretrained import export_pretrained
from coldfusion_queue.finetune.run import finetune
from coldfusion_queue.settings import Settings
from tests.unit.finetune.conftest import MakeRequest
from tests.unit.finetune.families import FAMILIES
from tests.watching import ignore

PACKAGE = Path(coldfusion_queue.finetune.__file__).parent

#: Parts of names that are words of the program too: those of our own head, and what Python needs.
OURS = {"head", "weight", "bias", "model", "self", "value", "key", "score"}


def parts_of_names() -> set[str]:
    """The parts of all tensor names of all families, with their usual heads."""
    names = [
        name
        for family in FAMILIES
        for name in family.build("ForSequenceClassification").state_dict()
    ]
    parts = {part for name in names for part in name.split(".") if not part.isdigit()}
    return (parts | {family.config(family.tokenizer()).model_type for family in FAMILIES}) - OURS


def words_of_code(path: Path) -> Iterator[str]:
    """Names that code uses, and the parts of strings that may be names; no prose."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Constant) and re.fullmatch(r"[\w.*/]+", str(node.value)):
            yield from re.findall(r"\w+", str(node.value))


def test_no_name_of_a_familys_parameters_is_in_the_code() -> None:
    parts = parts_of_names()
    assert {"pooler", "encoder", "classifier", "embed_tokens", "llama"} <= parts

    found = [
        f"{path.name}: {word}"
        for path in sorted(PACKAGE.glob("*.py"))
        for word in words_of_code(path)
        if word in parts
    ]

    assert found == []


class GadgetConfig(transformers.PreTrainedConfig):
    model_type = "gadget"

    def __init__(self, **changes: Any) -> None:
        self.hidden_size = 16
        super().__init__(**changes)


class GadgetModel(transformers.PreTrainedModel):
    """An architecture that no list of names can know of."""

    config_class = GadgetConfig
    base_model_prefix = "contraption"

    def __init__(self, config: GadgetConfig) -> None:
        super().__init__(config)
        self.classifier = nn.Embedding(200, 16)  # called as others call their heads
        self.cog = nn.Linear(16, 16)
        self.whistle = nn.Linear(16, 3)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.classifier

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=torch.tanh(self.cog(self.classifier(input_ids))))


def test_an_architecture_that_nobody_has_heard_of_is_split_alike(
    make_request: MakeRequest, quick_settings: Settings, tmp_path: Path
) -> None:
    transformers.AutoConfig.register("gadget", GadgetConfig, exist_ok=True)
    transformers.AutoModel.register(GadgetConfig, GadgetModel, exist_ok=True)
    source, base_dir = tmp_path / "source", tmp_path / "base"
    GadgetModel(GadgetConfig()).save_pretrained(source)
    FAMILIES[0].tokenizer().save_pretrained(source)
    export_pretrained(str(source), base_dir, "5GB")
    request = make_request(base_dir=base_dir)

    result = finetune(request, quick_settings, tmp_path, ignore)

    delta = load_file(result.shared)
    assert {name for name, tensor in delta.items() if tensor.any()} == {
        "classifier.weight",
        "cog.weight",
        "cog.bias",
    }
    assert delta.keys() - {"classifier.weight", "cog.weight", "cog.bias"} == {
        "whistle.weight",
        "whistle.bias",
    }


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_the_body_is_what_the_authors_average_but_for_unused_poolers(family: Any) -> None:
    theirs = {
        name for name, _ in family.build("ForSequenceClassification").base_model.named_parameters()
    }
    ours = {name for name, _ in family.build("Model").named_parameters()}

    poolers = {"pooler.dense.weight", "pooler.dense.bias"}
    assert theirs - ours == set()
    assert ours - theirs == (poolers if family.name == "Roberta" else set())
