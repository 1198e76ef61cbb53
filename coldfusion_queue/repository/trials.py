"""Trials: which contribution of a withheld batch is at fault, by leaving out one after the other.

A function of the ledger and the gate's reports alone, so that any fusion worker goes on with it::

    withheld batch ──▶ without the suspect that agrees least ──▶ nothing lost: publish, refuse it
                                    │ something lost
                                    ▼
                       without the next suspect, ... until all were tried
                                    ▼
                       without the one whose absence helped most: passes: publish, refuse it
                                    │ does not pass
                                    ▼
                       leave that one out for good and begin again, up to ``gate_max_trials``
                                    ▼
                       refuse the whole batch
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from coldfusion_queue.records import (
    Candidate,
    Decision,
    GateReport,
    LedgerEntry,
    Outcome,
    Policy,
    Rule,
    Trial,
)

__all__ = ["conclude", "next_suspect", "tried_without"]

_REMEDY = "an operator can fuse it nevertheless, with 'coldfusion contribute ID --override REASON'"


def next_suspect(trial: Trial, policy: Policy) -> str:
    """The contribution to leave out next: one that was not tried, or else the best of those."""
    untried = _untried(trial, policy)
    return untried[0] if untried else _best(trial)


def tried_without(trial: Trial, suspect: str) -> list[str]:
    """What is fused to see whether a suspect is at fault, in the order of the batch."""
    out = {*trial.excluded, suspect}
    return [name for name in trial.members if name not in out]


def conclude(
    newest: LedgerEntry,
    candidate: Candidate,
    report: GateReport,
    without: GateReport | None = None,
) -> LedgerEntry:
    """What a report on a candidate leads to: the entry that publishes or withholds it.

    Args:
        newest: the newest ledger entry, before the candidate's.
        candidate: with the entry to append if it passes.
        report: what the gate found.
        without: the same about the model without the first suspect, if that was fused too.

    Returns:
        The same entry, to the bit, for the same arguments.
    """
    trial, suspect = newest.after.trial, candidate.suspect
    if without is not None and candidate.without is not None:
        gain = without.mean - report.mean
        if without.passed and gain > newest.after.policy.gate_tolerance:
            return _left_out(candidate, candidate.without, report, without)
    if trial is None or suspect is None:
        # What operators let in whatever the limits say has no suspects.
        if report.passed or not candidate.suspects:
            return _published(candidate.entry, report, [])
        members = [item.contribution_id for item in candidate.entry.decisions if _is_fused(item)]
        trial = Trial(
            members=tuple(members),
            suspects=candidate.suspects,
            withheld_mean=report.mean,
            means={} if without is None else {candidate.suspects[0]: without.mean},
            num_trials=0 if without is None else 1,
        )
        return _withheld(newest, candidate, report, trial)
    trial = _without_decided(trial, candidate)
    if report.passed and (report.is_clear or suspect in trial.means):
        names = [name for name in (*trial.excluded, suspect) if name in trial.members]
        refused = _refusals(names, trial, candidate.entry.sequence, report, report.mean)
        return _published(candidate.entry, report, refused)
    means = {**trial.means, suspect: report.mean}
    tried = trial.model_copy(update={"means": means, "num_trials": trial.num_trials + 1})
    return _withheld(newest, candidate, report, tried)


def _left_out(
    candidate: Candidate, entry: LedgerEntry, report: GateReport, without: GateReport
) -> LedgerEntry:
    """Publish the model without the first suspect, which is refused."""
    suspect = candidate.suspects[0]
    trial = Trial(members=(suspect,), suspects=(suspect,), withheld_mean=report.mean)
    refused = _refusals([suspect], trial, entry.sequence, without, without.mean)
    return _published(entry, without, refused)


def _published(
    entry: LedgerEntry, report: GateReport, refused: Collection[Decision]
) -> LedgerEntry:
    note = f"{entry.note}; gate {report.mean:.4f}, before {report.reference_mean:.4f}"
    if refused:
        note += f", {len(refused)} refused for it"
    if not report.passed:
        note += f", expected at least {report.floor:.4f}, by override"
    return entry.model_copy(
        update={
            "decisions": _sorted([*entry.decisions, *refused]),
            "gate": report,
            "note": note,
            "after": entry.after.model_copy(update={"gate": report, "trial": None}),
        }
    )


def _withheld(
    newest: LedgerEntry, candidate: Candidate, report: GateReport, trial: Trial
) -> LedgerEntry:
    """Withhold it, and go on with the trial or, if nothing is left to try, refuse the batch."""
    entry = candidate.entry
    following = _advanced(trial, newest.after.policy, report.floor)
    decisions = [item for item in entry.decisions if not _is_fused(item)]
    without = f" without {candidate.suspect}" if candidate.suspect else ""
    note = (
        f"withheld{without}: gate {report.mean:.4f}, expected at least {report.floor:.4f}, "
        f"before {report.reference_mean:.4f}"
    )
    if following is None:
        best = max(trial.means.values(), default=None)
        decisions += _refusals(trial.members, trial, entry.sequence, report, best)
        note += f"; the batch of {len(trial.members)} is refused"
    after = newest.after.model_copy(update={"trial": following})
    return entry.model_copy(
        update={
            "published": None,
            "withheld": entry.published,
            "decisions": _sorted(decisions),
            "gate": report,
            "note": note,
            "after": after,
        }
    )


def _advanced(trial: Trial, policy: Policy, floor: float) -> Trial | None:
    """The trial as it goes on; None if there is nothing left to try."""
    if _num_left(trial) < 2:
        return None  # without one more there would be nothing to fuse
    if _untried(trial, policy):
        return trial
    if not trial.means:
        return None
    best = _best(trial)
    if trial.means[best] >= floor:
        return trial
    following = trial.model_copy(update={"excluded": (*trial.excluded, best), "means": {}})
    can_go_on = _num_left(following) >= 2 and _untried(following, policy)
    return following if can_go_on else None


def _without_decided(trial: Trial, candidate: Candidate) -> Trial:
    """The trial without members that were found to be damaged when they were fused again."""
    decided = {item.contribution_id for item in candidate.entry.decisions if not _is_fused(item)}
    return trial.model_copy(
        update={
            "members": tuple(name for name in trial.members if name not in decided),
            "suspects": tuple(name for name in trial.suspects if name not in decided),
            "excluded": tuple(name for name in trial.excluded if name not in decided),
            "means": {name: mean for name, mean in trial.means.items() if name not in decided},
        }
    )


def _untried(trial: Trial, policy: Policy) -> list[str]:
    if trial.num_trials >= policy.gate_max_trials:
        return []
    done = {*trial.means, *trial.excluded}
    return [name for name in trial.suspects if name not in done]


def _num_left(trial: Trial) -> int:
    return len(trial.members) - len(trial.excluded)


def _best(trial: Trial) -> str:
    # Of equals the most suspicious one, which comes first.
    tried = [name for name in trial.suspects if name in trial.means]
    return max(tried, key=lambda name: trial.means[name])


def _refusals(
    names: Iterable[str],
    trial: Trial,
    sequence: int,
    report: GateReport,
    without: float | None,
) -> list[Decision]:
    numbers = {
        "gate_with": trial.withheld_mean,
        "gate_reference": report.reference_mean,
        "gate_floor": report.floor,
    }
    best = ""
    if without is not None:
        numbers["gate_without"] = without
        best = f", without it {without:.4f}"
    reason = (
        f"the base model is worse with it: the gate's mean score is {trial.withheld_mean:.4f} with "
        f"its batch{best}, before {report.reference_mean:.4f}, expected at least "
        f"{report.floor:.4f}; {_REMEDY}"
    )
    return [
        Decision(
            contribution_id=name,
            outcome=Outcome.REFUSED,
            reason=reason,
            rule=Rule.GATE,
            sequence=sequence,
            version=None,
            numbers=numbers,
        )
        for name in names
    ]


def _is_fused(decision: Decision) -> bool:
    return decision.outcome is Outcome.FUSED


def _sorted(decisions: Iterable[Decision]) -> tuple[Decision, ...]:
    return tuple(sorted(decisions, key=lambda item: item.contribution_id))
