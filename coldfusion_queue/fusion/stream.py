"""The fusion itself: chunk by chunk, in one pass or a few over all files, in bounded memory.

::

    theta_{t+1} = theta_t + u, with u = sum_c(coefficient_c * Delta_c) for the mean
    Delta_c     = delta, or theta_c - theta_tau of a contribution in full form

A method with momentum goes on from there, and writes a second file, its state; see ``momentum``.
The deltas are combined into u by a method, before theta_t is added, in float32 (float64 where the
base model has F64), in the order of the contribution ids, and rounded to the base model's dtype
once. Hence the same inputs give the same bits, whatever the chunks and threads, and whichever
processes fuse the files of a large model. A method that has to know all deltas beforehand surveys
them, in one or two passes of their own.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from itertools import accumulate
from typing import Any

from numpy.typing import NDArray

from coldfusion_queue.errors import UsageError
from coldfusion_queue.fusion.chunks import plan_chunks
from coldfusion_queue.fusion.combine import Combiner
from coldfusion_queue.fusion.compatibility import check_layout
from coldfusion_queue.fusion.faults import ContributionFault
from coldfusion_queue.fusion.inputs import FusionInput, check_inputs, files_of, open_members
from coldfusion_queue.fusion.layout import ByteSource
from coldfusion_queue.fusion.methods.mean import Mean
from coldfusion_queue.fusion.methods.method import Combination, Method, Survey
from coldfusion_queue.fusion.model_reader import ModelFiles, ModelReader
from coldfusion_queue.fusion.momentum import FusionState, Momentum, open_momentum
from coldfusion_queue.fusion.read_ahead import ReadAhead, Waiting, share_of
from coldfusion_queue.fusion.reader import Reader
from coldfusion_queue.fusion.surveying import Surveyor
from coldfusion_queue.threads import WorkThreads

__all__ = [
    "ContributionFault",
    "Fusion",
    "FusionInput",
    "FusionState",
    "ModelFiles",
    "check_layout",
    "fuse_stream",
]

_MEAN = Mean()


class Fusion:
    """Contributions that are opened to be fused into a base model, one of its files at a time.

    Making one reads and checks all headers; data is read by the other methods, a chunk ahead of
    what is worked on. They may be called in any order and by several processes, as long as all
    surveys of a step come before what follows from them.

    Args:
        base: the current base model (theta_t).
        inputs: K >= 1 contributions with ids of their own, in any order.
        method: how the deltas are combined.
        chunk_bytes: size of a chunk at most, in bytes of the base model; 8 or more. Each open
            file takes at most two chunks of memory (in its own dtypes). A method adds some MiB,
            however many contributions there are, and a survey up to one MiB for each of them.
        read_ahead_bytes: what all open files may hold together, counted in the base model's
            dtypes; chunks are made smaller for it, down to 8 bytes, so that memory does not grow
            with K. None sets no limit.
        threads: how many files are read at a time, 1 or more.
        waiting: entered by ``survey`` and ``fuse`` while they wait for bytes.

    Raises:
        UsageError: no inputs, an id twice, a coefficient that is no finite number or that the
            method has no meaning for, or sizes below their minimum.
        ContributionFault: one contribution is not a safetensors file (its cause is an
            ``InvalidTensorFileError``), does not fit the base model (``IncompatibleModelError``),
            or is gone (``NotFoundError``). Without it, the others can be fused.
        InvalidTensorFileError: a file of the base model is damaged.
        RetryableError: what a source raises passes unchanged; it is nobody's fault.
    """

    def __init__(
        self,
        base: ModelFiles,
        inputs: Sequence[FusionInput],
        *,
        method: Method = _MEAN,
        chunk_bytes: int,
        read_ahead_bytes: int | None = None,
        threads: int,
        waiting: Waiting = nullcontext,
    ) -> None:
        ordered = check_inputs(inputs)
        ids = [item.contribution_id for item in ordered]
        self.first_step = method.begin(ids, [item.coefficient for item in ordered])
        """What the method begins with."""
        if threads < 1:
            raise UsageError("number of threads", str(threads), "1 or more")
        self._threads = threads
        self._waiting = waiting
        self._decay = method.decay
        self._base = ModelReader.open(base, None)
        with WorkThreads(threads) as pool:
            self._members = open_members(base, self._base, ordered, pool)
        self._files = tuple(dict.fromkeys([self._base, *files_of(self._members)]))
        if self.num_files > 1:
            for member in self._members:
                member.reader.read_in_parts()
        num_open = len(self._files) + (self._decay is not None)
        if read_ahead_bytes is not None:
            chunk_bytes = min(chunk_bytes, share_of(read_ahead_bytes, num_open))
        self._chunk_bytes = chunk_bytes
        self._chunks = [
            plan_chunks(file.layout, chunk_bytes, index)
            for index, file in enumerate(self._base.files)
        ]
        self._is_verified = False

    @property
    def num_files(self) -> int:
        """Files of the base model, and of the fused one."""
        return len(self._base.files)

    def survey(self, survey: Survey, file: int) -> NDArray[Any]:
        """Count what a survey has to know of one file.

        Args:
            survey: the first step, or what followed from the surveys before.
            file: index of the file; 0 or more, below ``num_files``.

        Returns:
            ``Tally.counts``.

        Raises:
            ContributionFault, InvalidTensorFileError, DigestMismatchError, RetryableError: as
                ``fuse``.

        Cost: every file of the contributions is read once, as far as it belongs to this file of
        the base model, whose own data is read if a delta is relative to it.
        """
        surveyor = Surveyor(self._base, self._members, survey)
        with WorkThreads(self._threads, thread_name_prefix="survey") as pool:
            self._verify_beforehand(pool)
            ahead = ReadAhead(files_of(self._members), self._chunks[file], pool, self._waiting)
            for chunk in self._chunks[file]:
                surveyor.look(chunk, ahead.take())
        return surveyor.finish().counts()

    def combination(self) -> Combination:
        """What the method combines deltas by, after all of its surveys, done here."""
        step = self.first_step
        while isinstance(step, Survey):
            step = step.result([self.survey(step, file) for file in range(self.num_files)])
        return step

    def fuse(
        self,
        file: int,
        state: FusionState | None = None,
        combination: Combination | None = None,
    ) -> Generator[bytes, None, None]:
        """Fuse one file.

        Args:
            file: index of the file; 0 or more, below ``num_files``.
            state: of a method with momentum, this file's. What is written of it counts as little
                as what is returned before the iterator ends.
            combination: what followed from the method's surveys; None surveys all files first.

        Returns:
            The new safetensors file, in parts: the base model's header as it is, then the data.
            The last part comes only after all digests were found right, and a caller must not use
            what it got before the iterator ends. Integer and boolean tensors are the base model's.
            Closing the iterator ends its threads; one never started has none.

        Raises:
            UsageError: a state that does not go with the method.
            ContributionFault: one contribution holds NaN or infinities (its cause is a
                ``NonFiniteTensorError``), takes the model out of its range
                (``IncompatibleModelError``), is not what was recorded (``DigestMismatchError``)
                or is gone (``NotFoundError``). Without it, the others can be fused.
            InvalidTensorFileError: the base model's file, or the state's, is damaged.
            DigestMismatchError: the base model's file, or the state's, is not the recorded one.
            RetryableError: what a source raises passes unchanged; it is nobody's fault.

        Cost: O(K * P) time for P parameters, every file read once, as far as it belongs to this
        file of the base model. A contribution whose digest is to be verified is read once more if
        the base model has several files, or the tensors another order.
        """
        momentum = open_momentum(self._decay, state, self._base, file)
        return self._generate(file, momentum, combination)

    def _generate(
        self, file: int, momentum: Momentum | None, combination: Combination | None
    ) -> Generator[bytes, None, None]:
        if combination is None:
            combination = self.combination()
        files = self._files if momentum is None else (*self._files, momentum.reader)
        chunks = self._chunks[file]
        combiner = Combiner(self._base, self._members, combination, momentum)
        pool = WorkThreads(self._threads, thread_name_prefix="fuse")
        try:
            self._verify_beforehand(pool)
            yield combiner.begin(self._base.headers[file])
            ahead = ReadAhead(tuple(dict.fromkeys(files)), chunks, pool, self._waiting)
            for chunk, first in zip(chunks, self._firsts(file), strict=False):
                yield from combiner.combine(chunk, ahead.take(), first)
        finally:
            pool.shutdown(cancel_futures=True)

    def _firsts(self, file: int) -> Iterator[int]:
        """Index of each chunk's first floating-point element among those of the whole model."""
        before = sum(each.layout.num_floats for each in self._base.files[:file])
        return accumulate((chunk.num_floats for chunk in self._chunks[file]), initial=before)

    def _verify_beforehand(self, pool: ThreadPoolExecutor) -> None:
        if self._is_verified:
            return

        def verify(file: Reader) -> None:
            file.verify_beforehand(self._chunk_bytes)

        with self._waiting():
            for _ in pool.map(verify, self._files):
                pass
        self._is_verified = True


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
    """Fuse contributions into a base model of one file, in this process alone.

    Headers are read and checked in this call; data is read as the iterator is advanced.

    Args:
        base: the current base model's file (theta_t).
        base_digest: sha256 of that file, lower-case hex.
        inputs: see ``Fusion``.
        chunk_bytes: see ``Fusion``.
        read_ahead_bytes: see ``Fusion``.
        threads: see ``Fusion``.
        method: see ``Fusion``.
        state: see ``Fusion.fuse``.

    Returns:
        See ``Fusion.fuse``.

    Raises:
        All that ``Fusion`` and ``Fusion.fuse`` do.
    """
    fusion = Fusion(
        ModelFiles.single(base, base_digest),
        inputs,
        method=method,
        chunk_bytes=chunk_bytes,
        read_ahead_bytes=read_ahead_bytes,
        threads=threads,
    )
    return fusion.fuse(0, state)
