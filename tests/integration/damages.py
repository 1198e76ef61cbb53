"""Every way to damage a healthy repository, and the check that must see it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from coldfusion_queue.audit import Check
from coldfusion_queue.records import EvaluationRequest, EvaluationSpec
from tests.integration.audited import ATTEMPT, DATASET, NOW, Bench, cancellation

Damage = Callable[[Bench], None]

OTHER = "f" * 64
STATE = r"base/000003-\w+/without_momentum\.safetensors"


@dataclass(frozen=True)
class Case:
    """One damage."""

    name: str
    check: Check
    """The check that must see it."""
    damage: Damage
    also: Check | None = None
    """Another that cannot but see it too."""


EVALUATION = r"evaluations/.*\.json"


def old_candidate(bench: Bench) -> None:
    found = bench.read("candidates/0000000006.json")
    found["entry"]["sequence"] = 2
    bench.put("candidates/0000000002.json", json.dumps(found).encode())


def request_again(bench: Bench) -> None:
    """Ask for the evaluation that is recorded, as a death right after the record leaves it."""
    found = bench.read(EVALUATION)
    request = EvaluationRequest(
        spec=EvaluationSpec.model_validate(found["spec"]),
        base=bench.repository.ledger.base_version(2),
        requested_at=NOW,
        requested_by="test",
    )
    bench.store.put(bench.keys.wanted_evaluation(request.evaluation_id), request.to_bytes())


def entry(number: int, /, **changes: Any) -> Damage:
    """Change fields of a ledger entry."""
    return lambda bench: bench.edit_entry(number, lambda found: found.update(changes))


def record(pattern: str, /, **changes: Any) -> Damage:
    """Change fields of a record."""
    return lambda bench: bench.edit(pattern, lambda found: found.update(changes))


def published(sequence: int, change: Callable[[Any], None]) -> Damage:
    """Change a published version wherever it is written, so that the copies still agree."""

    def damage(bench: Bench) -> None:
        prefix = bench.read(f"ledger/{sequence:010d}.json")["published"]["prefix"]
        bench.edit_entry(sequence, lambda found: change(found["published"]))
        for number in range(sequence, 6):
            bench.edit_entry(
                number,
                lambda found: (
                    change(found["after"]["base"])
                    if found["after"]["base"]["prefix"] == prefix
                    else None
                ),
            )
        bench.edit(f"{prefix.partition('/')[2]}lineage.json", change)

    return damage


def decision(number: int, name: str, /, **changes: Any) -> Damage:
    """Change a decision in the ledger and in its copy."""

    def damage(bench: Bench) -> None:
        def change(found: Any) -> None:
            for item in found["decisions"]:
                if item["contribution_id"] == name:
                    item.update(changes)

        bench.edit_entry(number, change)
        copies = f"contributions/{name}/decision.json"
        if bench.store.stat(bench.keys.decision(name)) is not None:
            bench.edit(copies, lambda found: found.update(changes))

    return damage


def numbers(number: int, name: str, /, **changes: Any) -> Damage:
    """Change numbers of a decision in the ledger and in its copy; None takes one away."""

    def damage(bench: Bench) -> None:
        found = next(
            item
            for item in bench.read(f"ledger/{number:010d}.json")["decisions"]
            if item["contribution_id"] == name
        )
        changed = {**found["numbers"], **changes}
        kept = {key: value for key, value in changed.items() if value is not None}
        decision(number, name, numbers=kept)(bench)

    return damage


def put(path: str, data: bytes = b"x") -> Damage:
    return lambda bench: bench.put(path, data)


def delete(pattern: str) -> Damage:
    return lambda bench: bench.delete(pattern)


def garble(pattern: str) -> Damage:
    return lambda bench: bench.garble(pattern)


def flip(pattern: str) -> Damage:
    return lambda bench: bench.flip(pattern)


def shorten(pattern: str) -> Damage:
    return lambda bench: bench.store.put(bench.key(pattern), b"short")


def twice_in_one_entry(bench: Bench) -> None:
    bench.edit_entry(4, lambda found: found["decisions"].append(found["decisions"][0]))


def twice_in_two_entries(bench: Bench) -> None:
    again = bench.read("ledger/0000000004.json")["decisions"][0] | {"sequence": 5}
    bench.edit_entry(5, lambda found: found["decisions"].append(again))


def fuse_twice(bench: Bench) -> None:
    """Version 3's lineage also has alice's turn 1, which is in version 1's."""
    lines = bench.read("ledger/0000000001.json")["published"]["fused"]
    old = lines[0] | {"coefficient": 0.0, "staleness": 2}
    choice = bench.read("ledger/0000000001.json")["decisions"][0]
    changed = choice["numbers"] | {"coefficient": 0.0, "staleness": 2}
    choice |= {"sequence": 5, "version": 3, "numbers": changed}
    published(5, lambda version: version["fused"].append(old))(bench)
    bench.edit_entry(5, lambda found: found["decisions"].append(choice))


def drop_decision(bench: Bench) -> None:
    """dave is in version 3's lineage, but nothing says that he was fused."""
    bench.edit_entry(
        5,
        lambda found: found.update(
            decisions=[
                item for item in found["decisions"] if item["contribution_id"] != "dave.t00001"
            ]
        ),
    )
    bench.delete(r"contributions/dave\.t00001/decision\.json")
    bench.put("inbox/dave.t00001")


def drop_line(bench: Bench) -> None:
    """dave was decided as fused, but is in no lineage; carol takes all of the step."""

    def change(version: Any) -> None:
        version["fused"] = [
            line | {"coefficient": 1.0}
            for line in version["fused"]
            if line["contributor_id"] == "carol"
        ]

    published(5, change)(bench)
    numbers(5, "carol.t00001", coefficient=1.0)(bench)


def change_line(**changes: Any) -> Damage:
    """Change carol's line in version 3's lineage."""

    def change(version: Any) -> None:
        version["fused"][0].update(changes)

    return published(5, change)


def scale(factor: float) -> Damage:
    """Change all coefficients of version 3."""

    def damage(bench: Bench) -> None:
        fused = bench.read("ledger/0000000005.json")["published"]["fused"]
        scaled = [line | {"coefficient": factor * line["coefficient"]} for line in fused]
        published(5, lambda version: version.update(fused=scaled))(bench)
        for line in scaled:
            numbers(5, line["contribution_id"], coefficient=line["coefficient"])(bench)

    return damage


def reuse_directory(bench: Bench) -> None:
    """Version 3 has version 2's directory; the objects of its own are taken away."""
    before = bench.read("ledger/0000000002.json")["published"]
    own = bench.read("ledger/0000000005.json")["published"]["prefix"]
    bench.store.delete([item.key for item in bench.store.list(own)])

    def change(found: Any) -> None:
        for version in (found["published"], found["after"]["base"]):
            version.update(prefix=before["prefix"], files=before["files"], state=None)

    bench.edit_entry(5, change)
    pending = {"base_digest": before["files"]["model.safetensors"]["digest"]}
    record("contributions/eve.t00001/contribution.json", **pending)(bench)


def elsewhere(bench: Bench) -> None:
    """A file of version 3 lies in version 2's directory."""
    file = bench.read("ledger/0000000002.json")["published"]["files"]["config.json"]
    bench.delete(r"base/000003-\w+/config\.json")
    published(5, lambda version: version["files"].update({"config.json": file}))(bench)


def state_elsewhere(bench: Bench) -> None:
    """Version 3's state lies in version 2's directory."""
    model = bench.read("ledger/0000000002.json")["published"]["files"]["model.safetensors"]
    bench.delete(STATE)
    published(5, lambda version: version.update(state={"without_momentum.safetensors": model}))(
        bench
    )


def collect_version(version: int) -> Damage:
    def damage(bench: Bench) -> None:
        base = bench.repository.ledger.base_version(version)
        bench.collect(base.prefix, *(file.key for file in base.files.values()))

    return damage


def collect_needed_version(bench: Bench) -> None:
    """eve, who is pending, was finetuned from version 2, whose files were collected."""
    base = bench.repository.ledger.base_version(2)
    changes = {"base_version": 2, "base_digest": base.digest}
    record("contributions/eve.t00001/contribution.json", **changes)(bench)
    collect_version(2)(bench)


def collect_strange_key(bench: Bench) -> None:
    base = bench.repository.ledger.base_version(1)
    strange = bench.keys.dataset_split(DATASET, "train")
    keys = [file.key for file in base.files.values()]
    record(r"base/000001-\w+/collected.json", keys=[*keys, strange])(bench)


def collect_pending(bench: Bench) -> None:
    shared = bench.read("contributions/eve.t00001/contribution.json")["shared"]["key"]
    bench.collect(f"{bench.repository.name}/contributions/eve.t00001/", shared)


def collect_strange_contribution(bench: Bench) -> None:
    shared = bench.read("contributions/alice.t00001/contribution.json")["shared"]["key"]
    strange = bench.read("contributions/carol.t00001/contribution.json")["shared"]["key"]
    record("contributions/alice.t00001/collected.json", keys=[shared, strange])(bench)


def skip_turn(bench: Bench) -> None:
    """Turn 2 of eve's submission is committed, turn 1 is not."""
    found = bench.store.get(bench.key("contributions/eve.t00001/contribution.json")).decode()
    for item in list(bench.store.list(f"{bench.repository.name}/contributions/eve.t00001/")):
        if item.key.endswith(".safetensors"):
            moved = item.key.replace("eve.t00001", "eve.t00002")
            bench.store.put(moved, bench.store.get(item.key))
        bench.store.delete([item.key])
    text = found.replace("eve.t00001", "eve.t00002").replace('"turn": 1', '"turn": 2')
    bench.put("contributions/eve.t00002/contribution.json", text.encode())
    bench.put("inbox/eve.t00002")
    bench.delete("inbox/eve.t00001")


CASES = [
    Case("repository-gone", Check.REPOSITORY_RECORD, delete("repository.json")),
    Case("repository-garbled", Check.REPOSITORY_RECORD, garble("repository.json")),
    Case(
        "repository-of-the-future",
        Check.REPOSITORY_RECORD,
        record("repository.json", format_version=2),
    ),
    Case(
        "repository-of-another-name", Check.REPOSITORY_RECORD, record("repository.json", name="b")
    ),
    # --- ledger
    Case("ledger-key", Check.LEDGER_KEY, put("ledger/5.json")),
    Case("ledger-folder", Check.LEDGER_KEY, put("ledger/old/0000000001.json")),
    Case("ledger-gap", Check.LEDGER_GAP, delete("ledger/0000000003.json")),
    Case("ledger-entry", Check.LEDGER_ENTRY, garble("ledger/0000000003.json")),
    Case("ledger-sequence", Check.LEDGER_SEQUENCE, entry(3, sequence=7)),
    Case(
        "ledger-token",
        Check.LEDGER_TOKEN,
        lambda bench: entry(3, token=bench.read("ledger/0000000001.json")["token"])(bench),
    ),
    Case("ledger-first-without-policy", Check.LEDGER_FIRST, entry(0, policy=None)),
    Case(
        "ledger-first-with-parent",
        Check.LEDGER_FIRST,
        published(0, lambda version: version.update(parent=0)),
    ),
    Case(
        "ledger-fork-of-the-base",
        Check.LEDGER_FOLD,
        lambda bench: entry(
            3,
            after=bench.read("ledger/0000000003.json")["after"]
            | {"base": bench.read("ledger/0000000001.json")["published"]},
        )(bench),
    ),
    Case(
        "ledger-forged-policy",
        Check.LEDGER_FOLD,
        lambda bench: bench.edit_entry(
            4, lambda found: found["after"]["policy"].update(server_learning_rate=9.0)
        ),
    ),
    Case("ledger-lost-policy", Check.LEDGER_FOLD, entry(3, policy=None)),
    Case(
        "ledger-parent",
        Check.LEDGER_VERSION,
        published(2, lambda version: version.update(parent=None)),
    ),
    Case("ledger-directory-twice", Check.LEDGER_DIRECTORY, reuse_directory, Check.VERSIONS_LINEAGE),
    Case("ledger-file-elsewhere", Check.LEDGER_DIRECTORY, elsewhere),
    Case("ledger-state-elsewhere", Check.LEDGER_DIRECTORY, state_elsewhere),
    # --- decisions
    Case("decided-twice-by-one-entry", Check.DECISIONS_TWICE, twice_in_one_entry),
    Case("decided-twice-by-two-entries", Check.DECISIONS_TWICE, twice_in_two_entries),
    Case("decision-sequence", Check.DECISIONS_SEQUENCE, decision(4, "late.t00001", sequence=3)),
    Case(
        "fused-into-another-version", Check.DECISIONS_FUSED, decision(5, "dave.t00001", version=2)
    ),
    Case(
        "fused-with-another-coefficient",
        Check.DECISIONS_FUSED,
        numbers(5, "dave.t00001", coefficient=0.1),
    ),
    Case(
        "fused-with-another-staleness",
        Check.DECISIONS_FUSED,
        numbers(5, "dave.t00001", staleness=1),
    ),
    Case(
        "fused-without-a-coefficient",
        Check.DECISIONS_FUSED,
        numbers(5, "dave.t00001", coefficient=None),
    ),
    Case("fused-without-lineage", Check.DECISIONS_FUSED, drop_line),
    Case("lineage-without-decision", Check.DECISIONS_LINEAGE, drop_decision),
    Case(
        "fused-into-two-versions", Check.DECISIONS_LINEAGE_TWICE, fuse_twice, Check.DECISIONS_TWICE
    ),
    Case("refused-without-reason", Check.DECISIONS_REASON, decision(2, "bad.t00001", reason=" ")),
    Case("expired-with-a-version", Check.DECISIONS_REASON, decision(4, "late.t00001", version=2)),
    Case("copy-garbled", Check.DECISIONS_COPY, garble("contributions/late.t00001/decision.json")),
    Case(
        "copy-differs",
        Check.DECISIONS_COPY,
        record("contributions/late.t00001/decision.json", reason="other"),
    ),
    Case(
        "copy-of-nothing", Check.DECISIONS_COPY_ALONE, put("contributions/eve.t00001/decision.json")
    ),
    Case(
        "copy-missing",
        Check.DECISIONS_COPY_MISSING,
        delete("contributions/late.t00001/decision.json"),
    ),
    # --- inspections
    Case(
        "inspection-garbled",
        Check.INSPECTIONS_RECORD,
        garble("inspections/dave.t00001.json"),
        Check.INSPECTIONS_FUSED,
    ),
    Case(
        "inspection-of-another",
        Check.INSPECTIONS_RECORD,
        record("inspections/dave.t00001.json", contribution_id="carol.t00001"),
    ),
    Case(
        "inspection-of-another-file",
        Check.INSPECTIONS_RECORD,
        record("inspections/dave.t00001.json", digest=OTHER),
    ),
    Case(
        "inspection-of-nothing",
        Check.INSPECTIONS_RECORD,
        lambda bench: bench.put(
            "inspections/nobody.t00001.json",
            bench.store.get(bench.key("inspections/dave.t00001.json")).replace(b"dave", b"nobody"),
        ),
    ),
    Case("fused-uninspected", Check.INSPECTIONS_FUSED, delete("inspections/dave.t00001.json")),
    Case(
        "fused-without-a-norm",
        Check.INSPECTIONS_FUSED,
        numbers(5, "dave.t00001", relative_norm=None),
    ),
    Case(
        "fused-with-another-norm",
        Check.INSPECTIONS_FUSED,
        record("inspections/dave.t00001.json", norm=1.25),
    ),
    Case("override-garbled", Check.OVERRIDES_RECORD, garble("overrides/eve.t00001.json")),
    Case(
        "override-of-another",
        Check.OVERRIDES_RECORD,
        record("overrides/eve.t00001.json", contribution_id="carol.t00001"),
    ),
    Case("overridden-by-nobody", Check.OVERRIDES_LINEAGE, change_line(override="trust me")),
    # --- contributions
    Case(
        "contribution-garbled",
        Check.CONTRIBUTIONS_RECORD,
        garble("contributions/late.t00001/contribution.json"),
    ),
    Case(
        "contribution-of-another-submission",
        Check.CONTRIBUTIONS_RECORD,
        record("contributions/eve.t00001/contribution.json", submission_id="someone"),
    ),
    Case(
        "contribution-gone",
        Check.CONTRIBUTIONS_MISSING,
        delete("contributions/late.t00001/contribution.json"),
        Check.ORPHANS_CONTRIBUTION,
    ),
    Case(
        "contribution-from-nowhere",
        Check.CONTRIBUTIONS_BASE,
        record("contributions/late.t00001/contribution.json", base_version=77),
    ),
    Case(
        "contribution-from-another-digest",
        Check.CONTRIBUTIONS_BASE,
        record("contributions/dave.t00001/contribution.json", base_digest=OTHER),
    ),
    Case(
        "contribution-file-gone",
        Check.CONTRIBUTIONS_FILE,
        delete(r"contributions/dave\.t00001/\w+/shared\.safetensors"),
    ),
    Case(
        "contribution-file-short",
        Check.CONTRIBUTIONS_FILE,
        shorten(r"contributions/dave\.t00001/\w+/shared\.safetensors"),
    ),
    Case(
        "contribution-file-damaged",
        Check.CONTRIBUTIONS_FILE,
        flip(r"contributions/dave\.t00001/\w+/shared\.safetensors"),
    ),
    Case(
        "head-damaged",
        Check.CONTRIBUTIONS_FILE,
        flip(r"contributions/alice\.t00002/\w+/head\.safetensors"),
    ),
    Case("pending-without-marker", Check.CONTRIBUTIONS_MARKER, delete("inbox/eve.t00001")),
    Case("pending-collected", Check.CONTRIBUTIONS_COLLECTED, collect_pending),
    Case("collection-of-other-files", Check.CONTRIBUTIONS_COLLECTED, collect_strange_contribution),
    Case(
        "collection-garbled",
        Check.CONTRIBUTIONS_COLLECTED,
        lambda bench: bench.put("contributions/dave.t00001/collected.json", b"{}"),
    ),
    # --- base versions
    Case("lineage-gone", Check.VERSIONS_LINEAGE, delete(r"base/000003-\w+/lineage\.json")),
    Case("lineage-garbled", Check.VERSIONS_LINEAGE, garble(r"base/000003-\w+/lineage\.json")),
    Case(
        "lineage-differs",
        Check.VERSIONS_LINEAGE,
        record(r"base/000003-\w+/lineage\.json", method="other"),
    ),
    Case("line-of-another-contributor", Check.VERSIONS_LINE, change_line(contributor_id="mallory")),
    Case("line-of-another-dataset", Check.VERSIONS_LINE, change_line(dataset_id="other")),
    Case(
        "line-from-another-version",
        Check.VERSIONS_LINE,
        lambda bench: (
            change_line(base_version=1, staleness=1)(bench),
            numbers(5, "carol.t00001", staleness=1)(bench),
        ),
    ),
    Case(
        "line-with-another-staleness",
        Check.VERSIONS_LINE,
        lambda bench: (
            change_line(staleness=1)(bench),
            numbers(5, "carol.t00001", staleness=1)(bench),
        ),
    ),
    Case("coefficients-too-small", Check.VERSIONS_COEFFICIENTS, scale(1 - 1e-8)),
    Case("coefficients-not-finite", Check.VERSIONS_COEFFICIENTS, scale(float("nan"))),
    Case("model-gone", Check.VERSIONS_FILE, delete(r"base/000003-\w+/model\.safetensors")),
    Case("model-damaged", Check.VERSIONS_FILE, flip(r"base/000002-\w+/model\.safetensors")),
    Case("state-gone", Check.VERSIONS_FILE, delete(STATE)),
    Case("state-damaged", Check.VERSIONS_FILE, flip(STATE)),
    Case("state-short", Check.VERSIONS_FILE, shorten(STATE)),
    Case("tokenizer-damaged", Check.VERSIONS_FILE, flip(r"base/000000-\w+/tokenizer\.json")),
    Case("newest-version-collected", Check.VERSIONS_COLLECTED, collect_version(3)),
    Case("first-version-collected", Check.VERSIONS_COLLECTED, collect_version(0)),
    Case("needed-version-collected", Check.VERSIONS_COLLECTED, collect_needed_version),
    Case("collection-of-other-versions", Check.VERSIONS_COLLECTED, collect_strange_key),
    # --- markers
    Case(
        "head-marker-alone",
        Check.MARKERS_HEAD,
        put(f"heads/alice/{DATASET}/00000000-alice.t00009", b""),
    ),
    Case(
        "head-marker-of-another-version",
        Check.MARKERS_HEAD,
        put(f"heads/alice/{DATASET}/00000007-alice.t00002", b""),
    ),
    Case(
        "head-marker-of-another-dataset",
        Check.MARKERS_HEAD,
        put(f"heads/alice/{'1' * 32}/00000000-alice.t00002", b""),
    ),
    Case("inbox-marker-alone", Check.MARKERS_INBOX, put("inbox/frank.t00001", b"")),
    Case("open-marker-alone", Check.MARKERS_OPEN, put("open/frank", b"")),
    # --- submissions and datasets
    Case(
        "submission-garbled", Check.SUBMISSIONS_RECORD, garble("submissions/carol/submission.json")
    ),
    Case(
        "submission-of-another-id",
        Check.SUBMISSIONS_RECORD,
        record("submissions/carol/submission.json", submission_id="dave"),
    ),
    Case("cancellation-garbled", Check.SUBMISSIONS_END, garble("submissions/dave/cancelled.json")),
    Case(
        "cancellation-of-another",
        Check.SUBMISSIONS_END,
        lambda bench: bench.put("submissions/dave/cancelled.json", cancellation("carol")),
    ),
    Case("failure-garbled", Check.SUBMISSIONS_END, put("submissions/carol/failed.json")),
    Case(
        "cancellation-of-nothing",
        Check.SUBMISSIONS_END,
        lambda bench: bench.put("submissions/frank/cancelled.json", cancellation("frank")),
    ),
    Case(
        "submission-without-dataset",
        Check.SUBMISSIONS_DATASET,
        record("submissions/dave/submission.json", dataset_id="other"),
    ),
    Case("open-without-marker", Check.SUBMISSIONS_OPEN, delete("open/alice")),
    Case("turn-skipped", Check.SUBMISSIONS_GAP, skip_turn),
    Case(
        "more-turns-than-asked-for",
        Check.SUBMISSIONS_TURNS,
        record("submissions/alice/submission.json", turns=1),
    ),
    Case("dataset-garbled", Check.DATASETS_RECORD, garble(f"datasets/{DATASET}/dataset.json")),
    Case(
        "dataset-of-another-id",
        Check.DATASETS_RECORD,
        record(f"datasets/{DATASET}/dataset.json", dataset_id="other"),
    ),
    Case("dataset-file-damaged", Check.DATASETS_FILE, flip(f"datasets/{DATASET}/train.parquet")),
    Case("dataset-file-gone", Check.DATASETS_FILE, delete(f"datasets/{DATASET}/train.parquet")),
    # --- the gate, rollbacks and evaluations
    Case(
        "report-about-nothing",
        Check.GATE_VERDICT,
        entry(
            3,
            gate={
                "scores": {},
                "reference": {},
                "mean": 0.5,
                "reference_mean": 0.5,
                "best_mean": 0.5,
                "best_version": 0,
                "floor": 0.4,
            },
        ),
    ),
    Case(
        "withheld-and-fused",
        Check.GATE_VERDICT,
        lambda bench: bench.edit_entry(5, lambda found: found.update(withheld=found["published"])),
    ),
    Case(
        "tried-although-decided",
        Check.GATE_TRIAL,
        lambda bench: bench.edit_entry(
            5,
            lambda found: found["after"].update(
                trial={"members": ["alice.t00001"], "suspects": [], "withheld_mean": 0.1}
            ),
        ),
    ),
    Case(
        "restored-with-other-parameters",
        Check.ROLLBACK_RESTORED,
        published(5, lambda version: version.update(restores=2)),
    ),
    Case(
        "candidate-garbled",
        Check.GATE_CANDIDATE,
        garble("candidates/0000000006.json"),
        also=Check.ORPHANS_BASE,
    ),
    Case(
        "candidate-of-another-entry",
        Check.GATE_CANDIDATE,
        lambda bench: bench.edit(
            "candidates/0000000006.json", lambda found: found["entry"].update(sequence=7)
        ),
    ),
    Case("candidate-that-was-judged", Check.ORPHANS_CANDIDATE, old_candidate),
    Case("evaluation-garbled", Check.EVALUATIONS_RECORD, garble(EVALUATION)),
    Case(
        "evaluation-of-another-model",
        Check.EVALUATIONS_RECORD,
        record(EVALUATION, base_digest=OTHER),
    ),
    Case("evaluation-without-score", Check.EVALUATIONS_RECORD, record(EVALUATION, score=None)),
    Case("request-garbled", Check.EVALUATIONS_REQUEST, garble(r"wanted/.*\.json")),
    Case("request-of-what-is-done", Check.ORPHANS_REQUEST, request_again),
    # --- orphans
    Case(
        "attempt-that-lost",
        Check.ORPHANS_CONTRIBUTION,
        put(f"contributions/dave.t00001/{ATTEMPT}/shared.safetensors"),
    ),
    Case(
        "attempt-that-died",
        Check.ORPHANS_CONTRIBUTION,
        put(f"contributions/frank.t00001/{ATTEMPT}/head.safetensors"),
    ),
    Case(
        "plan-of-a-fusion-that-is-over",
        Check.ORPHANS_FUSION,
        put(f"fusions/000003-{ATTEMPT}/plan.json"),
    ),
    Case("version-that-lost", Check.ORPHANS_BASE, put(f"base/000003-{ATTEMPT}/model.safetensors")),
    Case(
        "checkpoint-of-a-committed-turn",
        Check.ORPHANS_CHECKPOINT,
        put(f"checkpoints/dave.t00001/{ATTEMPT}/checkpoint.json"),
    ),
    Case(
        "checkpoint-without-record",
        Check.ORPHANS_CHECKPOINT,
        delete(r"checkpoints/.*/checkpoint\.json"),
    ),
    Case(
        "dataset-without-record", Check.ORPHANS_DATASET, put(f"datasets/{'1' * 32}/train.parquet")
    ),
    Case("object-that-nobody-knows", Check.OBJECTS_UNKNOWN, put("notes.txt")),
    Case(
        "state-that-no-record-names",
        Check.OBJECTS_UNKNOWN,
        published(5, lambda version: version.update(state=None)),
    ),
    Case(
        "file-beside-a-version",
        Check.OBJECTS_UNKNOWN,
        lambda bench: bench.store.put(
            bench.repository.ledger.base_version().prefix + "notes.txt", b"x"
        ),
    ),
    Case("file-beside-a-dataset", Check.OBJECTS_UNKNOWN, put(f"datasets/{DATASET}/other.parquet")),
]
