"""``coldfusion-submit``: hand in a dataset."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from coldfusion_queue.cli.common import (
    json_option,
    open_repository,
    open_sender,
    parse_settings,
    print_json,
    trace_command,
    transfer_bar,
)
from coldfusion_queue.cli.submit_site import (
    announce_site,
    contributor_of,
    parse_site,
)
from coldfusion_queue.cli.waiting import wait_for
from coldfusion_queue.errors import RetryableError, UsageError
from coldfusion_queue.names import check_name
from coldfusion_queue.tracing import note_ids

if TYPE_CHECKING:
    from coldfusion_queue.intake.prepare import PreparedDataset
    from coldfusion_queue.queue.sending import TurnSender
    from coldfusion_queue.records import DatasetRecord, Submission
    from coldfusion_queue.repository.repository import Repository
    from coldfusion_queue.settings import Settings

__all__ = ["submit"]


class _Turns(click.ParamType[int | None]):
    name = "turns"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | None:
        if str(value).lower() == "forever":
            return None
        text = str(value)
        if not text.isdecimal() or int(text) < 1:
            self.fail(f"{text!r} is neither a number from 1 nor 'forever'", param, ctx)
        return int(text)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("data")
@click.option("--text", metavar="COLUMN", help="Column of the text; guessed from its name.")
@click.option("--text-pair", metavar="COLUMN", help="Column of a second text.")
@click.option("--label", metavar="COLUMN", help="Column of the label; guessed from its name.")
@click.option("--split", metavar="NAME", help="Split to train on.  [default: train]")
@click.option(
    "--objective",
    type=click.Choice(["auto", "classification", "regression"]),
    default="auto",
    show_default=True,
    help="What the labels are.",
)
@click.option(
    "--name", metavar="CONTRIBUTOR", help="Who contributes; derived from DATA by default."
)
@click.option("--site", metavar="SITE", help="Site that has DATA, which is site:PATH then.")
@click.option(
    "--turns",
    type=_Turns(),
    metavar="N|forever",
    default="1",
    show_default=True,
    help="Contributions to make, each from the newest base.",
)
@click.option(
    "--set", "pairs", multiple=True, metavar="KEY=VALUE", help="Hyperparameter, e.g. epochs=3."
)
@click.option(
    "--held-out",
    is_flag=True,
    help="Keep DATA to measure base models on; nobody is finetuned on it.",
)
@click.option("--wait", is_flag=True, help="Wait until it is done, showing progress.")
@click.option(
    "--until",
    type=click.Choice(["committed", "fused"]),
    default="committed",
    show_default=True,
    help="What --wait waits for.",
)
@json_option
def submit(
    data: str,
    text: str | None,
    text_pair: str | None,
    label: str | None,
    split: str | None,
    objective: str,
    name: str | None,
    site: str | None,
    turns: int | None,
    pairs: tuple[str, ...],
    held_out: bool,
    wait: bool,
    until: str,
    as_json: bool,
) -> None:
    """Submit DATA to be finetuned on.

    \b
    DATA is one of
      a .jsonl, .csv, .tsv or .parquet file, or a folder of them by split
      hub:NAME[/CONFIG]   a dataset of the Hugging Face Hub
      s3://BUCKET/KEY     an object of the configured store
      site:PATH           private data of --site SITE, whose workers alone read it

    Everything is checked before anything is uploaded. The data goes to your own object store,
    nowhere else; only weights are fused. That of a site stays there, and is checked there.
    """
    from coldfusion_queue.records import Hyperparameters, SiteData

    if name is not None:
        check_name("contributor", name)
    if wait and turns is None:
        raise UsageError("--wait", "with --turns forever", "a number of turns to wait for")
    if held_out and (wait or site is not None or turns != 1 or pairs):
        expected = "no --wait, --site, --turns and --set: nobody is finetuned on it"
        raise UsageError("--held-out", "with another of these options", expected)
    at_site = parse_site(data, site)
    hyperparameters = parse_settings(Hyperparameters, pairs)
    settings, repository = open_repository()
    trace_command(settings)
    sender = None if held_out else open_sender(settings)
    announce: Callable[[Submission], None]
    if at_site is None:
        with tempfile.TemporaryDirectory(prefix="coldfusion-") as work_dir:
            prepared = _prepare(
                settings, Path(work_dir), data, text, text_pair, label, split, objective
            )
            hyperparameters.metric_of(prepared.objective)  # refused before anything is uploaded
            dataset = _upload(repository, prepared, quiet=as_json)
        suggested_name, dataset_id, private = prepared.suggested_name, dataset.dataset_id, None
        announce = partial(_announce, dataset, prepared, as_json=as_json)
    else:
        columns = {"text": text, "text_pair": text_pair, "label": label}
        private = SiteData.model_validate(
            {**at_site, **columns, "split": split, "objective": objective}
        )
        suggested_name, dataset_id = contributor_of(private), None
        announce = partial(announce_site, settings, private, as_json=as_json)
    submission = repository.submissions.create(
        name or suggested_name,
        kind="held_out" if held_out else "finetune",
        dataset_id=dataset_id,
        turns=turns,
        hyperparameters=hyperparameters,
        site_data=private,
    )
    note_ids(submission=submission.submission_id)
    if sender is not None:
        _send(sender, submission)
    if not (wait and as_json):  # else there would be two documents
        announce(submission)
    if wait:
        wait_for(settings, repository, submission, until=until, as_json=as_json)


def _send(sender: TurnSender, submission: Submission) -> None:
    try:
        sender.send(submission.submission_id, 1, submission.site)
    except RetryableError as error:
        click.echo(f"note: {error}", err=True)
        click.echo("the submission is recorded and will be sent later; do not repeat it", err=True)


def _prepare(
    settings: Settings,
    work_dir: Path,
    data: str,
    text: str | None,
    text_pair: str | None,
    label: str | None,
    split: str | None,
    objective: str,
) -> PreparedDataset:
    from coldfusion_queue.intake.prepare import prepare_dataset
    from coldfusion_queue.intake.s3 import fetch_s3_with

    return prepare_dataset(
        data,
        text=text,
        text_pair=text_pair,
        label=label,
        split=split,
        objective=objective,
        work_dir=work_dir,
        fetch_s3=fetch_s3_with(settings),
    )


def _upload(repository: Repository, prepared: PreparedDataset, *, quiet: bool) -> DatasetRecord:
    from coldfusion_queue.intake.upload import upload_dataset

    total = sum(split.num_bytes for split in prepared.splits.values())
    with transfer_bar("dataset", total, hidden=quiet) as bar:
        return upload_dataset(repository.store, repository.keys, prepared, bar.advance)


def _announce(
    dataset: DatasetRecord, prepared: PreparedDataset, submission: Submission, *, as_json: bool
) -> None:
    if as_json:
        print_json(
            {
                "submission": submission.submission_id,
                "contributor": submission.contributor_id,
                "dataset": dataset.dataset_id,
                "objective": dataset.objective.value,
                "num_examples": dataset.splits["train"].num_examples,
                "turns": submission.turns,
                "notes": prepared.notes,
            }
        )
        return
    for note in prepared.notes:
        click.echo(f"note: {note}", err=True)
    columns = prepared.columns
    texts = " and ".join(repr(name) for name in (columns.text, columns.text_pair) if name)
    kind = f"{dataset.objective.value}, {len(dataset.labels)} labels"
    if not dataset.labels:
        kind = dataset.objective.value
    turns = "until cancelled" if submission.turns is None else f"{submission.turns} turn(s)"
    if submission.kind == "held_out":
        turns = "held out, to measure on"
    number = dataset.splits["train"].num_examples
    click.echo(f"{number} examples of {texts} with {columns.label!r} ({kind}); {turns}", err=True)
    click.echo(submission.submission_id)
