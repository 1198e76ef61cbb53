"""``coldfusion-submit site:PATH --site SITE``: name private data that only a site has."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import click

from coldfusion_queue.cli.common import print_json
from coldfusion_queue.errors import ColdFusionError, UsageError
from coldfusion_queue.names import check_site, slug
from coldfusion_queue.sites.paths import SITE_PREFIX, check_path

if TYPE_CHECKING:
    from coldfusion_queue.records import SiteData, Submission
    from coldfusion_queue.settings import Settings

__all__ = ["announce_site", "contributor_of", "parse_site"]


def parse_site(data: str, site: str | None) -> dict[str, str] | None:
    """``site`` and ``path`` of private data, or None if DATA is of any other kind.

    Raises:
        UsageError: one of the two is missing, or has a form that cannot be taken.
    """
    if not data.startswith(SITE_PREFIX):
        if site is not None:
            expected = f"DATA as {SITE_PREFIX}PATH: a path within the data directory of the site"
            raise UsageError("--site", f"{site} with {data}", expected)
        return None
    if site is None:
        expected = f"the name of the site that has it (or ./{data} for a file of this machine)"
        raise UsageError("--site", f"nothing with {data}", expected)
    return {"site": check_site(site), "path": check_path(data.removeprefix(SITE_PREFIX))}


def contributor_of(data: SiteData) -> str:
    """A contributor's name for private data: the site's, then that of the file or folder."""
    return slug(f"{data.site}-{PurePosixPath(data.path).stem}")


def announce_site(
    settings: Settings, data: SiteData, submission: Submission, *, as_json: bool
) -> None:
    """Say what was recorded, for people or for programs."""
    notes = _notes(settings, data.site)
    if as_json:
        print_json(
            {
                "submission": submission.submission_id,
                "contributor": submission.contributor_id,
                "dataset": data.dataset_id,
                "site": data.site,
                "turns": submission.turns,
                "notes": notes,
            }
        )
        return
    for note in notes:
        click.echo(f"note: {note}", err=True)
    turns = "until cancelled" if submission.turns is None else f"{submission.turns} turn(s)"
    click.echo(f"{data.path} of site {data.site}, which is checked there; {turns}", err=True)
    click.echo(submission.submission_id)


def _notes(settings: Settings, site: str) -> list[str]:
    from coldfusion_queue.queue.connection import broker_errors, connect_redis
    from coldfusion_queue.queue.presence import is_present

    try:
        with broker_errors(settings):
            if is_present(connect_redis(settings), settings, site):
                return []
    except ColdFusionError:
        return []  # the submission is recorded, and that it was not sent has been said
    return [f"no worker of site {site} is there now; the turn waits for one"]
