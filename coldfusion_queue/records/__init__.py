"""The records that are kept in the object store, as frozen pydantic models in JSON.

=================  ===============================================================================
``record``         the base of all records: frozen, strict, JSON in one canonical form
``datasets``       datasets
``submissions``    what contributors asked for, and what interrupted it
``contributions``  what was committed, what it was found to be, and what was decided about it
``base_versions``  base models: identity, files and lineage, and the plan of the next one
``policy``         when to fuse, what, and how
``gate``           what the gate found of a fused model, and what it tries
``ledger``         the repository as a whole: what it is, and what was decided in it
``evaluations``    what is measured of base models, and what came out
=================  ===============================================================================
"""

from __future__ import annotations

from coldfusion_queue.records.base_versions import (
    BaseVersion,
    FusedContribution,
    FusedFile,
    FusionPlan,
    ModelIdentity,
)
from coldfusion_queue.records.contributions import (
    Collection,
    Contribution,
    ContributionForm,
    Decision,
    Inspection,
    Outcome,
    Override,
    Rule,
)
from coldfusion_queue.records.datasets import DatasetRecord, Objective, SplitRecord
from coldfusion_queue.records.evaluations import (
    Evaluation,
    EvaluationKind,
    EvaluationRequest,
    EvaluationSpec,
)
from coldfusion_queue.records.gate import GateReport, Trial
from coldfusion_queue.records.ledger import (
    FORMAT_VERSION,
    Candidate,
    LedgerEntry,
    RepositoryRecord,
    State,
)
from coldfusion_queue.records.policy import Policy
from coldfusion_queue.records.record import FileRecord, Record
from coldfusion_queue.records.submissions import (
    Cancellation,
    Checkpoint,
    Failure,
    Hyperparameters,
    Metric,
    SiteData,
    Submission,
)

__all__ = [
    "FORMAT_VERSION",
    "BaseVersion",
    "Cancellation",
    "Candidate",
    "Checkpoint",
    "Collection",
    "Contribution",
    "ContributionForm",
    "DatasetRecord",
    "Decision",
    "Evaluation",
    "EvaluationKind",
    "EvaluationRequest",
    "EvaluationSpec",
    "Failure",
    "FileRecord",
    "FusedContribution",
    "FusedFile",
    "FusionPlan",
    "GateReport",
    "Hyperparameters",
    "Inspection",
    "LedgerEntry",
    "Metric",
    "ModelIdentity",
    "Objective",
    "Outcome",
    "Override",
    "Policy",
    "Record",
    "RepositoryRecord",
    "Rule",
    "SiteData",
    "SplitRecord",
    "State",
    "Submission",
    "Trial",
]
