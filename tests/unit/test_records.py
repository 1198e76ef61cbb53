"""Records: one canonical JSON, nothing unknown, nothing changed."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import get_args

import pytest
from pydantic import ValidationError

from coldfusion_queue import records
from coldfusion_queue.errors import InvalidRecordError
from coldfusion_queue.fusion.methods import METHODS
from coldfusion_queue.records import (
    FORMAT_VERSION,
    BaseVersion,
    Cancellation,
    Candidate,
    Checkpoint,
    Collection,
    Contribution,
    DatasetRecord,
    Decision,
    Evaluation,
    EvaluationRequest,
    EvaluationSpec,
    Failure,
    FileRecord,
    FusedContribution,
    FusedFile,
    FusionPlan,
    GateReport,
    Hyperparameters,
    Inspection,
    LedgerEntry,
    ModelIdentity,
    Objective,
    Outcome,
    Override,
    Policy,
    Record,
    RepositoryRecord,
    SiteData,
    SplitRecord,
    State,
    Submission,
    Trial,
)

NOW = datetime(2026, 11, 22, 18, 30, 0, 123456, tzinfo=UTC)
FILE = FileRecord(key="r/base/000001-ab/model.safetensors", digest="0f" * 32, num_bytes=12)
SPLIT = SplitRecord(file=FILE, num_examples=3)
FUSED = FusedContribution(
    contribution_id="s.t00001",
    contributor_id="wordnet",
    dataset_id=None,
    base_version=0,
    staleness=1,
    coefficient=0.1 + 0.2,
)
BASE = BaseVersion(
    version=1,
    prefix="r/base/000001-ab/",
    files={"model.safetensors": FILE},
    parent=0,
    method="mean",
    method_options={"clip_factor": 1.5, "clip_iterations": 3},
    server_learning_rate=1.0,
    fused=(FUSED,),
    state={"without_momentum.safetensors": FILE},
)
DECISION = Decision(
    contribution_id="s.t00001",
    outcome=Outcome.FUSED,
    reason="ünïcode",
    sequence=1,
    version=1,
    numbers={"staleness": 1, "coefficient": 1 / 3},
)
GATE = GateReport(
    scores={"d": 0.1 + 0.2},
    reference={"d": 0.5},
    mean=0.1 + 0.2,
    reference_mean=0.5,
    best_mean=0.6,
    best_version=3,
    floor=0.58,
)
TRIAL = Trial(
    members=("s.t00001", "t.t00001"),
    suspects=("t.t00001",),
    withheld_mean=0.3,
    means={"t.t00001": 1 / 3},
    num_trials=1,
)
SPEC = EvaluationSpec(dataset_id="d", kind="few_shot", seed=2, num_shots=100)
ENTRY = LedgerEntry(
    sequence=1,
    token="ab",
    created_at=NOW,
    actor="host:1 0.1.0",
    published=None,
    decisions=(DECISION,),
    policy=None,
    gate=GATE,
    withheld=BASE,
    note="",
    after=State(base=BASE, policy=Policy(gate_datasets=("d",)), gate=GATE, trial=TRIAL),
)
EXAMPLES: list[Record] = [
    GATE,
    TRIAL,
    SPEC,
    ENTRY,
    Candidate(entry=ENTRY, suspects=("s.t00001",), suspect=None),
    EvaluationRequest(spec=SPEC, base=BASE, requested_at=NOW, requested_by="0.1.0"),
    Evaluation(
        spec=SPEC,
        base_version=1,
        base_digest="0f" * 32,
        scored_on="test",
        metric="accuracy",
        score=1 / 3,
        interval=(0.3, 0.4),
        num_train=100,
        num_scored=1000,
        seconds=1.5,
        created_at=NOW,
        created_by="0.1.0",
    ),
    FILE,
    FusedFile(model=FILE, state=FILE),
    FusionPlan(
        sequence=3,
        prefix="r/base/000001-ab/",
        coefficients={"s.t00001": 0.1 + 0.2},
        method="dare",
        method_options={"dare_drop": 0.9},
    ),
    SPLIT,
    FUSED,
    BASE,
    DECISION,
    DatasetRecord(
        dataset_id="d",
        objective=Objective.CLASSIFICATION,
        is_pair=False,
        labels=("no", "yes"),
        splits={"train": SPLIT},
    ),
    Hyperparameters(),
    Submission(
        submission_id="s",
        contributor_id="wordnet",
        kind="finetune",
        dataset_id="d",
        turns=None,
        hyperparameters=Hyperparameters(max_examples=7),
        created_at=NOW,
        created_by="0.1.0",
    ),
    SiteData(site="hospital-a", path="2024/notes"),
    Submission(
        submission_id="s",
        contributor_id="wordnet",
        kind="finetune",
        dataset_id=None,
        turns=1,
        hyperparameters=Hyperparameters(),
        created_at=NOW,
        created_by="0.1.0",
        site_data=SiteData(site="a", path="notes.csv", text="t", objective="regression"),
    ),
    Cancellation(submission_id="s", created_at=NOW),
    Failure(submission_id="s", turn=2, error="TrainingFailedError", reason="no", created_at=NOW),
    Contribution(
        contribution_id="s.t00001",
        submission_id="s",
        contributor_id="wordnet",
        dataset_id="d",
        turn=1,
        attempt="ab",
        base_version=0,
        base_digest="0f" * 32,
        form="delta",
        shared=FILE,
        head=None,
        num_examples=3,
        metrics={"accuracy": 0.5},
        created_at=NOW,
        created_by="0.1.0",
    ),
    Checkpoint(
        contribution_id="s.t00001",
        attempt="ab",
        base_version=0,
        base_digest="0f" * 32,
        step=7,
        num_steps=30,
        file=FILE,
        created_at=NOW,
        created_by="0.1.0",
    ),
    Inspection(
        contribution_id="s.t00001",
        digest="0f" * 32,
        stamp="ab 1",
        norm=0.1 + 0.2,
        base_digest="0e" * 32,
        base_norm=3.0,
        sketch="AAAA",
        created_at=NOW,
        created_by="0.1.0",
    ),
    Override(
        contribution_id="s.t00002",
        reason="trusted",
        refused_id="s.t00001",
        created_at=NOW,
        created_by="0.1.0",
    ),
    Collection(keys=(FILE.key,), reason="no", created_at=NOW, created_by="0.1.0"),
    Policy(),
    RepositoryRecord(
        format_version=FORMAT_VERSION,
        name="r",
        identity=ModelIdentity(
            model_type="bert", hub_id="x/y", tokenizer_digest=None, num_parameters=5
        ),
        created_at=NOW,
        created_by="0.1.0",
    ),
    LedgerEntry(
        sequence=1,
        token="ab",
        created_at=NOW,
        actor="host:1 0.1.0",
        published=BASE,
        decisions=(DECISION,),
        policy=None,
        note="",
        after=State(base=BASE, policy=Policy()),
    ),
]
IDS = [type(example).__name__ for example in EXAMPLES]


def test_the_examples_are_all_the_records() -> None:
    shown = {type(example) for example in EXAMPLES} | {State, ModelIdentity}
    ours = [
        each for each in Record.__subclasses__() if each.__module__.startswith(records.__name__)
    ]
    assert set(ours) == shown


@pytest.mark.parametrize("record", EXAMPLES, ids=IDS)
def test_round_trip_is_exact_and_canonical(record: Record) -> None:
    data = record.to_bytes()
    again = type(record).from_bytes(data, "key")
    assert again == record
    assert again.to_bytes() == data
    # The same by another writer, whose JSON has another order and other spaces.
    plain = json.loads(data)
    shuffled = json.dumps(dict(reversed(plain.items())), indent=4).encode()
    assert type(record).from_bytes(shuffled, "key").to_bytes() == data
    assert list(plain) == sorted(plain)
    assert data.endswith(b"}\n")


def test_text_is_kept_as_utf_8() -> None:
    assert "ünïcode".encode() in DECISION.to_bytes()


@pytest.mark.parametrize("record", EXAMPLES, ids=IDS)
def test_unknown_field_is_refused(record: Record) -> None:
    data = json.dumps({**json.loads(record.to_bytes()), "newer": 1}).encode()
    name = type(record).__name__
    with pytest.raises(InvalidRecordError, match=rf"^r/key: not a {name} record \(newer: "):
        type(record).from_bytes(data, "r/key")


@pytest.mark.parametrize("record", EXAMPLES, ids=IDS)
def test_records_are_frozen(record: Record) -> None:
    name = next(iter(type(record).model_fields))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(record, name, getattr(record, name))


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        pytest.param(b"", "EOF", id="empty"),
        pytest.param(b"{", "EOF", id="cut-off"),
        pytest.param(b"\xff\xfe", "Invalid JSON", id="not-utf-8"),
        pytest.param(b"[]", "object", id="not-an-object"),
        pytest.param(b'{"key": "k", "num_bytes": 1}', "digest: Field required", id="missing"),
        pytest.param(
            b'{"key": "k", "num_bytes": -1, "digest": "%s"}' % (b"0" * 64),
            "num_bytes: ",
            id="negative",
        ),
        pytest.param(
            b'{"key": "k", "num_bytes": 1, "digest": "%s"}' % (b"A" * 64),
            "digest: ",
            id="upper-case-digest",
        ),
    ],
)
def test_bytes_that_are_no_record_are_named(data: bytes, problem: str) -> None:
    with pytest.raises(InvalidRecordError) as caught:
        FileRecord.from_bytes(data, "r/key")
    assert caught.value.name == "r/key"
    assert caught.value.record == "FileRecord"
    assert problem in caught.value.problem


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_none_survive(value: float) -> None:
    # A norm that overflowed is the very thing that a refusal has to record.
    decision = DECISION.model_copy(update={"numbers": {"norm": value}})
    again = Decision.from_bytes(decision.to_bytes(), "key")
    assert repr(again.numbers["norm"]) == repr(value)


def test_base_version_knows_its_parameters() -> None:
    assert BASE.model_files == (FILE,)
    assert BASE.digest == "0f" * 32


def test_a_sharded_version_has_its_shards_in_order_and_one_digest_over_theirs() -> None:
    names = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    shards = {
        name: FileRecord(key=f"r/{name}", digest=f"{number}" * 64, num_bytes=1)
        for number, name in enumerate(names)
    }
    others = dict.fromkeys(("config.json", "model.safetensors.index.json"), FILE)
    files = {**dict(reversed(shards.items())), **others}
    base = BASE.model_copy(update={"files": files})

    assert base.model_names == tuple(names)
    assert base.model_files == tuple(shards.values())
    lines = "\n".join(["0" * 64, "1" * 64, "2" * 64])
    assert base.digest == hashlib.sha256(lines.encode()).hexdigest()
    assert base.state_name(names[1]) == "without_momentum-00002-of-00003.safetensors"
    other = {names[2]: files[names[2]].model_copy(update={"digest": "4" * 64})}
    assert base.model_copy(update={"files": files | other}).digest != base.digest


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("learning_rate", 0),
        ("warmup_fraction", 1),
        ("epochs", 0),
        ("seed", 2**32),
        ("pooling", "max"),
        ("dropout", 1.0),
    ],
)
def test_hyperparameters_out_of_range_are_refused(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        Hyperparameters.model_validate({field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("method", "mode"),
        ("trim_fraction", 0.5),
        ("trim_fraction", -0.1),
        ("task_arithmetic_scale", 0.0),
        ("clip_factor", 0.0),
        ("clip_factor", float("inf")),
        ("clip_iterations", 0),
        ("ties_density", 0.0),
        ("ties_density", 1.1),
        ("ties_scale", 0.0),
        ("dare_drop", 1.0),
        ("dare_drop", -0.1),
        ("momentum", 1.0),
        ("momentum", -0.1),
    ],
)
def test_policies_out_of_range_are_refused(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        Policy.model_validate({field: value})


def test_a_policy_from_before_there_were_several_methods_is_read() -> None:
    old = Policy().model_dump(mode="json")
    del old["trim_fraction"], old["task_arithmetic_scale"], old["clip_factor"], old["dare_drop"]

    assert Policy.from_bytes(json.dumps(old).encode(), "policy") == Policy()


def test_a_submission_from_before_there_were_sites_is_read() -> None:
    new = next(item for item in EXAMPLES if isinstance(item, Submission))
    old = new.model_dump(mode="json")
    del old["site_data"]

    assert Submission.from_bytes(json.dumps(old).encode(), "submission") == new
    assert new.site is None


def test_a_contribution_that_nothing_traced_is_written_as_before_there_were_traces() -> None:
    untraced = next(item for item in EXAMPLES if isinstance(item, Contribution))
    parent = f"00-{'1f' * 16}-{'2e' * 8}-01"
    traced = untraced.model_copy(update={"traceparent": parent})

    assert untraced.traceparent is None
    assert b"traceparent" not in untraced.to_bytes()
    assert Contribution.from_bytes(untraced.to_bytes(), "key") == untraced
    assert Contribution.from_bytes(traced.to_bytes(), "key").traceparent == parent


@pytest.mark.parametrize("site", ["", "A", "a.b", "a/b", "a b", "-a", "a-", "x" * 64])
def test_a_submission_of_a_site_that_makes_no_queue_is_unreadable(site: str) -> None:
    data = json.dumps({"site": site, "path": "notes.csv"}).encode()

    with pytest.raises(InvalidRecordError, match="site: "):
        SiteData.from_bytes(data, "key")


def test_every_method_of_a_policy_is_one_that_there_is() -> None:
    assert get_args(Policy.model_fields["method"].annotation) == tuple(METHODS)


def test_defaults_are_those_of_the_paper() -> None:
    defaults = Hyperparameters()
    assert (defaults.learning_rate, defaults.batch_size, defaults.epochs) == (5e-5, 256, 10)
    assert Policy().min_contributions == 8
    assert Policy().server_learning_rate == 1.0
    assert Policy().method == "mean"
