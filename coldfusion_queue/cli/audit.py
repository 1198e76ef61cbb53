"""``coldfusion audit``: does the bucket hold what the protocol promises."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from coldfusion_queue.cli.common import console, json_option, print_json, transfer_bar
from coldfusion_queue.errors import AuditFailedError

if TYPE_CHECKING:
    from coldfusion_queue.audit import AuditReport

__all__ = ["audit"]


@click.command()
@click.option(
    "--grace-seconds",
    type=click.FloatRange(min=0),
    default=86_400.0,
    show_default=True,
    help="Age from which on something that nothing refers to is a finding.",
)
@click.option("--skip-digests", is_flag=True, help="Compare sizes of files, but do not read them.")
@json_option
def audit(grace_seconds: float, skip_digests: bool, as_json: bool) -> None:
    """Check every invariant of the repository from the bucket alone, without changing anything.

    Reads all files that records name, unless told not to. Exits with 19 if something is wrong.
    """
    from coldfusion_queue.audit import audit as run_audit
    from coldfusion_queue.settings import load_settings

    settings = load_settings()
    with transfer_bar("digests", None, hidden=as_json or skip_digests) as bar:
        report = run_audit(
            settings,
            settings.repository,
            grace_seconds,
            digests=not skip_digests,
            progress=bar.advance,
        )
    if as_json:
        print_json(_as_data(report))
    else:
        _print(report)
    if report.findings:
        raise AuditFailedError(settings.repository, len(report.findings))


def _counts(report: AuditReport) -> dict[str, int]:
    return {
        "ledger entries": report.num_entries,
        "base versions": report.num_versions,
        "contributions": report.num_contributions,
        "submissions": report.num_submissions,
        "datasets": report.num_datasets,
        "objects": report.num_objects,
        "files": report.num_files,
        "files digested": report.num_digested,
        "bytes digested": report.bytes_digested,
    }


def _as_data(report: AuditReport) -> dict[str, Any]:
    checked = {name.replace(" ", "_"): count for name, count in _counts(report).items()}
    return {"checked": checked, "findings": [vars(finding) for finding in report.findings]}


def _print(report: AuditReport) -> None:
    terminal = console()
    for name, count in _counts(report).items():
        terminal.print(f"{name:<16} {count:>16,}", markup=False)
    for finding in report.findings:
        terminal.print(f"[red]wrong[/red]  {finding.check:<27} ", end="")
        terminal.print(f"{finding.subject}: {finding.problem}", markup=False)
    if not report.findings:
        terminal.print("[green]nothing is wrong[/green]")
