"""What each part of ``coldfusion status`` shows, from what ``status_data`` found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from coldfusion_queue.cli.status_section import Column, Section
from coldfusion_queue.cli.status_text import shortened
from coldfusion_queue.overview.durations import duration_text

if TYPE_CHECKING:
    from rich.text import Text

__all__ = ["WIDE", "ended", "fusions", "quality", "queues", "submissions"]

#: Terminals of at least this many columns show who runs a turn, on what and from which base.
WIDE = 120
#: Characters of a submission's id in a narrower one.
_NARROW_ID = 29

_KINDS = ("frozen", "finetuned", "few_shot")
_STATES = {
    "running": "starting",  # and has reported nothing yet
    "queued": "queued",
    "waiting": "to be retried",
    "missing": "not queued",
    None: "?",
}


def submissions(data: dict[str, Any], width: int) -> Section:
    """Open submissions, those that run first."""
    items = [item for item in data["submissions"] if item["state"] == "open"]
    is_wide = width >= WIDE
    has_sites = is_wide and any(item["site"] for item in items)
    columns = [Column("submissions", is_name=True), *[Column("site")] * has_sites]
    columns += [Column("turns", is_number=True), Column("now")]
    columns += [Column(name, is_number=True) for name in ("loss", "ex/s", "running")]
    if is_wide:
        columns += [Column("base", is_number=True), Column("dataset"), Column("worker")]
    rows = []
    for item in sorted(items, key=_order):
        row = [_name(item, is_wide), *[item["site"] or "-"] * has_sites]
        row += [_turns(item, is_wide), *_now(item)]
        rows.append(tuple(row[: len(columns)]))
    return Section(tuple(columns), rows, "no open submissions")


def ended(data: dict[str, Any], width: int, *, is_cut: bool) -> Section:
    """Submissions that have ended, which are there with ``--all``.

    Args:
        data: what was found.
        width: columns of the terminal.
        is_cut: whether the reason of a failure has one line, or as many as it takes.
    """
    from rich.text import Text

    items = [item for item in data["submissions"] if item["state"] != "open"]
    is_wide = width >= WIDE
    has_sites = is_wide and any(item["site"] for item in items)
    columns = [Column("ended", is_name=True), *[Column("site")] * has_sites]
    columns += [Column("state"), Column("turns", is_number=True), Column("reason", is_name=True)]
    rows = []
    for item in sorted(items, key=lambda item: (item["state"] != "failed", item["submission"])):
        row: list[str | Text] = [_name(item, is_wide), *[item["site"] or "-"] * has_sites]
        reason = Text(item["reason"] or "", no_wrap=is_cut, overflow="ellipsis")
        rows.append((*row, item["state"], _turns(item, is_wide), reason))
    return Section(tuple(columns), rows, "no submission has ended")


def _name(item: dict[str, Any], is_wide: bool) -> str:
    return str(item["submission"]) if is_wide else shortened(item["submission"], _NARROW_ID)


def _order(item: dict[str, Any]) -> tuple[bool, str]:
    return item["turn_state"] != "running", item["submission"]


def _turns(item: dict[str, Any], is_wide: bool) -> str:
    forever = "forever" if is_wide else "inf"
    return f"{item['committed_turns']}/{item['turns'] or forever}"


def _now(item: dict[str, Any]) -> list[str]:
    """What its turn is doing, in numbers."""
    if not item["is_current"]:
        return [_STATES[item["turn_state"]]]
    report = item["progress"]
    steps = f" {report['step']}/{report['num_steps']}" if report["num_steps"] else ""
    loss, speed = report["loss"], report["examples_per_second"]
    return [
        f"{report['phase']}{steps}",
        "" if loss is None else f"{loss:.3f}",
        "" if speed is None else f"{speed:.0f}",
        duration_text(report["seconds"] + item["silent_seconds"]),
        str(report["base_version"]),
        shortened(item["dataset"] or "-", 14),
        report["worker"],
    ]


def queues(data: dict[str, Any]) -> Section:
    """What waits in each queue, and who takes from it."""
    titles = ("waiting", "oldest", "taken", "workers", "lost")
    columns = (Column("queues"), *(Column(title, is_number=True) for title in titles))
    if data["workers"] is None:
        return Section(columns, [], "the broker does not answer")
    waiting = {item["queue"]: item for item in data["waiting"]}
    troubled = {item["queue"] for item in data["workers"] if item["lost_workers"]}
    served = {item["queue"] for item in data["workers"] if item["workers"]}
    troubled |= {name for name, item in waiting.items() if item["waiting"]} - served
    rows = []
    for item in sorted(data["workers"], key=lambda item: item["queue"] not in troubled):
        queue = waiting.pop(item["queue"], None)  # of several pools the first row has it
        length, oldest = "", ""
        if queue is not None:
            length = str(queue["waiting"])
            oldest = duration_text(queue["oldest_age_seconds"]) if queue["waiting"] else "-"
        name = f"{item['queue']}, pool {item['pool']}" if item["pool"] else item["queue"]
        present, lost = str(len(item["workers"])), _alarming(len(item["lost_workers"]))
        rows.append((name, length, oldest, str(item["taken"]), present, lost))
    return Section(columns, rows)


def _alarming(number: int) -> str | Text:
    from rich.text import Text

    return Text(str(number), style="bold red" if number else "")


def fusions(data: dict[str, Any]) -> Section:
    """The last ledger entries, the newest first."""
    from rich.text import Text

    names = ("ago", "fused", "refused")
    columns = (
        Column("last decisions"),
        *(Column(name, is_number=True) for name in names),
        Column("reasons", is_name=True),
    )
    rows = [
        (
            _title(item),
            duration_text(item["age_seconds"]),
            str(item["fused"]),
            str(sum(item["refused"].values())),
            Text(_reasons(item), no_wrap=True, overflow="ellipsis"),
        )
        for item in reversed(data["fusions"])
    ]
    return Section(columns, rows, "none yet")


def _title(item: dict[str, Any]) -> str:
    if item["published"] is not None:
        return f"version {item['published']}"
    return f"withheld {item['withheld']}" if item["withheld"] is not None else "no version"


def _reasons(item: dict[str, Any]) -> str:
    """Why contributions were refused; of an entry that decided none what it says of itself."""
    counts = {**item["refused"], "expired": item["expired"]}
    told = ", ".join(f"{rule} {number}" for rule, number in counts.items() if number)
    return told or ("" if item["fused"] else item["note"])


def quality(data: dict[str, Any]) -> Section:
    """The newest score of each dataset and kind, and of which version if it is an old one."""
    scores = {(item["dataset"], item["kind"]): item for item in data["quality"]}
    kinds = [kind for kind in _KINDS if any(found == kind for _, found in scores)]
    columns = (Column("quality"), *(Column(kind, is_number=True) for kind in kinds))
    names = {item["dataset"]: item["name"] for item in data["quality"]}
    rows = [
        (
            shortened(name, 36),
            *(_score(scores.get((dataset, kind)), data["base_version"]) for kind in kinds),
        )
        for dataset, name in names.items()
    ]
    return Section(columns, rows, "none of the last versions was evaluated: coldfusion evaluate")


def _score(item: dict[str, Any] | None, newest: int) -> str:
    if item is None:
        return "-"
    age = "" if item["base_version"] == newest else f" (v{item['base_version']})"
    return f"{item['score']:.4f}{age}"
