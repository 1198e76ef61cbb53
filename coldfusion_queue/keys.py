"""Every object key and every Redis key, built in one place.

Object keys, all below ``<repository>/`` in one bucket; objects are immutable unless said::

    repository.json                                what this repository is
    datasets/<dataset_id>/dataset.json             commit point of an upload
    datasets/<dataset_id>/<split>.parquet          its data
    submissions/<submission_id>/submission.json    commit point of a submission
    submissions/<submission_id>/cancelled.json     no further turns are wanted
    submissions/<submission_id>/failed.json        it ended without all of its contributions
    open/<submission_id>                           marker, deleted: submission perhaps unfinished
    contributions/<contribution_id>/<attempt>/     shared.safetensors, head.safetensors
    contributions/<contribution_id>/contribution.json   commit point of a finetune
    contributions/<contribution_id>/decision.json  copy of what the ledger decided
    contributions/<contribution_id>/collected.json which of its files were collected as garbage
    inspections/<contribution_id>.json             what its files were found to be
    overrides/<contribution_id>.json               an operator lets it pass the policy's limits
    checkpoints/<contribution_id>/<attempt>/       checkpoint.safetensors, and checkpoint.json,
                                                   commit point; deleted with the turn's end
    heads/<contributor>/<task>/<base version>-<contribution_id>   marker, deleted when there is a
                                                   newer one: where the next submission's head is
    inbox/<contribution_id>                        marker, deleted: committed and perhaps undecided
    base/<version>-<attempt>/                      a directory that transformers loads
    base/<version>-<attempt>/collected.json        which of its files were collected as garbage
    fusions/<version>-<attempt>/plan.json          what a fusion that is shared out fuses; deleted
    fusions/<version>-<attempt>/<step>-<file>      with its end, as are the results of its pieces
    ledger/<sequence>.json                         commit point of every decision
    candidates/<sequence>.json                     deleted: a fused model that waits for the gate
    wanted/<evaluation_id>.json                    deleted: an evaluation that is not done yet
    evaluations/<base digest>/<dataset_id>/<kind>-<seed>-<digest>.json   what an evaluation found
    .probe-<token>                                 trial of conditional writes, deleted at once

Redis keys, none of which holds anything that cannot be rebuilt::

    coldfusion:<repository>:fusion-lock            string, expires: one fusion at a time
    coldfusion:<repository>:piece:<attempt>:<step>-<file>  string, expires: who does this piece
    coldfusion:<repository>:garbage-lock           string, expires: one collection at a time
    coldfusion:<repository>:turn:<contribution_id> string, expires: queued, put off, or who runs it
    coldfusion:<repository>:starts:<contribution_id>  integer, expires: starts without an ending
    coldfusion:<repository>:retries:<contribution_id> integer, expires: retries of a turn
    coldfusion:<repository>:missing:<contribution_id> string, expires: since when it is not queued
    coldfusion:<repository>:progress:<submission_id>  string, expires: JSON of the last report
    coldfusion:<repository>:sites                  set: sites that turns were sent to
    coldfusion:<repository>:stored                 string: JSON of bytes and objects of each room
    workers:<queue>                                sorted set, expires: when each of its workers,
                                                   ``<pool>/<name>``, said last that it is there
    coldfusion:pools                               set: pools that finetune workers are in
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["POOLS", "ROOMS", "ObjectKeys", "RedisKeys", "presence"]

#: Redis key of the pools that finetune workers are in; a pool serves all repositories.
POOLS = "coldfusion:pools"

#: First parts of object keys, below the repository's name.
ROOMS = frozenset(
    {
        *("base", "candidates", "checkpoints", "contributions", "datasets", "evaluations"),
        *("fusions", "heads", "inbox", "inspections", "ledger", "open", "overrides"),
        *("submissions", "wanted"),
    }
)


@dataclass(frozen=True)
class ObjectKeys:
    """Object keys of one repository."""

    repository: str

    @property
    def repository_record(self) -> str:
        """Key of the repository's own record."""
        return f"{self.repository}/repository.json"

    @property
    def datasets(self) -> str:
        """Prefix of all datasets."""
        return f"{self.repository}/datasets/"

    def dataset(self, dataset_id: str) -> str:
        """Key of a dataset's record."""
        return f"{self.datasets}{dataset_id}/dataset.json"

    def dataset_split(self, dataset_id: str, split: str) -> str:
        """Key of one split's Parquet file."""
        return f"{self.datasets}{dataset_id}/{split}.parquet"

    @property
    def submissions(self) -> str:
        """Prefix of all submissions."""
        return f"{self.repository}/submissions/"

    def submission(self, submission_id: str) -> str:
        """Key of a submission's record."""
        return f"{self.submissions}{submission_id}/submission.json"

    def cancellation(self, submission_id: str) -> str:
        """Key of the record that ends a submission by request."""
        return f"{self.submissions}{submission_id}/cancelled.json"

    def failure(self, submission_id: str) -> str:
        """Key of the record that ends a submission by failure."""
        return f"{self.submissions}{submission_id}/failed.json"

    @property
    def open_submissions(self) -> str:
        """Prefix of the markers of submissions that may have turns left."""
        return f"{self.repository}/open/"

    def open_submission(self, submission_id: str) -> str:
        """Key of a submission's marker."""
        return f"{self.open_submissions}{submission_id}"

    def contribution(self, contribution_id: str) -> str:
        """Key of a contribution's record."""
        return f"{self.contributions}{contribution_id}/contribution.json"

    def decision(self, contribution_id: str) -> str:
        """Key of the copy of a contribution's decision."""
        return f"{self.contributions}{contribution_id}/decision.json"

    def attempt_file(self, contribution_id: str, attempt: str, name: str) -> str:
        """Key of a file that one attempt at a contribution uploads."""
        return f"{self.contributions}{contribution_id}/{attempt}/{name}"

    @property
    def contributions(self) -> str:
        """Prefix of all contributions."""
        return f"{self.repository}/contributions/"

    # These two are no part of a contribution's folder, so that who may write contributions need
    # not be able to say that they are good.

    def inspection(self, contribution_id: str) -> str:
        """Key of what a contribution's files were found to be."""
        return f"{self.repository}/inspections/{contribution_id}.json"

    def override(self, contribution_id: str) -> str:
        """Key of an operator's word that a contribution may pass the policy's limits."""
        return f"{self.repository}/overrides/{contribution_id}.json"

    def contribution_collection(self, contribution_id: str) -> str:
        """Key of the record of a contribution's files that were collected as garbage."""
        return f"{self.contributions}{contribution_id}/collected.json"

    @property
    def all_checkpoints(self) -> str:
        """Prefix of the checkpoints of all turns."""
        return f"{self.repository}/checkpoints/"

    def checkpoints(self, contribution_id: str) -> str:
        """Prefix of the checkpoints of one turn."""
        return f"{self.all_checkpoints}{contribution_id}/"

    def checkpoint(self, contribution_id: str, attempt: str) -> str:
        """Key of a checkpoint's record."""
        return f"{self.checkpoints(contribution_id)}{attempt}/checkpoint.json"

    def checkpoint_file(self, contribution_id: str, attempt: str) -> str:
        """Key of a checkpoint's tensors."""
        return f"{self.checkpoints(contribution_id)}{attempt}/checkpoint.safetensors"

    @property
    def all_heads(self) -> str:
        """Prefix of the markers of heads."""
        return f"{self.repository}/heads/"

    def heads(self, contributor_id: str, task: str) -> str:
        """Prefix of the markers of heads that mean the same: of one contributor and task."""
        return f"{self.all_heads}{contributor_id}/{task}/"

    def head_marker(
        self, contributor_id: str, task: str, base_version: int, contribution_id: str
    ) -> str:
        """Key of a head's marker; the order of the keys is that of the base versions."""
        return f"{self.heads(contributor_id, task)}{base_version:08d}-{contribution_id}"

    @property
    def inbox(self) -> str:
        """Prefix of the markers of contributions that may be undecided."""
        return f"{self.repository}/inbox/"

    def inbox_marker(self, contribution_id: str) -> str:
        """Key of a contribution's marker."""
        return f"{self.inbox}{contribution_id}"

    @property
    def bases(self) -> str:
        """Prefix of all base versions and attempts at one."""
        return f"{self.repository}/base/"

    def base_prefix(self, version: int, attempt: str) -> str:
        """Prefix of a base version's directory, ending in ``/``."""
        return f"{self.bases}{version:06d}-{attempt}/"

    def base_collection(self, prefix: str) -> str:
        """Key of the record of a base version's files that were collected as garbage."""
        return f"{prefix}collected.json"

    @property
    def fusions(self) -> str:
        """Prefix of what workers who share a fusion tell each other."""
        return f"{self.repository}/fusions/"

    def fusion(self, attempt: str) -> str:
        """The same for one fusion, which is named as the directory that it makes."""
        return f"{self.fusions}{attempt}/"

    def fusion_plan(self, attempt: str) -> str:
        """Key of what is fused into what."""
        return f"{self.fusion(attempt)}plan.json"

    def fusion_result(self, attempt: str, step: int, file: int) -> str:
        """Key of what one step of a fusion gives for one of the base model's files."""
        return f"{self.fusion(attempt)}{step}-{file}"

    def ledger(self, sequence: int) -> str:
        """Key of a ledger entry."""
        return f"{self.repository}/ledger/{sequence:010d}.json"

    @property
    def candidates(self) -> str:
        """Prefix of what waits for the gate."""
        return f"{self.repository}/candidates/"

    def candidate(self, sequence: int) -> str:
        """Key of the fused model that the ledger entry of this number would publish."""
        return f"{self.candidates}{sequence:010d}.json"

    @property
    def wanted(self) -> str:
        """Prefix of the evaluations that are not done yet."""
        return f"{self.repository}/wanted/"

    def wanted_evaluation(self, evaluation_id: str) -> str:
        """Key of the request for an evaluation."""
        return f"{self.wanted}{evaluation_id}.json"

    @property
    def all_evaluations(self) -> str:
        """Prefix of what all evaluations found."""
        return f"{self.repository}/evaluations/"

    def evaluations(self, base_digest: str) -> str:
        """Prefix of what was found of one model, by the digest of its parameters."""
        return f"{self.all_evaluations}{base_digest[:32]}/"

    def evaluation(self, evaluation_id: str) -> str:
        """Key of what an evaluation found."""
        digest, dataset_id, name = evaluation_id.split(".", 2)
        return f"{self.all_evaluations}{digest}/{dataset_id}/{name}.json"


@dataclass(frozen=True)
class RedisKeys:
    """Redis keys of one repository."""

    repository: str

    @property
    def fusion_lock(self) -> str:
        """Lease of the running fusion."""
        return f"coldfusion:{self.repository}:fusion-lock"

    def piece(self, attempt: str, step: int, file: int) -> str:
        """Lease of a worker on a piece of a fusion."""
        return f"coldfusion:{self.repository}:piece:{attempt}:{step}-{file}"

    @property
    def garbage_lock(self) -> str:
        """Lease of the running collection of garbage."""
        return f"coldfusion:{self.repository}:garbage-lock"

    def turn(self, contribution_id: str) -> str:
        """Hint that a turn is queued, or the lease of the worker that runs it."""
        return f"coldfusion:{self.repository}:turn:{contribution_id}"

    def starts(self, contribution_id: str) -> str:
        """How often a turn was started since it last ended in order."""
        return f"coldfusion:{self.repository}:starts:{contribution_id}"

    def retries(self, contribution_id: str) -> str:
        """How often a turn was retried after an error that may pass."""
        return f"coldfusion:{self.repository}:retries:{contribution_id}"

    def missing(self, contribution_id: str) -> str:
        """Since when a turn is known to be neither queued nor running."""
        return f"coldfusion:{self.repository}:missing:{contribution_id}"

    def progress(self, submission_id: str) -> str:
        """Last progress report of a submission."""
        return f"coldfusion:{self.repository}:progress:{submission_id}"

    @property
    def sites(self) -> str:
        """Sites that turns were sent to, each of which has a queue of its own."""
        return f"coldfusion:{self.repository}:sites"

    @property
    def stored(self) -> str:
        """What lay in the bucket when garbage was collected last."""
        return f"coldfusion:{self.repository}:stored"


def presence(queue: str) -> str:
    """Redis key of who consumes a queue, and when each said so; workers serve all repositories."""
    return f"workers:{queue}"
