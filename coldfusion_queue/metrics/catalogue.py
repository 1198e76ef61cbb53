"""Every metric, in the order of ``docs/metrics.md``: the one place where they are named.

Dashboards, alert rules and docs are held to this page by tests. All have the label ``repository``:
of a task, the repository that it is for; of a process, the one of its settings. ``site`` is empty
but for what belongs to a site, and ``pool`` but for workers in one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from coldfusion_queue.metrics.spec import Question, Source, Spec

__all__ = ["CATALOGUE"]

_TURN_SECONDS = (1, 5, 15, 60, 300, 900, 1800, 3600, 2 * 3600, 4 * 3600, 8 * 3600, 24 * 3600)
_FUSION_SECONDS = (0.1, 0.5, 1, 2, 5, 10, 30, 60, 300, 900, 3600)
_REQUEST_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

_QUEUES = "queue: finetune, evaluate, fusion, `finetune.<site>`"
_TASKS = "task: finetune, evaluate"


@dataclass(frozen=True)
class _Section:
    """Metrics that answer one question, most of them served by one kind of process."""

    question: Question
    source: Source

    def gauge(self, name: str, text: str, **more: Any) -> Spec:
        """What goes up and down."""
        return self._spec("gauge", name, text, **more)

    def counter(self, name: str, text: str, **more: Any) -> Spec:
        """What only grows; it is exposed with ``_total``."""
        return self._spec("counter", name, text, **more)

    def histogram(self, name: str, text: str, **more: Any) -> Spec:
        """How what is observed is distributed."""
        return self._spec("histogram", name, text, **more)

    def _spec(self, kind: Any, name: str, text: str, **more: Any) -> Spec:
        labels = ("repository", *more.pop("labels", ()))
        source = more.pop("source", self.source)
        return Spec(name, kind, text, labels, source, self.question, **more)


# --- is the base getting better? ------------------------------------------------------------------

_better = _Section("Is the base getting better?", "exporter")

BASE_VERSION = _better.gauge("coldfusion_base_version", "Newest published base version.")
BASE_VERSION_AGE = _better.gauge(
    "coldfusion_base_version_age_seconds",
    "Time since the newest base version was published, by the store's clock.",
)
QUALITY = _better.gauge(
    "coldfusion_quality_score",
    "Mean score over seeds of the newest base version that was evaluated on a dataset.",
    labels=("dataset", "name", "kind"),
    values="dataset: id; name: who contributed from it first, the id's first 8 digits, or both; "
    "kind: frozen, finetuned, few_shot; at most 50 datasets",
)
QUALITY_VERSION = _better.gauge(
    "coldfusion_quality_base_version",
    "Base version that the quality score is of.",
    labels=("dataset", "name", "kind"),
)
GATE_SCORE = _better.gauge(
    "coldfusion_gate_score",
    "Score of the published base version by the gate; none if it was published without.",
    labels=("dataset", "name"),
)
GATE_VERDICTS = _better.counter(
    "coldfusion_gate_verdicts",
    "Fused models that the gate judged, counted from the ledger.",
    labels=("verdict",),
    values="verdict: published, withheld",
)
ROLLBACKS = _better.counter(
    "coldfusion_rollbacks", "Base versions that restored an older one, counted from the ledger."
)
CONTRIBUTOR_SHARE = _better.gauge(
    "coldfusion_contributor_share",
    "Share of the coefficients of the last 16 fusions, by contributor; together they are 1.",
    labels=("contributor",),
    values="the 20 largest, the others together as `(others)`",
)

# --- is anything stuck? ---------------------------------------------------------------------------

_stuck = _Section("Is anything stuck?", "exporter")

UP = _stuck.gauge(
    "coldfusion_up",
    "Whether the exporter could read both store and broker; what it could not is absent.",
)
BUILD = _stuck.gauge(
    "coldfusion_build_info", "Always 1; its label is the program's version.", labels=("version",)
)
LEDGER_SEQUENCE = _stuck.gauge(
    "coldfusion_ledger_sequence", "Sequence number of the newest ledger entry."
)
PENDING = _stuck.gauge(
    "coldfusion_pending_contributions",
    "Markers in the inbox; may count a few that are decided or not committed.",
)
PENDING_AGE = _stuck.gauge(
    "coldfusion_oldest_pending_age_seconds",
    "Time since the oldest marker in the inbox was made, by the store's clock; 0 without any.",
)
POLICY_MIN_CONTRIBUTIONS = _stuck.gauge(
    "coldfusion_policy_min_contributions",
    "Pending contributions that make a fusion worth running, by the policy.",
)
POLICY_MAX_WAIT = _stuck.gauge(
    "coldfusion_policy_max_wait_seconds", "Seconds after which fewer are fused, by the policy."
)
OPEN_SUBMISSIONS = _stuck.gauge(
    "coldfusion_open_submissions", "Submissions that may have turns left."
)
WANTED_EVALUATIONS = _stuck.gauge(
    "coldfusion_wanted_evaluations", "Evaluations that are asked for and not done."
)
CANDIDATE_WAITING = _stuck.gauge(
    "coldfusion_candidate_waiting", "1 while a fused model waits for the gate."
)
QUEUE_LENGTH = _stuck.gauge(
    "coldfusion_queue_length",
    "Messages that wait in a queue of the broker, of all repositories.",
    labels=("queue", "site"),
    values=_QUEUES,
)
QUEUE_AGE = _stuck.gauge(
    "coldfusion_queue_oldest_age_seconds",
    "Time since the oldest message that waits was sent, by the clocks of sender and exporter;"
    " 0 without any.",
    labels=("queue", "site"),
    values=_QUEUES,
)
TAKEN_TASKS = _stuck.gauge(
    "coldfusion_taken_tasks",
    "Messages that workers took and have not acknowledged: tasks that run, and turns that are"
    " prepared meanwhile.",
    labels=("queue", "site", "pool"),
    values=_QUEUES,
)
POOL_WORK = _stuck.gauge(
    "coldfusion_pool_work",
    "Messages that wait in a pool's queue, and those that its workers have: pools scale by it.",
    labels=("queue", "site", "pool"),
    values="queue: finetune, `finetune.<site>`",
    not_shown=(
        "it is the sum of `coldfusion_queue_length` and `coldfusion_taken_tasks`, for autoscalers"
    ),
)
LEASES = _stuck.gauge(
    "coldfusion_leases",
    "Leases that workers hold on turns and evaluations of this repository.",
    labels=("task",),
    values=_TASKS,
)
WORKERS = _stuck.gauge(
    "coldfusion_workers",
    "Workers that said within the lease that they are there.",
    labels=("queue", "site", "pool"),
    values=_QUEUES,
)
LOST_WORKERS = _stuck.gauge(
    "coldfusion_lost_workers",
    "Workers that fell silent within the last hour without saying that they stop.",
    labels=("queue", "site", "pool"),
    values=_QUEUES,
)
REQUEUES = _stuck.counter(
    "coldfusion_requeues",
    "Turns and evaluations that are put on their queue once more, by the reason.",
    labels=("site", "task", "reason"),
    values=(
        "task: finetune, evaluate; reason: interrupted, passed_on, retried, worker_lost, missing"
    ),
    source="workers",
)
BEAT_MESSAGES = _stuck.counter(
    "coldfusion_beat_messages",
    "Messages that beat sent, and those that it passed over because too many wait.",
    labels=("task", "outcome"),
    values="task: fuse, reconcile, collect_garbage; outcome: sent, passed_over",
    source="beat",
)

# --- who is slow? ---------------------------------------------------------------------------------

_slow = _Section("Who is slow?", "finetune worker")

FINETUNE_DURATION = _slow.histogram(
    "coldfusion_finetune_duration_seconds",
    "Wall time of one finetune, downloads and upload included.",
    labels=("site",),
    buckets=_TURN_SECONDS,
)
TURN_STARTED = _slow.gauge(
    "coldfusion_turn_started_timestamp_seconds",
    "When the turn that trains now got the device; 0 if none trains.",
    labels=("site",),
)
TURN_REPORTED = _slow.gauge(
    "coldfusion_turn_reported_timestamp_seconds",
    "When a training reported its progress last.",
    labels=("site",),
)
TURN_PROGRESS = _slow.gauge(
    "coldfusion_turn_progress_ratio",
    "Steps done of the turn that reported last, of all of its steps.",
    labels=("site",),
)
STALENESS = _slow.histogram(
    "coldfusion_fused_staleness_versions",
    "Staleness of fused contributions in base versions, counted from the ledger.",
    buckets=(0, 1, 2, 3, 5, 8, 13, 21),
    source="exporter",
)
RESUMES = _slow.counter(
    "coldfusion_resumes", "Turns that went on from a checkpoint.", labels=("site",)
)

# --- what is refused, and why? --------------------------------------------------------------------

_refused = _Section("What is refused, and why?", "exporter")

CONTRIBUTIONS = _refused.counter(
    "coldfusion_contributions",
    "Contributions that were decided, counted from the ledger.",
    labels=("outcome", "rule"),
    values=(
        "outcome: fused, refused, expired; rule: what it was refused for, see "
        "[fusion.md](fusion.md#what-may-be-fused), or empty"
    ),
)
OVERRIDES = _refused.counter(
    "coldfusion_overrides",
    "Contributions that were fused although they exceed a limit, counted from the ledger.",
)
RELATIVE_NORM = _refused.histogram(
    "coldfusion_update_relative_norm",
    "Norm of decided contributions' deltas, as a multiple of the base model's norm.",
    labels=("outcome",),
    values="outcome: fused, refused",
    buckets=(0.001, 0.003, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 10),
)
COSINE = _refused.histogram(
    "coldfusion_update_cosine",
    "Cosine of decided contributions' deltas to the mean direction of the others'.",
    labels=("outcome",),
    values="outcome: fused, refused",
    buckets=(-0.5, -0.25, -0.1, 0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1),
)
FINETUNES = _refused.counter(
    "coldfusion_finetunes",
    "Finetunes that ended.",
    labels=("site", "outcome"),
    values=(
        "outcome: committed, duplicate, retried, failed, cancelled, interrupted, superseded, killed"
    ),
    source="finetune worker",
)
EVALUATIONS = _refused.counter(
    "coldfusion_evaluations",
    "Evaluations that ended.",
    labels=("outcome",),
    values="outcome: recorded, duplicate, failed, interrupted, retried, dropped",
    source="evaluation worker",
)

# --- are the gpus busy? ---------------------------------------------------------------------------

_busy = _Section("Are the GPUs busy?", "finetune worker")

DEVICE_BUSY = _busy.counter(
    "coldfusion_device_busy_seconds",
    "Seconds for which turns had the worker's device.",
    labels=("site",),
)
DEVICE_IDLE = _busy.counter(
    "coldfusion_device_idle_seconds",
    "Seconds for which no turn had the worker's device.",
    labels=("site",),
)
TRAINED_EXAMPLES = _busy.counter(
    "coldfusion_trained_examples",
    "Examples that finetunes trained on, all epochs counted.",
    labels=("site",),
)
TRAINED_TOKENS = _busy.counter(
    "coldfusion_trained_tokens", "Tokens of those examples, padding not counted.", labels=("site",)
)
LOSS = _busy.gauge(
    "coldfusion_finetune_loss", "Mean training loss of the last report.", labels=("site",)
)
MEMORY = _busy.gauge(
    "coldfusion_finetune_memory_bytes",
    "Peak memory of the last finetune: of the GPU, or on a CPU of the process.",
    labels=("site",),
)
EVALUATION_DURATION = _busy.histogram(
    "coldfusion_evaluation_duration_seconds",
    "Wall time of one evaluation, downloads included.",
    labels=("kind",),
    values="kind: frozen, finetuned, few_shot",
    buckets=_TURN_SECONDS,
    source="evaluation worker",
)

# --- what does an iteration cost? -----------------------------------------------------------------

_cost = _Section("What does an iteration cost?", "fusion worker")

FUSIONS = _cost.counter(
    "coldfusion_fusions",
    "Fusions that were due and began, by how they ended; judging a candidate is none.",
    labels=("outcome",),
    values="outcome: committed, candidate, lost, failed",
)
FUSION_DURATION = _cost.histogram(
    "coldfusion_fusion_duration_seconds",
    "Wall time of a fusion that appended to the ledger or made a candidate.",
    buckets=_FUSION_SECONDS,
)
FUSION_PHASE = _cost.histogram(
    "coldfusion_fusion_phase_seconds",
    "Wall time of such a fusion's parts, which add up to it: what overlaps is counted where "
    "it held the others up.",
    labels=("phase",),
    values="phase: admit, read, compute, write, publish",
    buckets=_FUSION_SECONDS,
)
FUSION_READ = _cost.counter(
    "coldfusion_fusion_read_bytes",
    "Bytes of contributions, base models and momentum that fusions read, to inspect and to fuse.",
)
FUSION_WRITTEN = _cost.counter(
    "coldfusion_fusion_written_bytes",
    "Bytes of base models and momentum that fusions wrote, when a file is complete.",
)
STORED_BYTES = _cost.gauge(
    "coldfusion_stored_bytes",
    "Bytes of the repository in the bucket, when garbage was collected last.",
    labels=("room",),
    values="room: first part of the keys, such as contributions or base",
    source="exporter",
)
STORED_OBJECTS = _cost.gauge(
    "coldfusion_stored_objects",
    "Objects of the repository in the bucket, when garbage was collected last.",
    labels=("room",),
    source="exporter",
)
COLLECTED_BYTES = _cost.counter(
    "coldfusion_collected_bytes", "Bytes that were collected as garbage."
)

# --- do store and broker answer? ------------------------------------------------------------------

_answers = _Section("Do store and broker answer?", "all")

STORE_DURATION = _answers.histogram(
    "coldfusion_store_request_duration_seconds",
    "Time until the store answered a request, retries included; not that of reading an object.",
    labels=("operation",),
    values="operation: read, look_up, list, create, write, upload, delete",
    buckets=_REQUEST_SECONDS,
)
STORE_ERRORS = _answers.counter(
    "coldfusion_store_errors",
    "Requests that the store did not answer, or refused, after all retries.",
    labels=("operation", "reason"),
    values="operation as above; reason: unreachable, denied, failed",
)
STORE_RETRIES = _answers.counter(
    "coldfusion_store_retries",
    "Requests to the store that were tried once more.",
    labels=("operation",),
    values="operation as above",
)
STORE_READ = _answers.counter(
    "coldfusion_store_read_bytes",
    "Bytes that the store sent: down.",
    labels=("operation",),
    values="operation as above",
)
STORE_WRITTEN = _answers.counter(
    "coldfusion_store_written_bytes",
    "Bytes that were sent to the store: up.",
    labels=("operation",),
    values="operation as above",
)
BROKER_DURATION = _answers.histogram(
    "coldfusion_broker_request_duration_seconds",
    "Time until the broker answered a request; those of Celery itself are not counted.",
    buckets=_REQUEST_SECONDS,
)
BROKER_ERRORS = _answers.counter(
    "coldfusion_broker_errors",
    "Requests that the broker did not answer, or refused; those of Celery itself are not counted.",
    labels=("reason",),
    values="reason: unreachable, denied, failed",
)

#: All of them, by their order above.
CATALOGUE = tuple(item for item in list(globals().values()) if isinstance(item, Spec))
