"""An independent auditor: proves or refutes the repository's invariants from its bucket alone.

It never writes, never asks Redis, and shares no code with the writer but the record types, so that
a mistake of the writer is not repeated here: the layout of the bucket, the fold of the ledger and
the digests are read anew. ``bucket`` reads, ``layout`` and ``snapshot`` say what is there,
``history`` what the ledger says, each of the other modules checks one part, ``run`` puts them
together.
"""

from __future__ import annotations

from coldfusion_queue.audit.findings import Check, Finding
from coldfusion_queue.audit.run import AuditReport, audit

__all__ = ["AuditReport", "Check", "Finding", "audit"]
