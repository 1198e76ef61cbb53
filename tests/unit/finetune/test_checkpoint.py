"""The file of a training state: what was saved comes back, and nothing else is taken."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from coldfusion_queue.errors import IncompatibleModelError, InvalidTensorFileError
from coldfusion_queue.finetune.checkpoint import TrainingState

NUM_STEPS, SEED = 12, 77

Tensors = dict[str, Tensor]
Scalars = dict[str, object]


class Model(nn.Module):
    """A frozen, a trained and an unused layer, and running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(3, 3).requires_grad_(False)
        self.norm = nn.BatchNorm1d(3)
        self.used = nn.Linear(3, 2)
        self.unused = nn.Linear(3, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.used(self.norm(self.frozen(inputs)))
        return outputs


def new_state(seed: int) -> TrainingState:
    torch.manual_seed(seed)
    model = Model()
    trainable = [item for item in model.parameters() if item.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=0.1, fused=True)
    return TrainingState(model, optimizer, torch.zeros(()), NUM_STEPS, SEED, [])


def advance(state: TrainingState, steps: int) -> None:
    for _ in range(steps):
        loss = state.model(torch.randn(4, 3)).square().mean()
        loss.backward()
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        state.epoch_loss += loss.detach()
        state.step += 1
        state.scores.append((10 * state.step, 0.1 * state.step))


def everything(state: TrainingState) -> dict[str, object]:
    moments = state.optimizer.state_dict()["state"]
    return {
        "model": {name: value.tolist() for name, value in state.model.state_dict().items()},
        "moments": {
            (index, part): value.tolist()
            for index, parts in moments.items()
            for part, value in parts.items()
        },
        "loss": state.epoch_loss.item(),
        "step": state.step,
        "scores": list(state.scores),
        "random": torch.get_rng_state().tolist(),
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    state = new_state(1)
    advance(state, 5)
    path = tmp_path / "checkpoint.safetensors"
    state.save(path)
    return path


def test_what_was_saved_comes_back_and_goes_on_alike(path: Path) -> None:
    state = new_state(1)
    frozen = [item.clone() for item in state.model.frozen.parameters()]  # type: ignore[union-attr]
    advance(state, 5)
    saved = everything(state)
    advance(state, 4)

    other = new_state(2)
    with torch.no_grad():  # what is frozen comes from the base version, not from the file
        for mine, theirs in zip(other.model.frozen.parameters(), frozen, strict=True):  # type: ignore[union-attr]
            mine.copy_(theirs)
    other.load(path)

    assert everything(other) == saved
    advance(other, 4)
    assert everything(other) == everything(state)


def test_a_state_can_be_saved_over_the_one_it_came_from(path: Path) -> None:
    state = new_state(2)
    before = path.read_bytes()
    state.load(path)
    advance(state, 1)
    assert path.read_bytes() == before
    state.save(path)
    saved = everything(state)

    other = new_state(1)
    with torch.no_grad():
        for mine, theirs in zip(other.model.parameters(), state.model.parameters(), strict=True):
            mine.copy_(theirs)
    other.load(path)

    assert everything(other) == saved


def test_the_same_state_gives_the_same_bytes(path: Path, tmp_path: Path) -> None:
    state = new_state(1)
    advance(state, 5)
    state.save(tmp_path / "again.safetensors")

    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_the_generator_of_a_device_that_is_not_here_is_passed_over(path: Path) -> None:
    rewrite(path, lambda tensors, _: tensors.update({"random/cuda": torch.zeros(16).byte()}))

    state = new_state(2)
    state.load(path)

    assert state.step == 5


def rewrite(path: Path, change: Callable[[Tensors, Scalars], object]) -> None:
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        scalars = json.loads(file.metadata()["training"])
    tensors = {name: value.clone() for name, value in tensors.items()}
    change(tensors, scalars)
    path.unlink()
    save_file(tensors, path, metadata={"training": json.dumps(scalars)})


def scalar(name: str, value: object) -> Callable[[Tensors, Scalars], object]:
    return lambda _, scalars: scalars.update({name: value})


def tensor(name: str, value: Tensor) -> Callable[[Tensors, Scalars], object]:
    return lambda tensors, _: tensors.update({name: value})


def without(name: str) -> Callable[[Tensors, Scalars], object]:
    return lambda tensors, _: tensors.pop(name)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        pytest.param(
            scalar("num_steps", 13),
            IncompatibleModelError,
            r"its num_steps is 13, expected 12",
            id="another-number-of-steps",
        ),
        pytest.param(
            scalar("seed", 78), IncompatibleModelError, r"its seed is 78, expected 77", id="seed"
        ),
        pytest.param(
            scalar("step", 0), IncompatibleModelError, r"its step is 0, expected 1 to 11", id="0"
        ),
        pytest.param(
            scalar("step", 12), IncompatibleModelError, r"its step is 12, expected 1", id="at-end"
        ),
        pytest.param(
            scalar("step", -1), IncompatibleModelError, r"its step is -1, expected 1", id="below"
        ),
        pytest.param(
            scalar("step", True), InvalidTensorFileError, r"does not hold the numbers", id="bool"
        ),
        pytest.param(
            scalar("step", 5.0), InvalidTensorFileError, r"does not hold the numbers", id="float"
        ),
        pytest.param(
            scalar("more", 1), InvalidTensorFileError, r"does not hold the numbers", id="more"
        ),
        pytest.param(
            lambda _, scalars: scalars.pop("seed"),
            InvalidTensorFileError,
            r"does not hold the numbers step, num_steps, seed",
            id="fewer",
        ),
        *(
            pytest.param(
                scalar("scores", scores),
                InvalidTensorFileError,
                r"its scores are no list of numbers of examples and scores",
                id=f"scores-{scores}",
            )
            for scores in (None, 5, [5], [[5]], [[1.5, 0.5]], [[5, "a"]], [[5, 0.5, 1]])
        ),
        pytest.param(
            without("model/used.weight"),
            IncompatibleModelError,
            r"tensor 'model/used.weight' is missing, expected float32 of shape \(2, 3\)",
            id="missing-parameter",
        ),
        pytest.param(
            without("model/norm.running_mean"),
            IncompatibleModelError,
            r"'model/norm.running_mean' is missing",
            id="missing-buffer",
        ),
        pytest.param(
            tensor("model/frozen.weight", torch.zeros(3, 3)),
            IncompatibleModelError,
            r"'model/frozen.weight' is float32 of shape \(3, 3\), expected no such tensor",
            id="a-parameter-that-is-frozen-here",
        ),
        pytest.param(
            tensor("model/used.weight", torch.zeros(3, 2)),
            IncompatibleModelError,
            r"is float32 of shape \(3, 2\), expected float32 of shape \(2, 3\)",
            id="shape",
        ),
        pytest.param(
            tensor("model/used.weight", torch.zeros(2, 3, dtype=torch.bfloat16)),
            IncompatibleModelError,
            r"is bfloat16 of shape \(2, 3\), expected float32",
            id="dtype",
        ),
        pytest.param(
            without("exp_avg_sq/used.bias"),
            IncompatibleModelError,
            r"'exp_avg_sq/used.bias' is missing",
            id="one-moment-without-the-other",
        ),
        pytest.param(
            without("step/used.bias"),
            IncompatibleModelError,
            r"'step/used.bias' is missing",
            id="moments-without-their-step",
        ),
        pytest.param(
            tensor("step/used.bias", torch.ones(1)),
            IncompatibleModelError,
            r"'step/used.bias' is float32 of shape \(1,\), expected float32 of shape \(\)",
            id="step-with-a-dimension",
        ),
        pytest.param(
            tensor("exp_avg/strange", torch.ones(1)),
            IncompatibleModelError,
            r"'exp_avg/strange' is .*, expected no such tensor",
            id="a-moment-of-no-parameter",
        ),
        pytest.param(
            without("epoch_loss"), IncompatibleModelError, r"'epoch_loss' is missing", id="loss"
        ),
        pytest.param(
            without("random/cpu"), IncompatibleModelError, r"'random/cpu' is missing", id="random"
        ),
        pytest.param(
            tensor("random/cpu", torch.zeros(16).byte()),
            IncompatibleModelError,
            r"'random/cpu' is uint8 of shape \(16,\)",
            id="short-random-state",
        ),
        pytest.param(
            lambda tensors, _: tensors["random/cpu"].fill_(255),
            InvalidTensorFileError,
            r"the state of the cpu generator is none",
            id="impossible-random-state",
        ),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(
    change: Callable[[Tensors, Scalars], object],
    error: type[Exception],
    message: str,
    path: Path,
) -> None:
    rewrite(path, change)
    state = new_state(2)
    before = everything(state)

    with pytest.raises(error, match=message):
        state.load(path)

    assert everything(state) == before


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda path: path.write_bytes(b""), id="empty"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[:-1]), id="cut-short"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes() + b"\0"), id="too-long"),
        pytest.param(lambda path: torch.save({"step": 5}, path), id="pickle"),
        pytest.param(lambda path: save_file({"x": torch.ones(1)}, path), id="no-metadata"),
        pytest.param(
            lambda path: save_file({"x": torch.ones(1)}, path, metadata={"training": "{"}),
            id="no-json",
        ),
        pytest.param(
            lambda path: save_file({"x": torch.ones(1)}, path, metadata={"training": "[]"}),
            id="no-object",
        ),
    ],
)
def test_a_file_that_is_no_state_is_refused(damage: Callable[[Path], None], path: Path) -> None:
    damage(path)

    with pytest.raises(InvalidTensorFileError, match=r"checkpoint.safetensors"):
        new_state(2).load(path)
