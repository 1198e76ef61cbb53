"""The state of a training as one safetensors file, from which another worker goes on exactly.

A file holds, by the names of the model's parameters and buffers:

========================== ====================================================================
``model/<name>``           trainable parameters, and buffers; what is frozen comes from the base
``exp_avg/<name>``,        moments of AdamW, for parameters that ever had a gradient
``exp_avg_sq/<name>``
``step/<name>``            AdamW's count of that parameter's steps
``epoch_loss``             sum of the losses of the running epoch
``random/<device type>``   states of the random generators: ``cpu``, and the device's own
========================== ====================================================================

and ``step``, ``num_steps``, ``seed`` and the ``scores`` of the validations as JSON. The order of
the examples is a function of the seed, so the step says where in it the training is. Nothing is
ever unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from coldfusion_queue.errors import IncompatibleModelError, InvalidTensorFileError

__all__ = ["TrainingState"]

_METADATA = "training"
_SCALARS = ("step", "num_steps", "seed")
_SCORES = "scores"
_MOMENTS = ("exp_avg", "exp_avg_sq")
_STEP = "step"
_REMEDY = "it is of another training; begin the turn from the start"


@dataclass
class TrainingState:
    """All that changes between two optimizer steps; the objects are those of the training."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    """AdamW over the trainable parameters."""
    epoch_loss: Tensor
    """() float32 on the device of the training: sum over the examples of the running epoch."""
    num_steps: int
    """Optimizer steps of the whole training."""
    seed: int
    """Seed of the order of the examples."""
    scores: list[tuple[int, float]]
    """Of the validations so far: examples trained on, and the score."""
    step: int = 0
    """Optimizer steps done."""

    def save(self, path: Path) -> None:
        """Write the state; the file appears under its name when it is complete.

        Cost: about 12 bytes for each trainable parameter, on disk; on a GPU also in memory.
        """
        tensors = {name: value.cpu().contiguous() for name, value in self._tensors().items()}
        _write(tensors, self._metadata(), path)

    def snapshot(self) -> Callable[[Path], None]:
        """Copy the state; what is returned writes it, as ``save`` would have done now.

        Cost: about 12 bytes for each trainable parameter, in the machine's memory.
        """
        tensors = {
            name: value.to("cpu", copy=True).contiguous() for name, value in self._tensors().items()
        }
        metadata = self._metadata()
        return lambda path: _write(tensors, metadata, path)

    def load(self, path: Path) -> None:
        """Take over a state that was saved; nothing is changed before all of it was checked.

        The state of a random generator that this device does not have is left out, and one that
        the file does not have stays as it is: then the training goes on, with other dropout.

        Raises:
            InvalidTensorFileError: it is no such file.
            IncompatibleModelError: it is of another model or another training.
        """
        scalars, scores, tensors = _read(path)
        self._check_scalars(path.name, scalars)
        self._check_tensors(path.name, tensors)
        self._set_random(path.name, tensors)
        self.step = scalars["step"]
        self.scores[:] = scores
        self.epoch_loss.copy_(tensors["epoch_loss"])
        with torch.no_grad():
            for name, value in self._changing():
                value.copy_(tensors[f"model/{name}"])
        self._load_optimizer(tensors)

    def _metadata(self) -> str:
        scalars = {name: getattr(self, name) for name in (*_SCALARS, _SCORES)}
        return json.dumps(scalars, sort_keys=True)

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"model/{name}": value.detach() for name, value in self._changing()}
        for name, parameter in self._trainable():
            for part, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"{part}/{name}"] = value
        tensors["epoch_loss"] = self.epoch_loss
        for device_type, generator in self._generators().items():
            tensors[f"random/{device_type}"] = generator.get()
        return tensors

    def _trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                yield name, parameter

    def _changing(self) -> Iterator[tuple[str, Tensor]]:
        yield from self._trainable()
        yield from self.model.named_buffers()

    def _generators(self) -> dict[str, _Generator]:
        device = self.epoch_loss.device
        found = {"cpu": _Generator(torch.get_rng_state, torch.set_rng_state)}
        if device.type == "cuda":
            found["cuda"] = _Generator(
                lambda: torch.cuda.get_rng_state(device),
                lambda state: torch.cuda.set_rng_state(state, device),
            )
        elif device.type == "mps":
            found["mps"] = _Generator(torch.mps.get_rng_state, torch.mps.set_rng_state)
        return found

    def _check_scalars(self, name: str, got: Mapping[str, int]) -> None:
        expected = {"num_steps": self.num_steps, "seed": self.seed}
        for key, value in expected.items():
            if got[key] != value:
                raise _misfit(name, f"its {key}", str(got[key]), str(value))
        if not 1 <= got["step"] < self.num_steps:
            raise _misfit(name, "its step", str(got["step"]), f"1 to {self.num_steps - 1}")

    def _check_tensors(self, name: str, got: Mapping[str, Tensor]) -> None:
        expected = {f"model/{key}": _form(value) for key, value in self._changing()}
        expected["epoch_loss"] = _form(self.epoch_loss)
        expected["random/cpu"] = _form(torch.get_rng_state())
        for key, parameter in self._trainable():
            parts = {f"{part}/{key}": _form(parameter) for part in _MOMENTS}
            parts[f"{_STEP}/{key}"] = _form(torch.empty(()))
            if not got.keys().isdisjoint(parts):  # else it never had a gradient
                expected |= parts
        found = {key: _form(value) for key, value in got.items()}
        for key in sorted(found.keys() | expected.keys()):
            if found.get(key) != expected.get(key) and not (
                key.startswith("random/") and key not in expected
            ):
                part = f"tensor {key!r}"
                raise _misfit(
                    name, part, found.get(key, "missing"), expected.get(key, "no such tensor")
                )

    def _set_random(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        for device_type, generator in self._generators().items():
            state = tensors.get(f"random/{device_type}")
            if state is None:
                continue
            try:
                generator.set(state.clone())
            except (RuntimeError, TypeError) as error:
                problem = f"the state of the {device_type} generator is none"
                raise InvalidTensorFileError(name, problem) from error

    def _load_optimizer(self, tensors: Mapping[str, Tensor]) -> None:
        names = {parameter: name for name, parameter in self._trainable()}
        order = [item for group in self.optimizer.param_groups for item in group["params"]]
        state = self.optimizer.state_dict()
        # Cloned: training changes moments in place, and these may be mapped from the file.
        state["state"] = {
            index: {
                part: tensors[f"{part}/{names[parameter]}"].clone() for part in (*_MOMENTS, _STEP)
            }
            for index, parameter in enumerate(order)
            if f"{_STEP}/{names[parameter]}" in tensors
        }
        self.optimizer.load_state_dict(state)


@dataclass(frozen=True)
class _Generator:
    """How the state of a device's random generator is read and set."""

    get: Callable[[], Tensor]
    set: Callable[[Tensor], None]


def _write(tensors: dict[str, Tensor], metadata: str, path: Path) -> None:
    partial = path.with_name(f".{path.name}.partial")
    save_file(tensors, partial, metadata={_METADATA: metadata})
    partial.replace(path)


def _read(path: Path) -> tuple[dict[str, int], list[tuple[int, float]], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_METADATA, "")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise InvalidTensorFileError(path.name, str(error)) from error
    found = _json_object(path.name, text)
    scores = _scores(path.name, found.pop(_SCORES, None))
    return _scalars(path.name, found), scores, tensors


def _json_object(name: str, text: str) -> dict[str, object]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        problem = f"its metadata {_METADATA!r} is missing or no object of JSON"
        raise InvalidTensorFileError(name, problem)
    return found


def _scalars(name: str, found: Mapping[str, object]) -> dict[str, int]:
    scalars = {key: value for key, value in found.items() if type(value) is int}
    if scalars.keys() != found.keys() or scalars.keys() != set(_SCALARS):
        problem = f"its metadata {_METADATA!r} does not hold the numbers {', '.join(_SCALARS)}"
        raise InvalidTensorFileError(name, problem)
    return scalars


def _scores(name: str, found: object) -> list[tuple[int, float]]:
    if not isinstance(found, list) or not all(
        isinstance(item, list) and [type(value) for value in item] == [int, float] for item in found
    ):
        problem = f"its {_SCORES} are no list of numbers of examples and scores"
        raise InvalidTensorFileError(name, problem)
    return [(examples, score) for examples, score in found]


def _form(tensor: Tensor) -> str:
    return f"{tensor.dtype} of shape {tuple(tensor.shape)}".removeprefix("torch.")


def _misfit(name: str, part: str, got: str, expected: str) -> IncompatibleModelError:
    return IncompatibleModelError(f"checkpoint {name}", part, got, expected, _REMEDY)
