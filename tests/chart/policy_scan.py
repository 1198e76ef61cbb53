"""Scans what the chart renders with checkov: every finding is explained, every explanation needed.

`make test-chart` runs it; checkov has an environment of its own. Findings that are meant are in
`checkov_exceptions.yaml`: the check, a pattern of `Kind/name`, the reason.
"""

from __future__ import annotations

import copy
import dataclasses
import fnmatch
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.chart.rendering import VALUE_FILES, render

EXCEPTIONS = Path(__file__).parent / "checkov_exceptions.yaml"


@dataclasses.dataclass(frozen=True, order=True)
class Finding:
    """A check that an object fails."""

    check: str
    resource: str
    title: str


@dataclasses.dataclass(frozen=True)
class Exemption:
    """A finding that is meant."""

    check: str
    resource: str
    reason: str

    def covers(self, finding: Finding) -> bool:
        """Whether the finding is the one that is meant."""
        return self.check == finding.check and fnmatch.fnmatchcase(finding.resource, self.resource)


def unexplained(
    findings: Iterable[Finding], exemptions: Sequence[Exemption]
) -> tuple[list[Finding], list[Exemption]]:
    """The findings that nothing explains, and the explanations of nothing."""
    findings = list(findings)
    open_findings = [
        finding for finding in findings if not any(one.covers(finding) for one in exemptions)
    ]
    unused = [one for one in exemptions if not any(one.covers(finding) for finding in findings)]
    return open_findings, unused


def read_exemptions(path: Path = EXCEPTIONS) -> list[Exemption]:
    """The file of explanations; each has a check, a resource and a reason, and nothing else."""
    entries = yaml.safe_load(path.read_text(encoding="utf-8")) or []
    return [Exemption(**entry) for entry in entries]


def read_findings(report: Any) -> list[Finding]:
    """The failed checks of a report, each once, however many files show it."""
    results = report if isinstance(report, list) else [report]
    found = set()
    for result in results:
        for failed in result["results"]["failed_checks"]:
            kind, _, name = failed["resource"].split(".", 2)
            found.add(Finding(failed["check_id"], f"{kind}/{name}", failed["check_name"]))
    return sorted(found)


def scan(checkov: str, paths: Sequence[Path]) -> list[Finding]:
    """What checkov finds in the objects of these values.

    Raises:
        RuntimeError: it could not read one of them, or looked at nothing.
    """
    with tempfile.TemporaryDirectory() as directory:
        for path in paths:
            # As if installed: without it checkov takes the namespace for the one named default.
            objects = [copy.deepcopy(found) for found in render(path)]
            for found in objects:
                found["metadata"].setdefault("namespace", "coldfusion")
            text = yaml.safe_dump_all(objects)
            (Path(directory) / path.name).write_text(text, encoding="utf-8")
        command = [checkov, "--directory", directory, "--framework", "kubernetes"]
        answer = subprocess.run(
            [*command, "--skip-download", "--compact", "--quiet", "--output", "json"],
            capture_output=True,
            text=True,
            check=False,
        )
    if not answer.stdout.strip():
        raise RuntimeError(f"checkov ended with {answer.returncode}: {answer.stderr[-2000:]}")
    report = json.loads(answer.stdout)
    summary = report.get("summary", report)
    if summary.get("parsing_errors") or not summary.get("resource_count"):
        raise RuntimeError(f"checkov could not read what the chart renders: {summary}")
    return read_findings(report)


def main(arguments: Sequence[str]) -> int:
    """``python -m tests.chart.policy_scan CHECKOV``; 1 if something is not explained."""
    findings = scan(arguments[0], VALUE_FILES)
    open_findings, unused = unexplained(findings, read_exemptions())
    for finding in open_findings:
        print(f"{finding.check} {finding.resource}: {finding.title}")
    for exemption in unused:
        print(f"{EXCEPTIONS.name}: nothing needs {exemption.check} {exemption.resource}")
    print(
        f"{len(VALUE_FILES)} files of values, {len(findings)} findings, {len(open_findings)} open"
    )
    return 1 if open_findings or unused else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
