"""Evaluations: what is wanted, and what was found; each is done once for a model's parameters."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from coldfusion_queue.crash_points import CrashPoint, reach
from coldfusion_queue.errors import InvalidRecordError
from coldfusion_queue.keys import ObjectKeys
from coldfusion_queue.names import actor
from coldfusion_queue.records import BaseVersion, Evaluation, EvaluationRequest, EvaluationSpec
from coldfusion_queue.store import Store
from coldfusion_queue.threads import WorkThreads

__all__ = ["Evaluations"]

log = logging.getLogger(__name__)

#: Small records that are read at a time.
_NUM_THREADS = 16


class Evaluations:
    """Reads and writes the evaluations of one repository."""

    def __init__(self, store: Store, keys: ObjectKeys) -> None:
        self._store = store
        self._keys = keys

    def find(self, evaluation_id: str) -> Evaluation | None:
        """What an evaluation found, or None if it is not done."""
        key = self._keys.evaluation(evaluation_id)
        data = self._store.find(key)
        return None if data is None else Evaluation.from_bytes(data, key)

    def of(self, base_digest: str) -> list[Evaluation]:
        """All that was found of one model, by dataset and name; unreadable records are left out."""
        keys = [item.key for item in self._store.list(self._keys.evaluations(base_digest))]
        with WorkThreads(_NUM_THREADS, "evaluations") as threads:
            return [found for found in threads.map(self._read, keys) if found is not None]

    def want(self, base: BaseVersion, specs: Sequence[EvaluationSpec]) -> list[EvaluationRequest]:
        """Ask for evaluations of a base model, those that are done left out.

        Idempotent. Writes: ``wanted/<evaluation_id>.json``; somebody has to send them, or
        ``reconcile`` does.

        Returns:
            What is not done yet, whoever asked for it first.
        """
        requests = []
        for spec in specs:
            request = EvaluationRequest(
                spec=spec, base=base, requested_at=datetime.now(UTC), requested_by=actor()
            )
            name = request.evaluation_id
            if self._store.stat(self._keys.evaluation(name)) is None:
                self._store.create(self._keys.wanted_evaluation(name), request.to_bytes())
                requests.append(request)
        reach(CrashPoint.EVALUATION_WANTED)
        return requests

    def request(self, evaluation_id: str) -> EvaluationRequest | None:
        """The request for an evaluation, or None if there is none."""
        key = self._keys.wanted_evaluation(evaluation_id)
        data = self._store.find(key)
        return None if data is None else EvaluationRequest.from_bytes(data, key)

    def wanted(self) -> Iterator[str]:
        """Ids of the evaluations that are wanted; a crash can leave some that are done."""
        for item in self._store.list(self._keys.wanted):
            yield item.key.removeprefix(self._keys.wanted).removesuffix(".json")

    def count_wanted(self) -> int:
        """Number of requests, cheaply."""
        return sum(1 for _ in self._store.list(self._keys.wanted))

    def is_done(self, evaluation_id: str) -> bool:
        """Whether an evaluation is recorded; its request is deleted then."""
        if self._store.stat(self._keys.evaluation(evaluation_id)) is None:
            return False
        self.drop(evaluation_id)
        return True

    def record(self, evaluation: Evaluation) -> bool:
        """Create the record, the commit point of an evaluation, then delete the request.

        Idempotent: of two that were made at once the first stays.

        Returns:
            Whether this is the one that stays.
        """
        name = evaluation.evaluation_id
        is_first = self._store.create(self._keys.evaluation(name), evaluation.to_bytes())
        reach(CrashPoint.EVALUATION_RECORDED)
        self.drop(name)
        return is_first

    def forget_failures(self, base: BaseVersion, specs: Sequence[EvaluationSpec]) -> None:
        """Delete the records of evaluations that could not be done, so that they can be again."""
        for spec in specs:
            name = spec.evaluation_id(base.digest)
            found = self.find(name)
            if found is not None and found.failure is not None:
                self._store.delete([self._keys.evaluation(name)])

    def drop(self, evaluation_id: str) -> None:
        """Delete a request: it is done, or not wanted any more. Idempotent."""
        self._store.delete([self._keys.wanted_evaluation(evaluation_id)])

    def _read(self, key: str) -> Evaluation | None:
        data = self._store.find(key)
        try:
            return None if data is None else Evaluation.from_bytes(data, key)
        except InvalidRecordError as error:
            log.warning("passed over: %s", error, extra={"event": "record_unreadable"})
            return None
