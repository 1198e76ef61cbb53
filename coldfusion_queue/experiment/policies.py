"""The policy of an arm's repository: the experiment's own, made to wait for its schedule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coldfusion_queue.experiment.arms import Arm
from coldfusion_queue.records import Policy

__all__ = ["policy_of"]

#: Nothing is ever late in virtual time.
_FOREVER_SECONDS = 1e9

#: A long training of one contributor is no suspect: it is all that there is.
_WITHOUT_LIMITS = {
    "max_relative_norm": None,
    "max_norm_z": None,
    "min_cosine": None,
    "max_copy_cosine": None,
}


def policy_of(arm: Arm, ids: Mapping[str, str], first: int, largest: int) -> Policy:
    """The policy that an arm's repository begins with.

    Args:
        arm: whose design says how to fuse.
        ids: of the datasets, by name.
        first: contributions of the first fusion.
        largest: of the largest one.
    """
    own = arm.design.policy
    changes: dict[str, Any] = {
        "min_contributions": first,
        "max_contributions": max(largest, own.max_contributions),
        "max_wait_seconds": _FOREVER_SECONDS,
    }
    # The records shall give every number again; where room is short the file says otherwise.
    for field in ("retain_base_versions", "retain_contributions"):
        if field not in own.model_fields_set:
            changes[field] = None
    gate = arm.design.gate
    if gate is not None and arm.role in {"cold", "random_deltas"}:
        changes["gate_datasets"] = tuple(ids[name] for name in gate.datasets)
        if gate.tolerance is not None:
            changes["gate_tolerance"] = gate.tolerance
    if arm.role in {"alone", "multitask"}:  # what is fused is what was contributed
        changes |= {"method": "mean", "server_learning_rate": 1.0} | _WITHOUT_LIMITS
    return Policy.model_validate({**own.model_dump(), **changes})
