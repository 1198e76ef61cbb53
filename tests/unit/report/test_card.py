"""Where a card's words come from, and what may be broken there."""

from __future__ import annotations

from pathlib import Path

from coldfusion_queue.report.card import write_card
from tests.unit.report.history import History, gate_report

FIRST = "a" * 32


def written(history: History, version: int, directory: Path) -> str:
    write_card(history.repository, history.repository.ledger.base_version(version), directory)
    return (directory / "README.md").read_text(encoding="utf-8")


def test_a_card_has_the_gates_numbers_of_its_own_version(tmp_path: Path) -> None:
    history = History()
    for mean in (0.61, 0.62, 0.63):
        history.withhold([history.contribution("x")], gate_report(0.1, 0.6))
        history.fuse([history.contribution("x")], gate=gate_report(mean, 0.6))

    texts = [written(history, version, tmp_path) for version in range(4)]

    told = [text.partition("The gate measured ")[2][:5] for text in texts]
    assert told == ["", "61.00", "62.00", "63.00"]


def test_a_card_costs_few_looks_at_a_long_ledger(tmp_path: Path) -> None:
    history = History()
    for _ in range(200):
        history.fuse([history.contribution("x")])
    history.memory.reads.clear()

    written(history, 100, tmp_path)

    assert sum(history.memory.reads.values()) < 40


def test_a_submission_that_cannot_be_read_costs_no_card(tmp_path: Path) -> None:
    history = History()
    history.memory.objects[history.keys.submission("other")] = b"{}"
    history.fuse([history.contribution("alice", dataset=FIRST)])

    assert "| `alice` | `alice` |" in written(history, 1, tmp_path)


def test_a_pretrained_card_that_is_no_text_is_kept(tmp_path: Path) -> None:
    history = History()
    base = history.base
    files = {**base.files, "README.md": base.files["model.safetensors"]}
    (tmp_path / "README.md").write_bytes(b"\xff\xfe\x00")

    write_card(history.repository, base.model_copy(update={"files": files}), tmp_path)

    assert (tmp_path / "README.pretrained.md").read_bytes() == b"\xff\xfe\x00"
    assert (tmp_path / "README.md").read_text(encoding="utf-8").startswith("---\n")
