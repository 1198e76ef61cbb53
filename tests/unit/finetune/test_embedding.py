"""Training some rows of the table gives what training all of it would have given."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from coldfusion_queue.finetune.embedding import UsedEmbedding, shrink_embedding
from coldfusion_queue.finetune.model import SequenceModel, load_body
from coldfusion_queue.finetune.optimizer import make_optimizer, make_schedule, shrinkage
from coldfusion_queue.records import Hyperparameters

STEPS = 6
RECIPE = Hyperparameters(learning_rate=1e-2, weight_decay=0.5, warmup_fraction=0.4)
USED = torch.tensor([0, 2, 3, 7, 40, 60])


def trained(directory: Path, *, shrunk: bool) -> dict[str, Tensor]:
    torch.manual_seed(4)
    model = SequenceModel(load_body(directory).eval(), 2, "mean", 0.0)
    whole = shrink_embedding(model.body, USED) if shrunk else None
    optimizer = make_optimizer(model, RECIPE, torch.device("cpu"))
    schedule = make_schedule(optimizer, RECIPE, STEPS, 0)
    generator = torch.Generator().manual_seed(1)
    for _ in range(STEPS - 1):
        ids = USED[torch.randint(1, len(USED) - 1, (4, 5), generator=generator)]
        ids[0, 3:] = 0
        outputs = model({"input_ids": ids, "attention_mask": (ids > 0).long()})
        nn.functional.cross_entropy(outputs, torch.tensor([0, 1, 0, 1])).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    if whole is not None:
        whole.restore(shrinkage(RECIPE, STEPS, STEPS - 1))
    return dict(model.state_dict())


def test_the_parameters_end_as_if_the_whole_table_had_been_trained(tiny_model_dir: Path) -> None:
    expected = trained(tiny_model_dir, shrunk=False)
    name = "body.embeddings.word_embeddings.weight"
    before = load_body(tiny_model_dir).state_dict()[name.removeprefix("body.")]

    found = trained(tiny_model_dir, shrunk=True)

    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=2e-6, atol=2e-6, msg=key)
    unused = [row for row in range(len(before)) if row not in USED.tolist()]
    assert (expected[name][unused] / before[unused]).median() < 0.99  # decay is there to be met
    torch.testing.assert_close(found[name][unused], expected[name][unused], rtol=1e-5, atol=0)


def test_lookups_are_those_of_the_whole_table() -> None:
    table = nn.Embedding(50, 4, padding_idx=3)
    used = torch.tensor([1, 3, 20, 49])
    small = UsedEmbedding(table, used)
    ids = torch.tensor([[49, 3, 1], [20, 20, 3]])

    assert small.weight.shape == (4, 4)
    assert small(ids).equal(table(ids))
    small(ids).sum().backward()
    assert small.weight.grad is not None
    assert small.weight.grad[1].eq(0).all()  # the row of padding never learns
    assert small.weight.grad[2].eq(2).all()


def test_only_the_rows_that_are_used_are_trained(tiny_model_dir: Path) -> None:
    body = load_body(tiny_model_dir)
    table = body.get_input_embeddings()  # type: ignore[operator]

    whole = shrink_embedding(body, USED)

    assert whole is not None
    sizes = [item.numel() for item in body.parameters() if item.shape[0] == table.num_embeddings]
    assert sizes == []
    whole.restore(1.0)
    assert body.get_input_embeddings() is table  # type: ignore[operator]


@pytest.mark.parametrize("case", ["frozen", "tied", "scaled", "other"])
def test_a_table_that_is_not_an_ordinary_one_stays(case: str, tiny_model_dir: Path) -> None:
    body = load_body(tiny_model_dir)
    table = body.get_input_embeddings()  # type: ignore[operator]
    if case == "frozen":
        table.requires_grad_(False)
    elif case == "tied":
        output = nn.Linear(32, table.num_embeddings)
        output.weight = table.weight
        body.add_module("output", output)
    elif case == "scaled":
        table.max_norm = 1.0
    else:
        table = type("Scaled", (nn.Embedding,), {})(table.num_embeddings, 32)
        body.set_input_embeddings(table)  # type: ignore[operator]

    assert shrink_embedding(body, USED) is None
    assert body.get_input_embeddings() is table  # type: ignore[operator]
