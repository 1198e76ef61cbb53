"""A repository whose base model has several weight files, made of the one that has one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from safetensors import safe_open
from safetensors.numpy import save_file

from coldfusion_queue.records import BaseVersion

__all__ = ["NUM_SHARDS", "shard"]

NUM_SHARDS = 3


def shard(directory: Path, target: Path) -> Path:
    """Copy a model's directory with its tensors dealt out to shards, as transformers has them."""
    shutil.copytree(directory, target, ignore=shutil.ignore_patterns(BaseVersion.MODEL_FILE))
    with safe_open(directory / BaseVersion.MODEL_FILE, framework="np") as file:
        tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
    names = list(tensors)
    weight_map = {}
    for index in range(NUM_SHARDS):
        name = f"model-{index + 1:05}-of-{NUM_SHARDS:05}.safetensors"
        mine = names[index::NUM_SHARDS]
        save_file({each: tensors[each] for each in mine}, target / name, {"format": "pt"})
        weight_map |= dict.fromkeys(mine, name)
    size = sum(tensor.nbytes for tensor in tensors.values())
    index_file = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (target / BaseVersion.INDEX_FILE).write_text(json.dumps(index_file), encoding="utf-8")
    return target
