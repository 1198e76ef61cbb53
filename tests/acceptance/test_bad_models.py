"""Models that do not fit: refused before anything is uploaded."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.acceptance.refusals import check
from tests.acceptance.world import World


@pytest.fixture
def world(untouched_world: World) -> World:
    """A repository that must be left as it was."""
    return untouched_world


# --- models -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directories of models, all of them wrong."""
    import torch
    from transformers import (
        AutoTokenizer,
        BertConfig,
        BertModel,
        DistilBertConfig,
        DistilBertModel,
        T5Config,
        T5Model,
    )

    root = tmp_path_factory.mktemp("models")

    def copy(name: str) -> Path:
        shutil.copytree(tiny_model_dir, root / name)
        return root / name

    def save(name: str, model: torch.nn.Module) -> None:
        (copy(name) / "model.safetensors").unlink()
        model.save_pretrained(root / name)  # type: ignore[operator]

    save(
        "distilbert",
        DistilBertModel(DistilBertConfig(dim=32, n_layers=1, n_heads=2, hidden_dim=32)),
    )
    config = {**BertConfig.from_pretrained(tiny_model_dir).to_dict(), "hidden_size": 16}
    save("narrow", BertModel(BertConfig(**config)))
    save(
        "t5",
        T5Model(T5Config(vocab_size=200, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)),
    )
    diverged = BertModel.from_pretrained(tiny_model_dir)
    with torch.no_grad():
        diverged.pooler.dense.bias[3] = float("inf")
    save("diverged", diverged)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    tokenizer.add_tokens(["otherwise"])
    tokenizer.save_pretrained(copy("tokens"))
    weights = copy("pickle") / "model.safetensors"
    torch.save(
        BertModel.from_pretrained(tiny_model_dir).state_dict(), root / "pickle/pytorch_model.bin"
    )
    weights.unlink()
    (root / "nothing").mkdir()
    return root


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        pytest.param(
            "distilbert",
            10,
            ("its architecture is distilbert, expected bert", "finetuned from tiny-bert"),
            id="another-architecture",
        ),
        pytest.param(
            "tokens", 10, ("tokenizer's vocabulary", "expected", "finetune with"), id="tokenizer"
        ),
        pytest.param(
            "narrow", 10, ("tensor '", "(", "expected (", "finetuned from another"), id="shapes"
        ),
        pytest.param(
            "pickle",
            10,
            ("weight file is none in safetensors", "expected safetensors"),
            id="pickle",
        ),
        pytest.param("nothing", 8, ("config.json", "save_pretrained"), id="no-model"),
    ],
)
def test_models_that_cannot_be_contributed(
    world: World, models: Path, name: str, code: int, says: tuple[str, ...]
) -> None:
    done = world.run_warm("contribute", models / name, "--base-version", "0")

    check(done, code, name, *says)


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        pytest.param(
            "pickle",
            10,
            ("weight file is none in safetensors", "expected safetensors"),
            id="pickle",
        ),
        pytest.param(
            "t5", 10, ("encoder-decoder, expected encoder or decoder", "such as BERT"), id="t5"
        ),
        pytest.param(
            "diverged", 10, ("'pooler.dense.bias'", "NaN or infinite", "another"), id="not-finite"
        ),
        pytest.param("nothing", 10, ("expected one that transformers loads",), id="no-model"),
        pytest.param("nowhere", 8, ("does not exist", "save_pretrained", "Hub id"), id="no-dir"),
    ],
)
def test_models_that_no_repository_can_begin_with(
    world: World, models: Path, name: str, code: int, says: tuple[str, ...]
) -> None:
    fresh = {"COLDFUSION_REPOSITORY": f"from-{name}"}

    done = world.run_warm("init", "--base", models / name, **fresh)

    check(done, code, name, *says)
    assert list(world.store.list(f"from-{name}/")) == []


def test_a_repository_that_could_not_begin_can_begin_later(
    world: World, models: Path, tiny_model_dir: Path
) -> None:
    fresh = {"COLDFUSION_REPOSITORY": f"{world.repository.name}-later"}
    first = world.run_warm("init", "--base", models / "pickle", **fresh)
    check(first, 10)

    second = world.run_warm("init", "--base", tiny_model_dir, "--json", **fresh)
    third = world.run_warm("init", "--base", tiny_model_dir, **fresh)

    assert second.json()["repository"] == fresh["COLDFUSION_REPOSITORY"]
    check(third, 9, "already exists", "COLDFUSION_REPOSITORY", "--if-not-exists")


def test_a_repository_that_exists_is_left_as_it_is_if_that_was_asked_for(
    world: World, tiny_model_dir: Path
) -> None:
    fresh = {"COLDFUSION_REPOSITORY": f"{world.repository.name}-once"}
    how = ("init", "--base", tiny_model_dir, "--if-not-exists", "--json")

    first = world.run_warm(*how, **fresh)
    objects = {
        item.key: item.etag for item in world.store.list(f"{fresh['COLDFUSION_REPOSITORY']}/")
    }
    second = world.run_warm(*how, "--set", "min_contributions=3", **fresh)

    assert second.json() == first.json()
    assert objects == {
        item.key: item.etag for item in world.store.list(f"{fresh['COLDFUSION_REPOSITORY']}/")
    }
