"""From what a user hands in to a validated dataset in the store, and back to its examples.

``sources`` reads DATA; ``splits``, ``tables``, ``parquet``, ``hub`` and ``s3`` find and read its
rows; ``columns``, ``staging`` and ``labels`` validate them; ``prepare`` writes them in the form
of ``canonical``; ``upload`` puts them into the store; ``download`` and ``examples`` get
them out again.
Importing this package loads neither pyarrow nor `datasets`.
"""

from __future__ import annotations

from coldfusion_queue.intake.download import download_dataset, read_dataset_record
from coldfusion_queue.intake.examples import Examples, load_examples
from coldfusion_queue.intake.prepare import PreparedDataset, PreparedSplit, prepare_dataset
from coldfusion_queue.intake.s3 import fetch_s3_with
from coldfusion_queue.intake.sources import parse_source, suggest_name
from coldfusion_queue.intake.upload import upload_dataset

__all__ = [
    "Examples",
    "PreparedDataset",
    "PreparedSplit",
    "download_dataset",
    "fetch_s3_with",
    "load_examples",
    "parse_source",
    "prepare_dataset",
    "read_dataset_record",
    "suggest_name",
    "upload_dataset",
]
