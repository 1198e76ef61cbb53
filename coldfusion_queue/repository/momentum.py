"""The state of fusions with momentum: opened where it is there, told of where it is not."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from coldfusion_queue.errors import DigestMismatchError, InvalidTensorFileError
from coldfusion_queue.fusion.momentum import FusionState
from coldfusion_queue.records import BaseVersion
from coldfusion_queue.repository.source import ObjectSource
from coldfusion_queue.store import Store

__all__ = ["damage_told", "open_state"]

log = logging.getLogger(__name__)


def open_state(
    store: Store,
    base: BaseVersion,
    name: str,
    write: Callable[[bytes], object],
    on_read: Callable[[int], None] = lambda num_bytes: None,
) -> FusionState:
    """The state that a base version's fusion left, as the next one takes it, of one file.

    Where there is none, because another method made the version, momentum begins anew. So it does
    if the state's object is gone: that costs some momentum, while waiting for it would end all
    fusions.

    Args:
        store: where it is.
        base: the version that is fused into.
        name: which of its model files.
        write: takes the next state.
        on_read: see ``ObjectSource``.
    """
    state = (base.state or {}).get(base.state_name(name))
    if state is None:
        return FusionState(write)
    if store.stat(state.key) is None:
        ids = {"event": "momentum_gone", "version": base.version}
        log.warning("state %s is gone: momentum begins anew", state.key, extra=ids)
        return FusionState(write)
    return FusionState(write, ObjectSource(store, state, None, on_read), state.digest)


@contextmanager
def damage_told(base: BaseVersion) -> Iterator[None]:
    """Say what can be done if a fusion fails for the state of the version that is fused into.

    The error passes: what was read wrongly may be read rightly by the next fusion.
    """
    try:
        yield
    except (DigestMismatchError, InvalidTensorFileError) as error:
        if error.name in {file.key for file in (base.state or {}).values()}:
            ids = {"event": "momentum_damaged", "version": base.version}
            remedy = "put back what was recorded, or delete it, and momentum begins anew"
            log.error("%s; %s", error, remedy, extra=ids)
        raise
