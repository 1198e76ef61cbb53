"""Probes of the gate whose outcome a test chooses, written as an evaluation worker does."""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import UTC, datetime

from coldfusion_queue.records import BaseVersion, Evaluation, EvaluationRequest
from coldfusion_queue.repository.fusing import FusionReport, fuse_once
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.settings import Settings

__all__ = ["Judge", "fuse_until_decided", "harmed_by", "probe_wanted"]

#: The score of a model on every gate dataset; None is a probe that fails.
Judge = Callable[[BaseVersion], float | None]


def harmed_by(names: Collection[str], harm: float = 0.2, gain: float = 0.01) -> Judge:
    """0.5, and a little more for each that is fused, but for the named, each of which takes."""

    def score(base: BaseVersion) -> float:
        fused = [line.contribution_id.partition(".t")[0] for line in base.fused]
        return 0.5 + sum(-harm if name in names else gain for name in fused) / (len(fused) or 1)

    return score


def probe_wanted(repository: Repository, judge: Judge) -> list[EvaluationRequest]:
    """Record what is wanted; returns the requests."""
    requests = [repository.evaluations.request(name) for name in repository.evaluations.wanted()]
    found = [request for request in requests if request is not None]
    for request in found:
        repository.evaluations.record(evaluation(request, judge(request.base)))
    return found


def evaluation(request: EvaluationRequest, score: float | None) -> Evaluation:
    """What a probe of this score would have recorded; of None, that it failed."""
    return Evaluation(
        spec=request.spec,
        base_version=request.base.version,
        base_digest=request.base.digest,
        scored_on="test",
        metric=None if score is None else "accuracy",
        score=score,
        interval=None if score is None else (score, score),
        num_train=1,
        num_scored=1,
        error="TrainingFailedError" if score is None else None,
        failure="out of memory" if score is None else None,
        seconds=0.0,
        created_at=datetime.now(UTC),
        created_by="test",
    )


def fuse_until_decided(
    repository: Repository, settings: Settings, judge: Judge, limit: int = 60
) -> list[FusionReport]:
    """Fuse and probe until nothing is pending and nothing waits for the gate."""
    reports = []
    for _ in range(limit):
        report = fuse_once(repository, settings)
        reports.append(report)
        probed = probe_wanted(repository, judge)
        if report.entry is None and report.candidate is None and not probed:
            return reports
    raise AssertionError(f"still not decided after {limit} looks")
