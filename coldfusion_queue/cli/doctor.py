"""``coldfusion doctor``: what is wrong, and what to do about it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from coldfusion_queue.cli.common import INTERACTIVE_ATTEMPTS, console, json_option, print_json
from coldfusion_queue.errors import (
    AccessDeniedError,
    ColdFusionError,
    DeviceLostError,
    NotFoundError,
    SettingsError,
)

if TYPE_CHECKING:
    from coldfusion_queue.settings import Settings

__all__ = ["doctor"]

_MAX_SKEW_SECONDS = 60.0


@dataclass(frozen=True)
class _Finding:
    check: str
    state: str  # ok, note or wrong
    text: str
    exit_code: int = 0


@click.command()
@json_option
def doctor(as_json: bool) -> int:
    """Check settings, broker, store, credentials, clock, conditional writes, workers and GPU.

    Exits with the code of the first thing that is wrong, or 0.
    """
    findings = []
    for finding in _examine():
        findings.append(finding)
        if not as_json:
            style = {"ok": "green", "note": "yellow", "wrong": "red"}[finding.state]
            console().print(f"[{style}]{finding.state:>5}[/{style}]  {finding.check:<19} ", end="")
            console().print(finding.text, markup=False)
    if as_json:
        print_json([vars(finding) for finding in findings])
    return next((item.exit_code for item in findings if item.state == "wrong"), 0)


def _examine() -> Iterator[_Finding]:
    from coldfusion_queue.settings import load_settings

    try:
        settings = load_settings()
    except SettingsError as error:
        yield _Finding("settings", "wrong", str(error), error.exit_code)
        return
    yield _Finding("settings", "ok", f"repository {settings.repository}")
    broker = _try("broker", lambda: _broker(settings))
    yield broker
    is_up = broker.state != "wrong"  # workers are asked by way of it, for ever if it is silent
    store = _try("store", lambda: _store(settings))
    yield store
    if store.state != "wrong":
        yield _try("clock", lambda: _clock(settings))
        yield _try(
            "conditional writes", lambda: _conditional(settings), "write, as workers have to"
        )
        yield _try("repository", lambda: _repository(settings))
        if settings.site is None:  # its credentials do not reach what is measured
            yield _try("gate", lambda: _gate(settings, is_up), "read what was measured")
    if is_up:
        yield _try("workers", lambda: _workers(settings), "ask workers")
    yield _try("device", lambda: _device(settings))


def _try(check: str, examine: Callable[[], tuple[str, str]], spared: str | None = None) -> _Finding:
    """Examine; what some role's credentials are spared is nothing wrong if it is denied."""
    try:
        state, text = examine()
    except ColdFusionError as error:
        if spared is not None and isinstance(error, AccessDeniedError):
            return _Finding(check, "note", f"not checked: these credentials may not {spared}")
        return _Finding(check, "wrong", str(error), error.exit_code)
    return _Finding(check, state, text)


def _broker(settings: Settings) -> tuple[str, str]:
    from coldfusion_queue.broker_url import masked_url
    from coldfusion_queue.queue.connection import broker_errors, connect_redis
    from coldfusion_queue.queue.server import read_info, refuse_cluster

    client = connect_redis(settings)
    with broker_errors(settings):
        started = time.monotonic()
        client.ping()
        milliseconds = 1000 * (time.monotonic() - started)
        info = read_info(client)
    where = f"{masked_url(settings.broker_url)} answers in {milliseconds:.1f} ms"
    if info is None:
        return "note", f"{where}; INFO is not allowed, so how it is set up could not be read"
    refuse_cluster(settings, info)
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        where += f"; maxmemory-policy is {policy}, set noeviction or tasks get lost"
    if str(info.get("aof_enabled", 1)) == "0":
        where += "; appendonly is off: after a restart what is queued has to be found anew"
    return "note" if ";" in where else "ok", where


def _store(settings: Settings) -> tuple[str, str]:
    from coldfusion_queue.keys import ObjectKeys
    from coldfusion_queue.store import Store

    store = Store.open(settings, INTERACTIVE_ATTEMPTS)
    # Not the bucket itself: to look that up is the right to list it, which few roles need whole.
    store.find(ObjectKeys(settings.repository).repository_record)
    return "ok", f"{store.endpoint} ({store.server_name()}), bucket {store.bucket}"


def _clock(settings: Settings) -> tuple[str, str]:
    from datetime import UTC, datetime

    from coldfusion_queue.store import Store

    skew = (Store.open(settings, INTERACTIVE_ATTEMPTS).now() - datetime.now(UTC)).total_seconds()
    if abs(skew) > _MAX_SKEW_SECONDS:
        return "note", f"the store's clock is {skew:+.0f} s off this one; S3 refuses above 900 s"
    return "ok", "this machine and the store agree"


def _conditional(settings: Settings) -> tuple[str, str]:
    from coldfusion_queue.store import Store, check_conditional_writes

    store = Store.open(settings, INTERACTIVE_ATTEMPTS)
    check_conditional_writes(store, f"{settings.repository}/")
    return "ok", "of racing writers exactly one wins"


def _repository(settings: Settings) -> tuple[str, str]:
    from coldfusion_queue.repository.repository import Repository

    repository = Repository.open(settings, attempts=INTERACTIVE_ATTEMPTS)
    identity = repository.record().identity
    version = repository.ledger.newest().after.base.version
    return "ok", f"{identity.hub_id} ({identity.model_type}), base version {version}"


def _gate(settings: Settings, is_broker_up: bool) -> tuple[str, str]:
    """Whether fused models can be judged; without that nothing is published."""
    from coldfusion_queue.queue.app import EVALUATION_QUEUE
    from coldfusion_queue.repository.gating import Gate
    from coldfusion_queue.repository.repository import Repository

    repository = Repository.open(settings, attempts=INTERACTIVE_ATTEMPTS)
    newest = repository.ledger.newest()
    gate = Gate(repository, newest)
    if not gate.is_set:
        return "ok", "none is set: what is fused is published at once"
    names = newest.after.policy.gate_datasets
    gone = [name for name in names if repository.store.stat(repository.keys.dataset(name)) is None]
    if gone:
        remedy = "upload it again, or change gate_datasets in the policy"
        raise NotFoundError("gate dataset", ", ".join(gone), remedy)
    failed = gate.failed(newest.after.base)
    if failed:
        return "note", f"nothing can be published: {'; '.join(failed)}"
    try:
        served = _served(settings)[0] if is_broker_up else {EVALUATION_QUEUE}
    except ColdFusionError:  # a finding of its own
        return "ok", f"{len(names)} datasets"
    if EVALUATION_QUEUE not in served:
        return "note", f"no worker serves {EVALUATION_QUEUE}, so nothing is published; start one"
    return "ok", f"{len(names)} datasets"


def _served(settings: Settings) -> tuple[set[str], list[str]]:
    """Queues that workers consume, and the names of the workers."""
    from coldfusion_queue.queue.app import make_app
    from coldfusion_queue.queue.connection import broker_errors

    with broker_errors(settings):
        answers = make_app(settings).control.inspect(timeout=1.5).active_queues() or {}
    return {queue["name"] for queues in answers.values() for queue in queues}, sorted(answers)


def _site_worker(settings: Settings, site: str) -> tuple[str, str]:
    from coldfusion_queue.queue.connection import broker_errors, connect_redis
    from coldfusion_queue.queue.presence import is_present

    with broker_errors(settings):
        if is_present(connect_redis(settings), settings, site):
            return "ok", f"a worker of site {site} is there"
    return "note", f"no worker of site {site} is there; start one"


def _workers(settings: Settings) -> tuple[str, str]:
    if settings.site is not None:  # its credentials do not reach what others answer on
        return _site_worker(settings, settings.site)
    from coldfusion_queue.queue.app import FINETUNE_QUEUE, FUSION_QUEUE

    served, names = _served(settings)
    missing = [name for name in (FINETUNE_QUEUE, FUSION_QUEUE) if name not in served]
    if missing:
        return "note", f"no worker serves {' and '.join(missing)}; start one, or 'coldfusion up'"
    return "ok", ", ".join(names)


def _device(settings: Settings) -> tuple[str, str]:
    try:
        import torch
    except ImportError:
        return "note", "torch is not installed; only a finetune worker needs it"
    from coldfusion_queue.finetune.device import pick_device

    try:
        device = pick_device(settings.device)
    except DeviceLostError as error:
        built = torch.version.cuda or "none: it was built without"
        problem = f"{error.problem}: torch sees {_num_gpus()} (its CUDA is {built})"
        raise DeviceLostError(error.device, problem) from None
    if device.type == "cuda":
        return "ok", f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"
    if settings.device == "cpu":
        return "note", "no GPU is used, as COLDFUSION_DEVICE says"
    if device.type == "cpu":
        return "note", "no GPU on this machine: a finetune worker here would use the CPU, slowly"
    return "ok", str(device)


def _num_gpus() -> str:
    import torch

    number = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return "no GPU" if number == 0 else "one GPU" if number == 1 else f"{number} GPUs"
