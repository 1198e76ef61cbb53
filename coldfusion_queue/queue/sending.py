"""Sending turns and evaluations, each of them once."""

from __future__ import annotations

from collections.abc import Callable

from coldfusion_queue.names import contribution_id
from coldfusion_queue.queue.app import finetune_queue
from coldfusion_queue.queue.once import Look, OnceSender
from coldfusion_queue.queue.sites import note_site

__all__ = ["EvaluationSender", "Look", "TurnSender"]


class TurnSender(OnceSender):
    """Sends the turns of one repository's submissions.

    ``site`` is the submission's: its turns go to the queue that the workers of that site consume.
    """

    def send(self, submission_id: str, turn: int, site: str | None = None) -> bool:
        """Enqueue a turn unless it is queued or running already.

        Idempotent: while the hint stands, nothing is sent.
        Writes: ``coldfusion:<repository>:turn:<contribution_id>``, one message on the queue of
        ``site``, which is that of the submission.

        Returns:
            Whether it was sent.

        Raises:
            BrokerUnavailableError: Redis does not answer; the bucket's records remain, and
                ``reconcile`` sends the turn later.
        """
        return self._send(*self._turn(submission_id, turn, site))

    def send_missing(self, submission_id: str, turn: int, site: str | None = None) -> Look:
        """Enqueue a turn that has been neither queued nor running for a sixth of the lease.

        Idempotent: the first call only notes that it is missing.

        Raises:
            BrokerUnavailableError: Redis does not answer.
        """
        return self._send_missing(*self._turn(submission_id, turn, site))

    def send_again(self, submission_id: str, turn: int, site: str | None = None) -> bool:
        """Enqueue a turn that this worker had in hand and gives back.

        Returns:
            Whether it was sent; False if another worker has it by now.

        Raises:
            BrokerUnavailableError: Redis does not answer.
        """
        return self._send_again(*self._turn(submission_id, turn, site))

    def put_off(self, submission_id: str, turn: int, seconds: float) -> None:
        """Say that a turn waits for its retry; when the time is over ``reconcile`` sends it.

        Raises:
            BrokerUnavailableError: Redis does not answer.
        """
        self._put_off(contribution_id(submission_id, turn), seconds)

    def count_retry(self, submission_id: str, turn: int) -> int:
        """Count one more retry of a turn, and answer how many there were with it.

        Raises:
            BrokerUnavailableError: Redis does not answer.
        """
        return self._count_retry(contribution_id(submission_id, turn))

    def forget_retries(self, submission_id: str, turn: int) -> None:
        """Begin to count anew, because the turn was given up or failed.

        Raises:
            BrokerUnavailableError: Redis does not answer.
        """
        self._forget_retries(contribution_id(submission_id, turn))

    def _turn(
        self, submission_id: str, turn: int, site: str | None
    ) -> tuple[str, Callable[[], None]]:
        def publish() -> None:
            if site is not None:
                note_site(self._client, self._keys, site)
            self._app.send_task(
                "coldfusion.finetune",
                args=(self._repository, submission_id, turn),
                queue=finetune_queue(site),
                retry=False,
            )

        return contribution_id(submission_id, turn), publish


class EvaluationSender(OnceSender):
    """Sends the evaluations of one repository; its methods are those of ``TurnSender``."""

    def send(self, evaluation_id: str) -> bool:
        """Enqueue an evaluation unless it is queued or running already."""
        return self._send(*self._evaluation(evaluation_id))

    def send_missing(self, evaluation_id: str) -> Look:
        """Enqueue one that has been neither queued nor running for a sixth of the lease."""
        return self._send_missing(*self._evaluation(evaluation_id))

    def send_again(self, evaluation_id: str) -> bool:
        """Enqueue one that this worker had in hand and gives back."""
        return self._send_again(*self._evaluation(evaluation_id))

    def put_off(self, evaluation_id: str, seconds: float) -> None:
        """Say that an evaluation waits for its retry."""
        self._put_off(evaluation_id, seconds)

    def count_retry(self, evaluation_id: str) -> int:
        """Count one more retry, and answer how many there were with it."""
        return self._count_retry(evaluation_id)

    def forget_retries(self, evaluation_id: str) -> None:
        """Begin to count anew."""
        self._forget_retries(evaluation_id)

    def _evaluation(self, evaluation_id: str) -> tuple[str, Callable[[], None]]:
        def publish() -> None:
            self._app.send_task(
                "coldfusion.evaluate", args=(self._repository, evaluation_id), retry=False
            )

        return evaluation_id, publish
