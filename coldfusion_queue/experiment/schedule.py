"""Who contributes when: a simulation with its own clock, a function of design and seed alone."""

from __future__ import annotations

import hashlib
import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from coldfusion_queue.experiment.design import Design

__all__ = ["Fusion", "Turn", "all_at_once", "alone", "plan", "seed_of"]


@dataclass(frozen=True, order=True)
class Turn:
    """One finetune of one contributor."""

    number: int
    """Which it is in order of start, from 1."""
    contributor: str = field(compare=False)
    base: int = field(compare=False)
    """Number of the fusion whose outcome it starts from; 0 is the pretrained model."""
    start: float = field(compare=False)
    end: float = field(compare=False)


@dataclass(frozen=True)
class Fusion:
    """One fusion and what it takes."""

    number: int
    """From 1; it makes that base version, unless a gate or a limit says otherwise."""
    time: float
    turns: tuple[Turn, ...]
    """In order of start."""


def plan(design: Design, seed: int) -> tuple[Fusion, ...]:
    """The fusions of an arm, in order.

    Barrier: each iteration samples its contributors, all of which start from the newest base
    version; it is over when the slowest of them is. Asynchronous: so many contributors are at work
    at any time; what has arrived is fused as soon as it is enough, and when a turn ends, one of
    those who are idle then starts from the newest base version. What arrives at one instant is
    fused together, as it would be. Where fewer than enough would be left at the end, the last
    fusion waits for them: a mean of one or two would not tell how good the others made the base.
    There are as many turns in one as in the other.
    """
    generator = random.Random(seed_of("schedule", seed))  # noqa: S311 - repeatable is what it is for
    if design.schedule.kind == "barrier":
        return _barrier(design, generator)
    return _asynchronous(design, generator)


def all_at_once(design: Design) -> tuple[Fusion, ...]:
    """One fusion of every seen dataset's first contribution."""
    turns = [
        Turn(number, name, 0, 0.0, design.schedule.duration(name, number - 1))
        for number, name in enumerate(design.seen, start=1)
    ]
    return (Fusion(1, max(turn.end for turn in turns), tuple(turns)),)


def alone(design: Design, name: str) -> tuple[Fusion, ...]:
    """As many turns of one contributor, base after base, as a contributor has on average."""
    number = max(1, round(design.num_turns / len(design.seen)))
    duration = design.schedule.duration(name, design.seen.index(name))
    return tuple(
        Fusion(
            turn,
            turn * duration,
            (Turn(turn, name, turn - 1, (turn - 1) * duration, turn * duration),),
        )
        for turn in range(1, number + 1)
    )


def seed_of(*parts: object) -> int:
    """A seed that follows from these, below 2**32; other parts give another one."""
    text = "/".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])


def _barrier(design: Design, generator: random.Random) -> tuple[Fusion, ...]:
    fusions: list[Fusion] = []
    now, size = 0.0, design.contributors_per_iteration
    for iteration in range(design.iterations):
        chosen = _sample(design.seen, size, generator)
        turns = [
            Turn(iteration * size + place, name, iteration, now, now + _duration(design, name))
            for place, name in enumerate(chosen, start=1)
        ]
        now = max(turn.end for turn in turns)
        fusions.append(Fusion(iteration + 1, now, tuple(turns)))
    return tuple(fusions)


def _asynchronous(design: Design, generator: random.Random) -> tuple[Fusion, ...]:
    enough = design.schedule.min_contributions or 1
    fusions: list[Fusion] = []
    at_work: list[tuple[float, Turn]] = []
    arrived: list[Turn] = []
    started, now = 0, 0.0
    while True:
        idle = [name for name in design.seen if name not in {t.contributor for _, t in at_work}]
        free = design.contributors_per_iteration - len(at_work)
        for name in _sample(idle, min(free, design.num_turns - started), generator):
            started += 1
            turn = Turn(started, name, len(fusions), now, now + _duration(design, name))
            heapq.heappush(at_work, (turn.end, turn))
        if not at_work:
            break
        now = at_work[0][0]
        while at_work and at_work[0][0] == now:
            arrived.append(heapq.heappop(at_work)[1])
        left = len(at_work) + design.num_turns - started
        if len(arrived) >= enough and (left == 0 or left >= enough):
            fusions.append(Fusion(len(fusions) + 1, now, tuple(sorted(arrived))))
            arrived = []
    return tuple(fusions)


def _sample(names: Sequence[str], number: int, generator: random.Random) -> list[str]:
    """So many different names, in the order in which they were given."""
    chosen = {*generator.sample(range(len(names)), number)}
    return [name for place, name in enumerate(names) if place in chosen]


def _duration(design: Design, name: str) -> float:
    return design.schedule.duration(name, design.seen.index(name))
