"""The fusion itself: chunk by chunk, in one pass or a few over all files, in bounded memory.

::

    theta_{t+1} = theta_t + u, with u = sum_c(coefficient_c * Delta_c) for the mean
    Delta_c     = delta, or theta_c - theta_tau of a contribution in full form

A method with momentum goes on from there, and writes a second file, its state; see ``momentum``.
The deltas are combined into u by a method, before theta_t is added, in float32 (float64 where the
base model has F64), in the order of the contribution ids, and rounded to the base model's dtype
once. Hence the same inputs give the same bits, whatever the chunks and threads. A method that has
to know all deltas beforehand surveys them, in one or two passes of their own.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate

from coldfusion_queue.errors import UsageError
from coldfusion_queue.fusion.chunks import LARGEST_ELEMENT, Chunk, plan_chunks
from coldfusion_queue.fusion.combine import Combiner
from coldfusion_queue.fusion.compatibility import check_layout
from coldfusion_queue.fusion.faults import ContributionFault
from coldfusion_queue.fusion.inputs import (
    FusionInput,
    Member,
    check_inputs,
    files_of,
    open_members,
)
from coldfusion_queue.fusion.layout import ByteSource
from coldfusion_queue.fusion.methods.mean import Mean
from coldfusion_queue.fusion.methods.method import Combination, Method, Survey
from coldfusion_queue.fusion.momentum import FusionState, Momentum, open_momentum
from coldfusion_queue.fusion.read_ahead import ReadAhead
from coldfusion_queue.fusion.reader import SourceReader
from coldfusion_queue.fusion.surveying import Surveyor

__all__ = ["ContributionFault", "FusionInput", "FusionState", "check_layout", "fuse_stream"]

_MEAN = Mean()


def fuse_stream(
    base: ByteSource,
    base_digest: str,
    inputs: Sequence[FusionInput],
    *,
    chunk_bytes: int,
    read_ahead_bytes: int | None = None,
    threads: int,
    method: Method = _MEAN,
    state: FusionState | None = None,
) -> Generator[bytes, None, None]:
    """Fuse contributions into a base model.

    Headers are read and checked in this call; data is read as the iterator is advanced, one
    chunk ahead. Closing the iterator ends its threads; one never started has none.

    Args:
        base: the current base model's file (theta_t).
        base_digest: sha256 of that file, lower-case hex.
        inputs: K >= 1 contributions with ids of their own, in any order.
        chunk_bytes: size of a chunk at most, in bytes of the base model; 8 or more. Each open
            file takes at most two chunks of memory (in its own dtypes), and what is fused four. A
            method adds some MiB, however many contributions there are, and a survey up to one MiB
            for each of them.
        read_ahead_bytes: what all open files may hold together, counted in the base model's
            dtypes; chunks are made smaller for it, down to 8 bytes, so that memory does not grow
            with K. None sets no limit.
        threads: how many files are read at a time, 1 or more.
        method: how the deltas are combined.
        state: of a method with momentum. What is written of it counts as little as what is
            returned before the iterator ends.

    Returns:
        The new safetensors file, in parts: the base model's header as it is, then the data.
        The last part comes only after all digests were found right, and a caller must not use
        what it got before the iterator ends. Integer and boolean tensors are the base model's.

    Raises:
        UsageError: no inputs, an id twice, a coefficient that is no finite number or that the
            method has no meaning for, sizes below their minimum, or a state that does not go with
            the method.
        ContributionFault: one contribution is not a safetensors file (its cause is an
            ``InvalidTensorFileError``), does not fit the base model or leaves its range
            (``IncompatibleModelError``), holds NaN or infinities (``NonFiniteTensorError``), is
            not what was recorded (``DigestMismatchError``) or is gone (``NotFoundError``).
            Without it, the others can be fused.
        InvalidTensorFileError: the base model's file, or the state's, is damaged.
        DigestMismatchError: the base model's file, or the state's, is not the recorded one.
        RetryableError: what a source raises passes unchanged; it is nobody's fault.

    Cost: O(K * P) time for P parameters, every file read once, and once more for each survey of
    the method; a contribution whose tensors are in another order than the base model's is read
    once more, to verify its digest.
    """
    ordered = check_inputs(inputs)
    ids = [item.contribution_id for item in ordered]
    step = method.begin(ids, [item.coefficient for item in ordered])
    if threads < 1:
        raise UsageError("number of threads", str(threads), "1 or more")
    base_reader = SourceReader.open(base, base_digest, None)
    with ThreadPoolExecutor(threads) as pool:
        members = open_members(base, base_reader, ordered, pool)
    momentum = open_momentum(method.decay, state, base_reader)
    own = [base_reader] if momentum is None else [base_reader, momentum.reader]
    files = tuple(dict.fromkeys([*own, *files_of(members)]))
    if read_ahead_bytes is not None:
        chunk_bytes = min(chunk_bytes, _share(read_ahead_bytes, len(files)))
    chunks = plan_chunks(base_reader.layout, chunk_bytes)
    return _generate(files, members, step, momentum, chunks, chunk_bytes, threads)


def _share(read_ahead_bytes: int, num_files: int) -> int:
    """Size of a chunk of which each file can hold two: the one worked on and the next."""
    return max(read_ahead_bytes // (2 * num_files), LARGEST_ELEMENT)


def _generate(
    files: Sequence[SourceReader],
    members: Sequence[Member],
    step: Survey | Combination,
    momentum: Momentum | None,
    chunks: Sequence[Chunk],
    chunk_bytes: int,
    threads: int,
) -> Generator[bytes, None, None]:
    """See ``fuse_stream``; the first of the files is the base model."""
    base = files[0]
    pool = ThreadPoolExecutor(threads, thread_name_prefix="fuse")
    try:
        for _ in pool.map(lambda reader: reader.verify_beforehand(chunk_bytes), files):
            pass
        while isinstance(step, Survey):
            step = _surveyed(step, base, members, chunks, pool)
        combiner = Combiner(base, members, step, momentum)
        yield combiner.begin()
        ahead = ReadAhead(files, chunks, pool)
        firsts = accumulate((chunk.num_floats for chunk in chunks), initial=0)
        for chunk, first in zip(chunks, firsts, strict=False):
            # One expression, so that nothing keeps what was read alive during the yield.
            yield combiner.combine(chunk, ahead.take(), first)
    finally:
        pool.shutdown(cancel_futures=True)


def _surveyed(
    survey: Survey,
    base: SourceReader,
    members: Sequence[Member],
    chunks: Sequence[Chunk],
    pool: ThreadPoolExecutor,
) -> Survey | Combination:
    """What follows from a pass over all deltas; the base model is read if one is relative to it."""
    surveyor = Surveyor(base, members, survey)
    ahead = ReadAhead(files_of(members), chunks, pool)
    for chunk in chunks:
        surveyor.look(chunk, ahead.take())
    surveyor.finish()
    return survey.result()
