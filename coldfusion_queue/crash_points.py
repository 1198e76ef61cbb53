"""Named points of the protocol, at which a test can stop, delay or kill the process.

``docs/protocol.md`` says for each of them what a crash there leaves and what recovers it. Nothing
is installed in production: ``reach`` is then one comparison.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

__all__ = ["CrashPoint", "install", "reach"]


class CrashPoint(StrEnum):
    """What has just been done when the point is reached."""

    # --- initialise
    #: Base version 0 is uploaded, nothing refers to it.
    INIT_UPLOADED = "init.uploaded"
    #: Ledger entry 0 exists, the repository's record does not.
    INIT_APPENDED = "init.appended"

    # --- submit
    #: The splits of a dataset are uploaded, its record is not there.
    SUBMIT_UPLOADED = "submit.uploaded"
    #: The dataset's record exists, no submission refers to it.
    SUBMIT_DATASET = "submit.dataset"
    #: The submission's marker exists, its record does not.
    SUBMIT_MARKED = "submit.marked"
    #: The submission is recorded, its first turn is not queued.
    SUBMIT_RECORDED = "submit.recorded"

    # --- enqueue a turn
    #: The hint stands, the message is not sent.
    SEND_HINTED = "send.hinted"
    #: The message is sent, the hint does not say so yet.
    SEND_SENT = "send.sent"

    # --- finetune one turn
    #: The worker holds the turn's lease.
    TURN_LEASED = "turn.leased"
    #: Base version and dataset are on this machine.
    TURN_DOWNLOADED = "turn.downloaded"
    #: One optimizer step is done; only this process's memory knows.
    TURN_STEPPED = "turn.stepped"
    #: The checkpoint's tensors are uploaded, its record is not there.
    CHECKPOINT_UPLOADED = "checkpoint.uploaded"
    #: The checkpoint is recorded, the turn is not queued again.
    CHECKPOINT_RECORDED = "checkpoint.recorded"
    #: The interrupted turn is queued again, its old message is not acknowledged.
    TURN_HANDED_BACK = "turn.handed_back"
    #: The finetuned parameters are on this machine's disk alone.
    TURN_TRAINED = "turn.trained"
    #: The turn failed for good: that is recorded, the submission's marker is still there.
    TURN_FAILED = "turn.failed"

    # --- commit a finetune
    #: The contribution's files are uploaded, nothing refers to them.
    COMMIT_UPLOADED = "commit.uploaded"
    #: The inbox marker exists, the contribution's record does not.
    COMMIT_MARKED = "commit.marked"
    #: The contribution is recorded.
    COMMIT_RECORDED = "commit.recorded"
    #: Another attempt is the committed one, this one's files are still there.
    COMMIT_LOST = "commit.lost"
    #: The turn's checkpoints are deleted.
    COMMIT_CLEANED = "commit.cleaned"
    #: The turn's hint is deleted, the next turn is not queued.
    TURN_RELEASED = "turn.released"
    #: The marker of a submission without turns left is deleted, the message is not acknowledged.
    SUBMISSION_CLOSED = "submission.closed"

    # --- reconcile
    #: A turn that is queued nowhere was found, and is not sent yet.
    RECONCILE_FOUND = "reconcile.found"

    # --- fuse
    #: The fusion lock is held.
    FUSE_LOCKED = "fuse.locked"
    #: The newest ledger entry is settled.
    FUSE_SETTLED = "fuse.settled"
    #: The marker of a late duplicate is deleted.
    FUSE_UNMARKED = "fuse.unmarked"
    #: One contribution was inspected and that is recorded, nothing is decided.
    FUSE_INSPECTED = "fuse.inspected"
    #: It is decided what to fuse, nothing is written.
    FUSE_SELECTED = "fuse.selected"
    #: A contribution at fault ended this attempt, whose objects are deleted; nothing is decided.
    FUSE_REFUSED = "fuse.refused"

    # --- share a large fusion
    #: The plan is where helpers find it, none of them is called.
    SHARE_PLANNED = "share.planned"
    #: One piece is done and its result is kept, by a helper or by the fusion's own worker.
    SHARE_KEPT = "share.kept"

    # --- publish
    #: The new model file is uploaded, and its state if the method has one.
    PUBLISH_MODEL = "publish.model"
    #: The other files of the new version are copied.
    PUBLISH_FILES = "publish.files"
    #: The version's lineage is written beside it; the candidate is complete.
    PUBLISH_LINEAGE = "publish.lineage"

    # --- ask the gate
    #: The candidate is recorded, no probe of it is asked for.
    GATE_CANDIDATE = "gate.candidate"
    #: The candidate passed or was withheld: the entry exists, its record is still there.
    GATE_JUDGED = "gate.judged"
    #: The record of the candidate is deleted; if it was withheld, so are its files.
    GATE_CLEANED = "gate.cleaned"

    # --- roll back
    #: The restored version is uploaded, nothing refers to it.
    ROLLBACK_UPLOADED = "rollback.uploaded"
    #: The entry that publishes it exists.
    ROLLBACK_APPENDED = "rollback.appended"

    # --- decide
    #: The ledger entry exists, nothing of it is settled.
    DECIDE_APPENDED = "decide.appended"
    #: Another fuser created this entry, the candidate's objects are still there.
    DECIDE_LOST = "decide.lost"
    #: One contribution's decision is copied beside it.
    SETTLE_DECISION = "settle.decision"
    #: All decisions are copied, the markers are still there.
    SETTLE_DECISIONS = "settle.decisions"
    #: The markers are deleted.
    SETTLE_UNMARKED = "settle.unmarked"

    # --- change the policy
    #: The entry with the new policy exists.
    POLICY_APPENDED = "policy.appended"

    # --- evaluate
    #: The evaluations that are wanted are asked for, none is queued.
    EVALUATION_WANTED = "evaluation.wanted"
    #: It is known what an evaluation found, in this process's memory alone.
    EVALUATION_MEASURED = "evaluation.measured"
    #: What it found is recorded, the request is still there.
    EVALUATION_RECORDED = "evaluation.recorded"

    # --- collect garbage
    #: It is known what to collect, nothing is deleted.
    GC_PLANNED = "gc.planned"
    #: The marker of an undecided contribution that had none is created again.
    GC_MARKED = "gc.marked"
    #: It is recorded that files will be deleted, they are still there.
    GC_RECORDED = "gc.recorded"
    #: The objects of one item are deleted.
    GC_DELETED = "gc.deleted"


_hook: Callable[[CrashPoint], None] | None = None


def reach(point: CrashPoint) -> None:
    """Say that a point is reached; what an installed hook raises goes to the caller."""
    if _hook is not None:
        _hook(point)


def install(hook: Callable[[CrashPoint], None] | None) -> None:
    """Call ``hook`` at every point from now on, in this process and those forked from it.

    For tests only. None takes it away.
    """
    global _hook
    _hook = hook
