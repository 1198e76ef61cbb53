"""Models that come from outside: the pretrained model and recycled finetuned ones."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from coldfusion_queue.errors import IncompatibleModelError, NotFoundError
from coldfusion_queue.finetune.files import Owner, open_base, save_shared
from coldfusion_queue.records import ModelIdentity

__all__ = ["check_identity", "export_pretrained", "save_recycled", "tokenizer_digest"]

_SAFE: dict[str, Any] = {"trust_remote_code": False, "use_safetensors": True}


def export_pretrained(source: str, directory: Path, max_shard_size: str) -> ModelIdentity:
    """Write a model's body and tokenizer as ``AutoModel`` and ``AutoTokenizer`` know them.

    A task head that the checkpoint brings is left out.

    Args:
        source: a local directory or the id of a model on the Hub.
        directory: an empty directory to write to.
        max_shard_size: size of a weight file at most, as transformers has it, such as ``5GB``; a
            larger model has several.

    Raises:
        NotFoundError: there is no such directory or model, or the Hub cannot be reached.
        IncompatibleModelError: the model needs code of its own, has no safetensors weights, has
            no tokenizer or one with more tokens than embeddings, or holds NaN or infinite values.
    """
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        # Parts that the checkpoint lacks (a pooler, often) are drawn at random: always the same.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = AutoModel.from_pretrained(source, **_SAFE)
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise _explain(source, error) from error
    if model.config.is_encoder_decoder:
        remedy = "give a model that has only one of them, such as BERT, RoBERTa or Qwen"
        raise IncompatibleModelError(
            f"model {source}", "its kind", "encoder-decoder", "encoder or decoder", remedy
        )
    _check_vocabulary(source, model, tokenizer)
    _check_finite(source, model)
    model.save_pretrained(directory, max_shard_size=max_shard_size)
    tokenizer.save_pretrained(directory)
    return ModelIdentity(
        model_type=model.config.model_type,
        hub_id=Path(source).name if Path(source).is_dir() else source,
        tokenizer_digest=_vocabulary_digest(tokenizer),
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
    )


def tokenizer_digest(directory: Path) -> str | None:
    """Digest of a directory's vocabulary, or None if it holds no tokenizer."""
    from transformers import AutoTokenizer

    if not any((directory / name).exists() for name in ("tokenizer.json", "tokenizer_config.json")):
        return None
    return _vocabulary_digest(
        AutoTokenizer.from_pretrained(directory, trust_remote_code=False, local_files_only=True)
    )


def check_identity(directory: Path, identity: ModelIdentity) -> bool:
    """Refuse a model of another architecture or vocabulary, before its weights are read.

    Returns:
        Whether the vocabulary could be compared; False if the directory holds no tokenizer.

    Raises:
        NotFoundError: the directory holds no model.
        IncompatibleModelError: architecture or vocabulary differ.
    """
    path = directory / "config.json"
    if not path.is_file():
        remedy = "give a directory that save_pretrained wrote"
        raise NotFoundError("model", str(path), remedy)
    model_type = str(json.loads(path.read_text(encoding="utf-8")).get("model_type"))
    if model_type != identity.model_type:
        remedy = f"contribute models finetuned from {identity.hub_id}"
        raise IncompatibleModelError(
            f"model {directory}", "its architecture", model_type, identity.model_type, remedy
        )
    digest = tokenizer_digest(directory)
    if digest is not None and digest != identity.tokenizer_digest:
        raise IncompatibleModelError(
            f"model {directory}",
            "its tokenizer's vocabulary",
            f"one with digest {digest[:12]}",
            f"the base model's ({str(identity.tokenizer_digest)[:12]})",
            "its embeddings mean other tokens; finetune with the base model's tokenizer",
        )
    return digest is not None


def save_recycled(directory: Path, base_dir: Path, path: Path) -> list[str]:
    """Write a finetuned model's shared parameters as a delta to a base version.

    Args:
        directory: the finetuned model, with or without a task head.
        base_dir: the base version that it was finetuned from.
        path: file to write.

    Returns:
        Names of tensors that the model does not have (a pooler, often) and that are left as they
        are in the base.

    Raises:
        IncompatibleModelError: tensors of other names or shapes, or no safetensors weights.
        TrainingFailedError: a parameter is NaN or infinite.
    """
    from transformers import AutoModel
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        model, info = AutoModel.from_pretrained(
            directory, output_loading_info=True, local_files_only=True, dtype=torch.float32, **_SAFE
        )
    except (OSError, ValueError, KeyError) as error:
        raise _explain(str(directory), error) from error
    parameters: dict[str, Tensor] = dict(model.state_dict())
    missing = sorted(info["missing_keys"])
    with open_base(base_dir) as base:
        parameters |= {name: base[name] for name in base.names if name in missing}
    owner = Owner(f"model {directory}", "it was finetuned from another model")
    save_shared(parameters, base_dir, "delta", path, owner)
    return missing


def _check_vocabulary(source: str, model: Any, tokenizer: Any) -> None:
    """A token without an embedding would end a finetune at the first text that has it."""
    num_tokens = max(tokenizer.get_vocab().values()) + 1
    num_embeddings = model.get_input_embeddings().num_embeddings
    if num_tokens > num_embeddings:
        raise IncompatibleModelError(
            f"model {source}",
            "its tokenizer's vocabulary",
            f"{num_tokens} tokens",
            f"at most the {num_embeddings} that it has embeddings for",
            "save the model once more after resize_token_embeddings, or take its own tokenizer",
        )


def _check_finite(source: str, model: torch.nn.Module) -> None:
    """Nothing that is fused into such a model would be finite, whoever contributed it."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            remedy = "its file is damaged, or its training diverged; take another one"
            raise IncompatibleModelError(
                f"model {source}", f"tensor {name!r}", "NaN or infinite values", "numbers", remedy
            )


def _vocabulary_digest(tokenizer: Any) -> str:
    vocabulary = json.dumps(sorted(tokenizer.get_vocab().items()), ensure_ascii=False)
    return hashlib.sha256(vocabulary.encode()).hexdigest()


def _explain(source: str, error: Exception) -> NotFoundError | IncompatibleModelError:
    text = " ".join(str(error).split())
    if "trust_remote_code" in text or "custom code" in text:
        remedy = "code from a model is never run; use a model that transformers knows"
        return IncompatibleModelError(
            f"model {source}", "its code", "its own", "that of transformers", remedy
        )
    if isinstance(error, OSError) and "safetensors" in text:
        remedy = "load and save it with safe_serialization=True once"
        return IncompatibleModelError(
            f"model {source}", "its weight file", "none in safetensors", "safetensors", remedy
        )
    if isinstance(error, OSError):
        remedy = "give a directory that save_pretrained wrote, or a Hub id that can be reached"
        return NotFoundError("model", source, f"{remedy} ({text[:200]})")
    remedy = "give an encoder or decoder that AutoModel loads"
    return IncompatibleModelError(
        f"model {source}", "its configuration", text[:200], "one that transformers loads", remedy
    )
