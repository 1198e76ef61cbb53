"""``coldfusion status`` in terminals of several sizes."""

from __future__ import annotations

import io
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console

from coldfusion_queue.cli.status_screen import brief, screen
from coldfusion_queue.cli.status_section import Column, Section, fit
from coldfusion_queue.cli.status_text import bytes_text, filled, shortened
from coldfusion_queue.overview.durations import duration_text

LONG = "a-contributor-with-a-long-name-20261126t120000-a1b2c3d4"


def submission(name: str, **more: Any) -> dict[str, Any]:
    report = {
        "turn": 2,
        "base_version": 12,
        "phase": "training",
        "step": 12345,
        "num_steps": 30000,
        "loss": 0.5321,
        "examples_per_second": 3412.4,
        "seconds": 300.0,
        "worker": "gpu-7.cluster",
    }
    return {
        "submission": name,
        "state": "open",
        "committed_turns": 1,
        "turns": 3,
        "site": None,
        "dataset": "a3f09c1b2c3d4e5f60718293a4b5c6d7",
        "turn_state": "running",
        "worker": "gpu-7.cluster",
        "is_current": True,
        "progress": report,
        "silent_seconds": 12.0,
        "reason": None,
        **more,
    }


def queued(name: str, turn_state: str | None = "queued", **more: Any) -> dict[str, Any]:
    nothing = {"worker": None, "is_current": False, "progress": None, "silent_seconds": None}
    return submission(name, turn_state=turn_state, **nothing, **more)


def queue(name: str, waiting: int, oldest: float) -> dict[str, Any]:
    return {"queue": name, "site": "", "waiting": waiting, "oldest_age_seconds": oldest}


def pool(name: str, pool: str = "", **more: Any) -> dict[str, Any]:
    found = {"queue": name, "site": "", "pool": pool, "taken": 2, "workers": ["a"]}
    return {**found, "lost_workers": {}, **more}


def fusion(number: int, **more: Any) -> dict[str, Any]:
    found = {"sequence": number, "published": number, "withheld": None, "fused": 8, "refused": {}}
    return {**found, "age_seconds": 300.0, "expired": 0, "note": f"note {number}", **more}


@pytest.fixture
def data() -> dict[str, Any]:
    """A repository in which much happens."""
    score = {"dataset": "d1", "name": "reviews", "kind": "frozen", "score": 0.81234}
    return {
        "repository": "main",
        "base_version": 12,
        "base_version_age_seconds": 200.0,
        "pending_contributions": 5,
        "oldest_pending_age_seconds": 260.0,
        "min_contributions": 8,
        "max_wait_seconds": 900.0,
        "wanted_evaluations": 2,
        "gate": {"mean": 0.8123, "floor": 0.7999},
        "candidate": None,
        "with_ended": False,
        "stored": {"base": {"bytes": 3 << 30, "objects": 40}},
        "waiting": [queue("finetune", 12, 900.0), queue("evaluate", 0, 0.0)],
        "workers": [
            pool("finetune"),
            pool("finetune", "a100", lost_workers={"gpu-9": 700.0}),
            pool("evaluate", workers=[]),
        ],
        "submissions": [
            queued("zoe-20261126t120000-00000000", "missing", site="clinic"),
            submission(LONG),
            queued("ben-20261126t120000-00000000", turns=None),
        ],
        "quality": [
            {**score, "base_version": 12},
            {**score, "kind": "finetuned", "score": 0.9, "base_version": 9},
        ],
        "fusions": [
            fusion(10, note="init", fused=0, published=0),
            fusion(11, refused={"cosine": 2, "copy": 1}, expired=4),
            fusion(12, published=None, withheld=12),
        ],
        "stuck": [
            {"alert": "ColdFusionWorkerLost", "text": "worker gpu-9 is gone", "command": "doctor"},
            {"alert": None, "text": "a word " * 20, "command": "a command"},
        ],
    }


def drawn(
    data: dict[str, Any], width: int, height: int | None = None, *, color: bool = False
) -> str:
    terminal = Console(
        file=io.StringIO(),
        width=width,
        highlight=False,
        force_terminal=color,
        color_system="standard" if color else None,
    )
    terminal.print(screen(data, width, height))
    text = terminal.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.splitlines())


def test_a_narrow_terminal_shows_all_numbers_and_shortens_names(data: dict[str, Any]) -> None:
    text = drawn(data, 80)

    assert max(map(len, text.splitlines())) <= 80
    assert "\u2026" not in text  # nothing is cut off but in the middle of a name
    assert re.search(
        r"a-contributor-with-\.\.a1b2c3d4 +1/3 +training 12345/30000 +0\.532 +3412 +5 min", text
    )
    assert re.search(r"ben-\S+ +1/inf +queued", text)
    assert re.search(r"zoe-\S+ +1/3 +not queued", text)
    assert "base version 12, 3 min old" in text
    assert "pending 5 of 8, oldest 4 min of 15 min" in text
    assert "stored 3.0 GiB" in text


def test_a_wide_terminal_has_tables_beside_each_other_and_names_in_full(
    data: dict[str, Any],
) -> None:
    text = drawn(data, 160)

    assert re.search(r"queues +waiting .* last decisions +ago", text)
    line = rf"{LONG} +- +1/3 +training 12345/30000 +0\.532 +3412 +5 min +12 +a3f\S+ +gpu-7\.cluster"
    assert re.search(line, text)
    assert re.search(r"zoe-\S+ +clinic", text)


def test_what_runs_comes_first(data: dict[str, Any]) -> None:
    text = drawn(data, 80)

    assert text.index("a-contributor") < text.index("ben-") < text.index("zoe-")


def test_queues_show_what_waits_once_and_who_is_lost_in_red(data: dict[str, Any]) -> None:
    text = drawn(data, 80)

    assert re.search(r"finetune +12 +15 min +2 +1 +0\n", text)
    assert re.search(r"finetune, pool a100 +2 +1 +1\n", text)
    assert re.search(r"evaluate +0 +- +2 +0 +0\n", text)
    colored = drawn(data, 80, color=True)
    assert re.search(r"\x1b\[1;31m *1", colored)
    assert "\x1b[1;31m! worker gpu-9 is gone" in colored
    assert "\x1b[33m! a word" in colored


def test_queues_in_which_something_is_wrong_come_first(data: dict[str, Any]) -> None:
    names = ("finetune", "finetune.a", "finetune.b", "evaluate", "fusion")
    data["waiting"] = [queue(name, int(name in {"finetune.b", "evaluate"}), 0.0) for name in names]
    none: dict[str, Any] = {"workers": []}
    lost: dict[str, Any] = {"lost_workers": {"x": 90.0}}
    more = {"finetune.a": none, "finetune.b": none, "fusion": lost}
    data["workers"] = [pool(name, **more.get(name, {})) for name in names]

    lines = drawn(data, 80).partition("\nqueues ")[2].splitlines()[1:6]

    assert [line.split()[0] for line in lines] == [
        "finetune.b",
        "fusion",
        "finetune",
        "finetune.a",
        "evaluate",
    ]


def test_decisions_have_their_reasons_the_newest_first(data: dict[str, Any]) -> None:
    lines = drawn(data, 80).partition("last decisions")[2].splitlines()[1:4]

    assert re.fullmatch(r"withheld 12 +5 min +8 +0", lines[0])
    assert re.fullmatch(r"version 11 +5 min +8 +3 +cosine 2, copy 1, expired 4", lines[1])
    assert re.fullmatch(r"version 0 +5 min +0 +0 +init", lines[2])
    data["fusions"] = [fusion(1, fused=0, published=None, note="a policy of many words " * 20)]
    assert drawn(data, 80).count("a policy of many words") < 3  # one line, whatever it says


def test_a_score_of_an_old_version_says_so(data: dict[str, Any]) -> None:
    assert re.search(
        r"quality +frozen +finetuned\nreviews +0\.8123 +0\.9000 \(v9\)", drawn(data, 80)
    )


def test_what_is_stuck_has_its_command_on_the_same_line_if_there_is_room(
    data: dict[str, Any],
) -> None:
    lines = drawn(data, 80).splitlines()

    assert "! worker gpu-9 is gone  $ doctor" in lines
    (number,) = [index for index, line in enumerate(lines) if line.startswith("! a word")]
    assert re.match(r"  (a|word) ", lines[number + 1])
    assert "  $ a command" in "\n".join(lines[number + 1 : number + 3])


def test_without_a_broker_the_rest_is_shown(data: dict[str, Any]) -> None:
    away = {**data, "workers": None, "waiting": None, "stored": None}
    away["submissions"] = [queued("ben", None)]

    text = drawn(away, 80)

    assert "queues\nthe broker does not answer\n" in text
    assert re.search(r"ben +1/3 +\?", text)
    assert "last decisions" in text


def test_a_candidate_is_told_with_what_it_waits_for(data: dict[str, Any]) -> None:
    waits = {
        "version": 13,
        "since": datetime.now(UTC),
        "probes": 4,
        "missing": 2,
        "without": "x.t1",
    }
    data["candidate"] = {**waits, "missing_on": ["reviews", "tickets"], "failed": ["no memory"]}

    text = " ".join(drawn(data, 80).split())

    assert "base version 13 waits for the gate since" in text
    assert "without x.t1: 2 of 4 probes are missing" in text
    assert "an evaluation worker makes them, on reviews, tickets" in text
    assert "a probe failed: no memory" in text


@pytest.mark.parametrize(("width", "height"), [(80, 24), (80, 40), (160, 24), (160, 50)])
def test_a_screen_is_never_higher_than_the_terminal(
    data: dict[str, Any], width: int, height: int
) -> None:
    data["submissions"] = [submission(f"s{number}") for number in range(100)]
    data["fusions"] = [fusion(number) for number in range(40)]
    data["workers"] = [pool(f"finetune.{number}") for number in range(30)]

    text = drawn(data, width, height)

    assert len(text.splitlines()) <= height
    assert re.search(r"\.\.\. and \d+ more", text)
    for title in ("submissions", "queues", "last decisions", "quality"):
        assert title in text
    assert len(drawn(data, width).splitlines()) > height


def test_what_fits_is_not_shortened(data: dict[str, Any]) -> None:
    assert drawn(data, 80, 60) == drawn(data, 80)


def test_submissions_that_have_ended_say_how_the_failed_ones_first(data: dict[str, Any]) -> None:
    reason = "the loss is nan at step 3 of 4: lower learning_rate with --set and submit again " * 2
    data["with_ended"] = True
    data["submissions"] += [
        queued("done", None, state="complete", committed_turns=3, site="clinic"),
        queued("lost", None, state="failed", reason=reason),
    ]

    text, on_screen = drawn(data, 160), drawn(data, 160, 60)

    assert re.search(r"done +clinic +complete +3/3", text)
    assert re.search(r"lost +- +failed +1/3 +the loss is nan at step 3", text)
    assert text.index("lost ") < text.index("done ")
    assert " ".join(text.split()).count("submit again") == 2
    assert on_screen.count("submit again") < 2  # a row has one line there
    assert len(on_screen.splitlines()) < len(text.splitlines())
    assert "no submission has ended" in drawn({**data, "submissions": []}, 80)


def test_the_demo_sees_what_works_and_what_is_stuck(data: dict[str, Any]) -> None:
    terminal = Console(file=io.StringIO(), width=80)
    terminal.print(brief(data, 80))
    text = terminal.file.getvalue()  # type: ignore[attr-defined]

    assert "worker gpu-9 is gone" in text
    assert "a-contributor" in text
    assert "last decisions" not in text


# --- its parts ------------------------------------------------------------------------------------


def section(num_rows: int) -> Section:
    return Section((Column("title"),), [(f"row {number}",) for number in range(num_rows)])


def test_the_longest_section_gives_way_first() -> None:
    (long,), (short,) = fit([[section(20)], [section(3)]], 12)

    assert (long.height, short.height) == (7, 4)
    (first,), (second,) = fit([[section(20)], [section(20)]], 13)
    assert {first.height, second.height} == {6}


def test_no_section_shrinks_to_nothing() -> None:
    (only,) = fit([[section(20)]], 1)[0]

    assert only.height == 4  # a title, two rows, and how many more there are


def test_one_row_too_many_is_shown_in_the_place_of_saying_so() -> None:
    almost = Section((Column("title"),), section(4).rows, num_shown=3)

    assert almost.height == 5
    assert almost.table().row_count == 4


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "120 min"), (7200, "2 h"), (2e5, "2 d")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 40, "3.0 TiB")]
)
def test_sizes(number: int, text: str) -> None:
    assert bytes_text(number) == text


def test_a_name_is_shortened_in_its_middle_and_parts_are_not_broken() -> None:
    assert shortened("short", 5) == "short"
    assert shortened(LONG, 29) == "a-contributor-with-..a1b2c3d4"
    assert filled(["aaa", "bbb", "cc"], 8, gap=" ") == ["aaa bbb", "cc"]
    assert filled(["far too long", "b"], 5) == ["far too long", "b"]
