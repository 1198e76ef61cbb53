"""The model of one contributor: the shared body and a head of its own.

The body is what ``AutoModel`` loads, so the split needs no list of names: everything in the body
is shared and fused, everything else stays with the dataset (Don-Yehiya et al. 2023, section 2;
the authors' code averages the parameters of ``base_model`` alone). ``docs/decisions/0003`` says
why the head is ours and not that of ``AutoModelForSequenceClassification``.
"""

from __future__ import annotations

import inspect
import sys
import threading
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

__all__ = ["SequenceModel", "load_body", "load_tokenizer", "num_positions", "pool"]

#: transformers replaces methods of its classes while it loads a model, and puts them back: of two
#: threads, one puts back what the other had replaced, and tied weights are tied no more.
_loading = threading.Lock()

Pooling = Literal["mean", "first", "last"]


def load_body(directory: Path) -> nn.Module:
    """Load the shared body of a base version in float32, as ``AutoModel`` builds it.

    No code of the directory is run and nothing is fetched.
    """
    from transformers import AutoModel
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # type: ignore[no-untyped-call]
    with _loading:
        body: nn.Module = AutoModel.from_pretrained(
            directory, trust_remote_code=False, local_files_only=True, dtype=torch.float32
        )
    # Decoders keep keys and values for a next token, of which there is none here.
    body.config.use_cache = False  # type: ignore[union-attr]
    return body


def load_tokenizer(directory: Path, body: nn.Module) -> Any:
    """Load the tokenizer of a base version, so that the body understands all that it gives.

    ``model_max_length`` is no more than the body's positions, ``model_input_names`` are the
    body's own and have the mask, and there is a padding token, with which nothing but padding
    is made: what stands for it in a tokenizer that has none is of no meaning.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        directory, trust_remote_code=False, local_files_only=True
    )
    # Often it is 1e30, which stands for no limit, or more than the model has.
    tokenizer.model_max_length = int(min(tokenizer.model_max_length, num_positions(body)))
    tokenizer.model_input_names = _input_names(tokenizer, body)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = (
            tokenizer.eos_token or tokenizer.unk_token or tokenizer.convert_ids_to_tokens(0)
        )
    return tokenizer


def num_positions(body: nn.Module) -> int:
    """Tokens of a text at most, as the body is built; ``sys.maxsize`` if it sets no limit.

    Where the embeddings of positions have a row for padding (RoBERTa and what descends from it),
    the text begins in the row after it, and the configuration's number is that of the rows.
    """
    config: Any = body.config
    rows = int(getattr(config, "max_position_embeddings", None) or 0)
    if rows <= 0:
        return sys.maxsize
    tokens = body.get_input_embeddings()  # type: ignore[operator]
    for module in body.modules():
        if not isinstance(module, nn.Embedding) or module is tokens:
            continue
        if module.num_embeddings == rows and module.padding_idx is not None:
            return rows - module.padding_idx - 1
    return rows


def _input_names(tokenizer: Any, body: nn.Module) -> list[str]:
    known = inspect.signature(body.forward).parameters
    has_kinds = getattr(body.config, "type_vocab_size", 2) > 1
    return ["input_ids", "attention_mask"] + [
        name
        for name in tokenizer.model_input_names
        if name in known
        and name not in {"input_ids", "attention_mask"}
        and (has_kinds or name != "token_type_ids")
    ]


def pool(hidden: Tensor, mask: Tensor | None, pooling: Pooling) -> Tensor:
    """Reduce the tokens of each example to one vector.

    Args:
        hidden: (B, L, H) last hidden states.
        mask: (B, L) 1 for tokens, 0 for padding on the right; None if there is no padding.
        pooling: the mean over tokens, or the hidden state of the first or last one.

    Returns:
        (B, H)
    """
    if pooling == "first":
        return hidden[:, 0]
    if mask is None:
        return hidden[:, -1] if pooling == "last" else hidden.mean(dim=1)
    if pooling == "last":
        last = mask.sum(dim=1).clamp(min=1) - 1
        return hidden[torch.arange(len(hidden), device=hidden.device), last]
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


class SequenceModel(nn.Module):
    """Body, pooling, dropout and one linear layer.

    Args:
        body: what ``load_body`` gives.
        num_outputs: number of classes, or 1 for regression.
        pooling: see ``pool``.
        dropout: probability before the head.
    """

    def __init__(self, body: nn.Module, num_outputs: int, pooling: Pooling, dropout: float) -> None:
        super().__init__()
        self.body = body
        hidden_size = int(body.config.hidden_size)  # type: ignore[union-attr, arg-type]
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden_size, num_outputs)
        self.pooling: Pooling = pooling
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Outputs of a batch of token ids.

        Args:
            batch: what ``TokenizedExamples.batch`` gives: (B, L) ``input_ids`` and others.

        Returns:
            (B, num_outputs) float32
        """
        hidden = self.body(**batch).last_hidden_state
        pooled = pool(hidden, batch.get("attention_mask"), self.pooling)
        outputs: Tensor = self.head(self.dropout(pooled)).float()
        return outputs
