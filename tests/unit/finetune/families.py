"""Tiny random models, one for each family that is supported, each with a tokenizer of its kind."""

from __future__ import annotations

import re
import string
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from coldfusion_queue.finetune.files import open_base
from tests.conftest import CORPUS

__all__ = ["FAMILIES", "POSITIONS", "Family", "save", "tensors_of"]

#: Tokens that every model here can tell the places of.
POSITIONS = 64

_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": POSITIONS,
}
_CAUSAL = {**_SIZES, "num_key_value_heads": 1}
_MERGES = [("t", "h"), ("th", "e"), ("i", "n"), ("in", "g"), ("e", "r"), ("o", "n"), ("a", "n")]


@dataclass(frozen=True)
class Family:
    """How a family's tokenizer and configuration are made."""

    name: str
    """As in the names of the classes of transformers: ``<name>ForSequenceClassification``."""
    tokenizer: Callable[[], Any]
    config: Callable[[Any], Any]
    """Of a tokenizer."""

    def build(self, suffix: str, **changes: object) -> Any:
        """A model with random parameters, always the same."""
        config = self.config(self.tokenizer())
        for name, value in changes.items():
            setattr(config, name, value)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(20221201)
            return getattr(transformers, f"{self.name}{suffix}")(config)


def save(family: Family, directory: Path, suffix: str = "Model", **changes: object) -> Path:
    """Write a model, its head if it has one, and its tokenizer, as a person would."""
    family.build(suffix, **changes).save_pretrained(directory)
    family.tokenizer().save_pretrained(directory)
    return directory


def _wordpiece() -> Any:
    words = sorted({word for text in CORPUS for word in re.findall(r"\w+", text)})
    letters = [*string.ascii_lowercase, *string.digits]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *string.punctuation]
    pieces += [*letters, *(f"##{letter}" for letter in letters)]
    pieces += [word for word in words if word not in letters]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    return transformers.BertTokenizer(vocab=vocab, model_max_length=512)


def _bytes(special: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    pieces = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    pieces += [left + right for left, right in _MERGES]
    return {piece: index for index, piece in enumerate(pieces)}, _MERGES


def _roberta() -> Any:
    vocab, merges = _bytes(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    return transformers.RobertaTokenizer(vocab=vocab, merges=merges)


def _unigram() -> Any:
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    words = {f"▁{word}" for text in CORPUS for word in re.findall(r"\w+", text)}
    vocab = [(piece, 0.0) for piece in special]
    vocab += [(letter, -6.0) for letter in ["▁", *string.printable.strip()]]
    vocab += [(word, -4.0) for word in sorted(words)]
    return transformers.DebertaV2Tokenizer(vocab=vocab, unk_id=3)


def _modernbert() -> Any:
    vocab, merges = _bytes(["[CLS]", "[SEP]", "[PAD]", "[UNK]", "[MASK]"])
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])],
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        unk_token="[UNK]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "attention_mask"],
    )


def _qwen2() -> Any:
    vocab, merges = _bytes(["<|endoftext|>"])
    return transformers.Qwen2Tokenizer(vocab=vocab, merges=merges)


def _llama() -> Any:
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    pieces += [*string.printable.strip(), *(left + right for left, right in _MERGES)]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    return transformers.LlamaTokenizer(vocab=vocab, merges=_MERGES, add_bos_token=True)


FAMILIES = (
    Family(
        "Bert",
        _wordpiece,
        lambda tokenizer: transformers.BertConfig(vocab_size=len(tokenizer), **_SIZES),
    ),
    Family(
        "Roberta",
        _roberta,
        # Its positions begin after the padding token's id, which is 1.
        lambda tokenizer: transformers.RobertaConfig(
            vocab_size=len(tokenizer),
            type_vocab_size=1,
            **{**_SIZES, "max_position_embeddings": POSITIONS + 2},
        ),
    ),
    Family(
        "DistilBert",
        _wordpiece,
        lambda tokenizer: transformers.DistilBertConfig(
            vocab_size=len(tokenizer),
            dim=32,
            n_layers=2,
            n_heads=2,
            hidden_dim=64,
            max_position_embeddings=POSITIONS,
        ),
    ),
    Family(
        "DebertaV2",
        _unigram,
        # As DeBERTa-v3 has it: no absolute positions, relative ones in buckets.
        lambda tokenizer: transformers.DebertaV2Config(
            vocab_size=len(tokenizer),
            type_vocab_size=0,
            relative_attention=True,
            position_biased_input=False,
            pos_att_type=["p2c", "c2p"],
            position_buckets=16,
            share_att_key=True,
            norm_rel_ebd="layer_norm",
            **_SIZES,
        ),
    ),
    Family(
        "ModernBert",
        _modernbert,
        # The first layer attends to all tokens, the second to its 16 nearest.
        lambda tokenizer: transformers.ModernBertConfig(
            vocab_size=len(tokenizer),
            pad_token_id=tokenizer.pad_token_id,
            cls_token_id=tokenizer.cls_token_id,
            sep_token_id=tokenizer.sep_token_id,
            bos_token_id=tokenizer.cls_token_id,
            eos_token_id=tokenizer.sep_token_id,
            global_attn_every_n_layers=2,
            local_attention=16,
            **_SIZES,
        ),
    ),
    Family(
        "Qwen2",
        _qwen2,
        lambda tokenizer: transformers.Qwen2Config(
            vocab_size=len(tokenizer),
            tie_word_embeddings=True,
            bos_token_id=tokenizer.eos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            **_CAUSAL,
        ),
    ),
    Family(
        "Llama",
        _llama,
        lambda tokenizer: transformers.LlamaConfig(vocab_size=len(tokenizer), **_CAUSAL),
    ),
)


def tensors_of(directory: Path) -> dict[str, torch.Tensor]:
    """The tensors of a base version or of a model in its own form."""
    with open_base(directory) as base:
        return {name: base[name] for name in base.names}
