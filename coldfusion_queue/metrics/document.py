"""Writes ``docs/metrics.md`` from the catalogue, and where dashboards show each of them.

python -m coldfusion_queue.metrics.document [--check]
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import get_args

from coldfusion_queue.metrics.catalogue import CATALOGUE
from coldfusion_queue.metrics.spec import Question, Spec

__all__ = ["make_page"]

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "metrics.md"
DASHBOARDS = ROOT / "helm" / "coldfusion" / "files" / "dashboards"

_BEGINNING = """\
<!-- Made by coldfusion_queue/metrics/document.py from catalogue.py and the dashboards: change
those, then run `make dashboards`. -->
# Metrics

Every process serves Prometheus metrics at `/metrics` on `COLDFUSION_METRICS_PORT`; what is not
written here is of Python or the process. Below they are by the question that they answer. Names are
as `/metrics` has them; a histogram's series end in `_bucket`, `_sum` and `_count`. All have the
label `repository`.

- What the exporter serves it reads from store and broker at each scrape. Two exporters of one
  repository say the same: take `max`, not `sum`.
- Its counters are counts over the whole ledger. They begin where the ledger is, not at 0, when the
  exporter restarts, and are missing while it reads the ledger anew; nothing is counted twice.
- What workers count is each worker's own: take `sum` over `rate` or `increase`. A worker counts for
  all of its processes, those that have ended too, and begins with zeros.
- `site` and `pool` are empty, which to Prometheus is no label at all, for what belongs to none.

[operations.md](operations.md#dashboards) says how dashboards are provisioned,
[runbook.md](runbook.md) what to do when an alert fires.
"""

_HEAD = "| metric | type | labels | from | meaning | dashboard |\n|---|---|---|---|---|---|\n"


def make_page(dashboards: Path = DASHBOARDS) -> str:
    """The text of the page.

    Args:
        dashboards: directory of their files.
    """
    shown = _shown(dashboards)
    parts = [_BEGINNING]
    for question in get_args(Question):
        rows = [_row(spec, shown) for spec in CATALOGUE if spec.question == question]
        parts.append(f"## {question}\n\n{_HEAD}{''.join(rows)}")
    return "\n".join(parts)


def _row(spec: Spec, shown: Mapping[str, Sequence[str]]) -> str:
    meaning = spec.help
    if spec.buckets:
        meaning += f" Buckets: {', '.join(map(_written, spec.buckets))}."
    where = "; ".join(shown.get(spec.exposed, ())) or f"none: {spec.not_shown}"
    cells = (f"`{spec.exposed}`", spec.kind, _labels(spec), _source(spec), meaning, where)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"


def _labels(spec: Spec) -> str:
    """Names, and of those that the catalogue tells more of, what they may be."""
    told, plain = spec.values, []
    for name in spec.labels:
        told, number = re.subn(rf"(^|; ){name}(?=:| as )", rf"\1`{name}`", told)
        if not number and name != "repository":
            plain.append(f"`{name}`")
    return "; ".join(filter(None, (", ".join(plain), told)))


def _written(bound: float) -> str:
    return f"{bound:g}".replace("-", "\N{MINUS SIGN}")


def _source(spec: Spec) -> str:
    return {"all": "every process", "workers": "every worker"}.get(spec.source, spec.source)


def _shown(directory: Path) -> Mapping[str, Sequence[str]]:
    """Where each metric is shown: dashboards, and the panels of each."""
    found: dict[str, list[str]] = {}
    for path in sorted(directory.glob("*.json")):
        titles: dict[str, list[str]] = {}
        for title, name in _asked(path):
            if title not in titles.setdefault(name, []):
                titles[name].append(title)
        for name, panels in titles.items():
            found.setdefault(name, []).append(f"{path.stem}: *{'*, *'.join(panels)}*")
    return found


def _asked(path: Path) -> Iterator[tuple[str, str]]:
    """Each panel's title with each metric that it asks for."""
    names = {spec.exposed for spec in CATALOGUE}
    for panel in json.loads(path.read_text("utf-8"))["panels"]:
        for target in panel.get("targets", ()):
            for series in re.findall(r"\bcoldfusion_\w+", target["expr"]):
                name = series if series in names else series.rpartition("_")[0]
                yield panel["title"], name


def main(arguments: Sequence[str]) -> int:
    """Write the page, or with ``--check`` 1 if it would change."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if it would change")
    parser.add_argument("--page", type=Path, default=PAGE, help="file that it is")
    options = parser.parse_args(arguments)
    page: Path = options.page
    text = make_page()
    if not options.check:
        page.write_text(text, encoding="utf-8")
    elif not page.exists() or page.read_text("utf-8") != text:
        print(f"{page} is not what the catalogue says; run `make dashboards`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
