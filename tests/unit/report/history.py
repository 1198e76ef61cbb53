"""Repositories made of records alone, in memory: what a test says happened is their history."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

from coldfusion_queue.errors import NotFoundError
from coldfusion_queue.keys import ObjectKeys
from coldfusion_queue.records import (
    BaseVersion,
    Contribution,
    Decision,
    Evaluation,
    EvaluationSpec,
    FileRecord,
    FusedContribution,
    GateReport,
    LedgerEntry,
    ModelIdentity,
    Outcome,
    Policy,
    Record,
    RepositoryRecord,
    Rule,
    State,
    Submission,
)
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.store import Store

__all__ = ["START", "History", "gate_report"]

START = datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC)


class MemoryStore:
    """What a report asks a store for, from a dictionary; counts what is read."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.reads: dict[str, int] = {}

    def put(self, key: str, record: Record) -> None:
        self.objects[key] = record.to_bytes()

    def find(self, key: str) -> bytes | None:
        self.reads[key] = self.reads.get(key, 0) + 1
        return self.objects.get(key)

    def get(self, key: str) -> bytes:
        found = self.find(key)
        if found is None:
            raise NotFoundError("object", key, "none")
        return found

    def stat(self, key: str) -> object | None:
        return self.objects.get(key)

    def list(self, prefix: str, *, recursive: bool = True) -> Iterator[Any]:
        keys = sorted(key for key in self.objects if key.startswith(prefix))
        if not recursive:
            keys = list(
                dict.fromkeys(prefix + key[len(prefix) :].split("/")[0] + "/" for key in keys)
            )
        return (SimpleNamespace(key=key) for key in keys)


class History:
    """A repository whose ledger a test writes entry by entry, a minute apart."""

    def __init__(self, name: str = "repo", policy: Policy | None = None) -> None:
        self.memory = MemoryStore()
        self.keys = ObjectKeys(name)
        self.repository = Repository(cast(Store, self.memory), name)
        self.now = START
        self.entries: list[LedgerEntry] = []
        self.num_contributions = 0
        self.policy = policy or Policy()
        identity = ModelIdentity(
            model_type="bert", hub_id="org/tiny", tokenizer_digest=None, num_parameters=1234
        )
        record = RepositoryRecord(
            format_version=1, name=name, identity=identity, created_at=START, created_by="test"
        )
        self.memory.put(self.keys.repository_record, record)
        base = self.model(0, None)
        self._append(published=base, base=base, note="init")

    @property
    def base(self) -> BaseVersion:
        """The newest version."""
        return self.entries[-1].after.base

    def model(
        self,
        version: int,
        parent: int | None,
        fused: Sequence[FusedContribution] = (),
        *,
        content: str | None = None,
        restores: int | None = None,
    ) -> BaseVersion:
        """A model of other parameters than any other, unless ``content`` is another's."""
        digest = hashlib.sha256((content or f"{len(self.entries)}").encode()).hexdigest()
        file = FileRecord(key=f"m{len(self.entries)}", digest=digest, num_bytes=1)
        return BaseVersion(
            version=version,
            prefix="p/",
            files={"model.safetensors": file},
            parent=parent,
            method="mean" if fused else None,
            method_options={},
            server_learning_rate=1.0 if fused else None,
            fused=tuple(fused),
            restores=restores,
        )

    def contribution(
        self,
        contributor: str,
        *,
        staleness: int = 0,
        waited: float = 30.0,
        num_examples: int = 100,
        dataset: str | None = "d" * 32,
        is_readable: bool = True,
    ) -> Contribution:
        """Commit a contribution ``waited`` seconds before the next entry."""
        self.num_contributions += 1
        name = f"s{self.num_contributions}.t00001"
        found = Contribution(
            contribution_id=name,
            submission_id=f"s{self.num_contributions}",
            contributor_id=contributor,
            dataset_id=dataset,
            turn=1,
            attempt="0",
            base_version=self.base.version - staleness,
            base_digest="0" * 64,
            form="delta",
            shared=FileRecord(key="k", digest="0" * 64, num_bytes=1),
            head=None,
            num_examples=num_examples,
            metrics={},
            created_at=self.now + timedelta(minutes=1, seconds=-waited),
            created_by="test",
        )
        self.memory.put(self.keys.contribution(name), found)
        if not is_readable:
            self.memory.objects[self.keys.contribution(name)] = b"{}"
        return found

    def fuse(
        self,
        contributions: Sequence[Contribution],
        refused: Mapping[str, tuple[Rule, str]] | None = None,
        expired: Collection[str] = (),
        gate: GateReport | None = None,
    ) -> BaseVersion:
        """Publish a version; what is refused or expired is decided with it."""
        base = self._fused(contributions)
        decisions = [self._fused_decision(line, base.version) for line in base.fused]
        decisions += self._others(refused or {}, expired)
        note = f"base version {base.version}: {len(base.fused)} fused"
        self._append(published=base, base=base, decisions=decisions, gate=gate, note=note)
        return base

    def withhold(self, contributions: Sequence[Contribution], gate: GateReport) -> BaseVersion:
        """Withhold a version."""
        base = self._fused(contributions)
        self._append(base=self.base, withheld=base, gate=gate, note="withheld: it is worse")
        return base

    def refuse(
        self, refused: Mapping[str, tuple[Rule, str]], expired: Collection[str] = ()
    ) -> None:
        """Decide without publishing."""
        decisions = self._others(refused, expired)
        self._append(base=self.base, decisions=decisions, note=f"{len(decisions)} decided")

    def restore(self, version: int) -> BaseVersion:
        """Roll back to a version."""
        old = next(
            entry.published
            for entry in self.entries
            if entry.published is not None and entry.published.version == version
        )
        base = self.model(self.base.version + 1, self.base.version, restores=version)
        base = base.model_copy(update={"files": old.files})
        note = f"base version {base.version}: rolled back to version {version}"
        self._append(published=base, base=base, note=note)
        return base

    def evaluate(
        self, base: BaseVersion, dataset: str, score: float | None, **changes: Any
    ) -> Evaluation:
        """Record an evaluation; ``changes`` are of its spec, or ``interval`` and ``seconds``."""
        seconds, interval = changes.pop("seconds", 2.0), changes.pop("interval", None)
        spec = EvaluationSpec(**{"dataset_id": dataset, "kind": "frozen", **changes})
        done = score is not None
        found = Evaluation(
            spec=spec,
            base_version=base.version,
            base_digest=base.digest,
            scored_on="test",
            metric="accuracy" if done else None,
            score=score,
            interval=(interval or (score - 0.05, score + 0.05)) if score is not None else None,
            num_train=100,
            num_scored=50,
            error=None if done else "TrainingFailedError",
            failure=None if done else "out of memory",
            seconds=seconds,
            created_at=self.now,
            created_by="test",
        )
        self.memory.put(self.keys.evaluation(found.evaluation_id), found)
        return found

    def submission(self, contributor: str, dataset: str) -> None:
        """A submission of a dataset, from which the dataset has its name."""
        found = Submission.model_validate(
            {
                "submission_id": f"{contributor}-{dataset[:8]}",
                "contributor_id": contributor,
                "kind": "finetune",
                "dataset_id": dataset,
                "turns": 1,
                "hyperparameters": {},
                "created_at": START,
                "created_by": "test",
            }
        )
        self.memory.put(self.keys.submission(found.submission_id), found)

    def _fused(self, contributions: Sequence[Contribution]) -> BaseVersion:
        share = 1 / len(contributions)
        lines = [
            FusedContribution(
                contribution_id=item.contribution_id,
                contributor_id=item.contributor_id,
                dataset_id=item.dataset_id,
                base_version=item.base_version,
                staleness=self.base.version - item.base_version,
                coefficient=share,
            )
            for item in contributions
        ]
        return self.model(self.base.version + 1, self.base.version, lines)

    def _fused_decision(self, line: FusedContribution, version: int) -> Decision:
        return Decision(
            contribution_id=line.contribution_id,
            outcome=Outcome.FUSED,
            reason=f"fused into base version {version}",
            sequence=len(self.entries),
            version=version,
            numbers={"staleness": line.staleness, "coefficient": line.coefficient},
        )

    def _others(
        self, refused: Mapping[str, tuple[Rule, str]], expired: Collection[str]
    ) -> list[Decision]:
        same = {"sequence": len(self.entries), "version": None}
        found = [
            Decision(
                contribution_id=name,
                outcome=Outcome.REFUSED,
                rule=rule,
                reason=reason,
                numbers={"cosine": -0.75},
                **same,
            )
            for name, (rule, reason) in refused.items()
        ]
        return found + [
            Decision(
                contribution_id=name,
                outcome=Outcome.EXPIRED,
                reason="too stale",
                numbers={"staleness": 9},
                **same,
            )
            for name in expired
        ]

    def _append(self, *, base: BaseVersion, note: str, **fields: Any) -> None:
        sequence = len(self.entries)
        if sequence:
            self.now += timedelta(minutes=1)
        is_published = fields.get("published") is not None
        gate = fields.get("gate") if is_published or not sequence else self.entries[-1].after.gate
        entry = LedgerEntry(
            sequence=sequence,
            token=str(sequence),
            created_at=self.now,
            actor="test",
            published=fields.get("published"),
            decisions=tuple(fields.get("decisions", ())),
            policy=self.policy if sequence == 0 else None,
            gate=fields.get("gate"),
            withheld=fields.get("withheld"),
            note=note,
            after=State(base=base, policy=self.policy, gate=gate),
        )
        self.entries.append(entry)
        self.memory.put(self.keys.ledger(sequence), entry)


def gate_report(mean: float, before: float, dataset: str = "d" * 32) -> GateReport:
    """A gate of one dataset with a tolerance of 0.01."""
    return GateReport(
        scores={dataset: mean},
        reference={dataset: before},
        mean=mean,
        reference_mean=before,
        best_mean=before,
        best_version=0,
        floor=before - 0.01,
    )
