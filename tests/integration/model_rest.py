"""How each example of the model test ends: nothing goes wrong any more, and all must be well."""

from __future__ import annotations

from coldfusion_queue.audit import Check, audit
from coldfusion_queue.names import contribution_id
from tests.integration.model_world import World

__all__ = ["come_to_rest"]

_DAY_SECONDS = 24 * 3600
#: A turn takes one or two.
_MAX_ROUNDS = 30


def come_to_rest(world: World) -> None:
    """Go on without faults: all comes to its end, exactly once, and nothing is left over."""
    model = world.model
    while world.paused:
        world.go_on(world.paused[0], None)
    world.change_policy({"min_contributions": 1, "max_contributions": 9}, None)
    for _ in range(_MAX_ROUNDS):
        if not model.open() and not model.pending():
            break
        _round(world)
    assert not model.open(), "turns are missing"
    assert not model.pending(), "contributions are undecided"
    world.check_turns(*model.turns)
    _audit(world, _DAY_SECONDS)
    world.collect(None, has_grace=False)
    _audit(world, 0)


def _round(world: World) -> None:
    for _ in range(2):
        world.an_hour_passes(with_paused=True)
        world.reconcile(None)
    for message in world.broker.queued():
        world.deliver(message, "worker", None, "trains")
    world.fuse(None, is_locked=True)
    # Only what a collection without grace took has to be repaired by one with it.
    if world.model.may_need_repair():
        world.collect(None, has_grace=True)


def _audit(world: World, grace_seconds: float) -> None:
    # Files that a collection without grace took are missed, unless they were asked for.
    names = {contribution_id(*name) for name in world.model.expired_without_files()}
    findings = [
        finding
        for finding in audit(world.settings, world.name, grace_seconds).findings
        if finding.check is not Check.CONTRIBUTIONS_FILE
        or finding.subject.split("/")[2] not in names
    ]
    assert not findings, findings
