"""Turns that train low-rank adapters, fused together with other contributions on real servers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from coldfusion_queue.audit import audit
from coldfusion_queue.cli.common import parse_settings
from coldfusion_queue.records import Contribution, Hyperparameters, Outcome, Rule, Submission
from coldfusion_queue.repository.fusing import fuse_once
from coldfusion_queue.repository.policy import change_policy
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.settings import Settings
from coldfusion_queue.turn import TurnInterrupted, run_turn
from tests.integration.conftest import Contribute, Tensors
from tests.integration.submitting import committed, upload_rows
from tests.watching import StopAt, ignore

QUICK = ["epochs=1", "batch_size=8", "learning_rate=1e-3", "max_length=32", "head=fresh"]
LORA = [*QUICK, "adapter=lora", "lora_rank=4"]

Submit = Callable[..., Submission]


@pytest.fixture
def submit(repository: Repository, tmp_path: Path) -> Submit:
    """``submit(*pairs)``: a submission with the hyperparameters of ``--set``."""
    dataset_id = upload_rows(repository, tmp_path)

    def make(*pairs: str, turns: int = 1) -> Submission:
        return repository.submissions.create(
            "a",
            dataset_id=dataset_id,
            turns=turns,
            hyperparameters=parse_settings(Hyperparameters, pairs),
        )

    return make


@pytest.fixture
def read_delta(repository: Repository, tmp_path: Path) -> Callable[[Contribution], Tensors]:
    """The delta of each tensor in float64; those that a file does not name are missing."""

    def read(contribution: Contribution) -> Tensors:
        path = tmp_path / "contribution"
        repository.store.download(contribution.shared, path)
        tensors = {name: array.astype(np.float64) for name, array in load_file(path).items()}
        if contribution.form != "low_rank":
            return tensors
        names = {name.rpartition("/")[0] for name in tensors}
        return {name: tensors[f"{name}/B"] @ tensors[f"{name}/A"] for name in names}

    return read


def test_adapters_and_full_finetunes_are_fused_into_the_mean_of_their_deltas_and_audited(
    repository: Repository,
    settings: Settings,
    submit: Submit,
    read_model: Callable[[int | None], Tensors],
    read_delta: Callable[[Contribution], Tensors],
) -> None:
    # Given two of adapters and one of all parameters
    change_policy(repository, {"min_contributions": 3})
    exact = settings.model_copy(update={"contribution_dtype": "float32"})
    submissions = [submit(*LORA, "seed=1"), submit(*LORA, "seed=2"), submit(*QUICK)]
    for submission in submissions:
        run_turn(repository, exact, submission, 1, ignore)
    contributions = [committed(repository, each, 1) for each in submissions]
    assert [each.form for each in contributions] == ["low_rank", "low_rank", "delta"]
    assert contributions[0].shared.num_bytes < contributions[2].shared.num_bytes / 2

    entry = fuse_once(repository, settings).entry

    assert entry is not None
    assert [decision.outcome for decision in entry.decisions] == [Outcome.FUSED] * 3
    deltas = [read_delta(each) for each in contributions]
    before, after = read_model(0), read_model(1)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        change = sum(delta.get(name, np.zeros(())) for delta in deltas) / 3
        np.testing.assert_allclose(after[name], tensor + change, rtol=0, atol=1e-6)
    for submission in submissions:
        repository.submissions.close(submission.submission_id)
    assert audit(settings, repository.name).findings == ()


@pytest.mark.parametrize("form", ["delta", "full"])
def test_an_operator_can_have_adapters_merged(
    form: str,
    repository: Repository,
    settings: Settings,
    submit: Submit,
    read_model: Callable[[int | None], Tensors],
    read_delta: Callable[[Contribution], Tensors],
) -> None:
    submission, merged = submit(*LORA), submit(*LORA)
    own = settings.model_copy(update={"contribution_form": form, "contribution_dtype": "float32"})
    run_turn(repository, settings, submission, 1, ignore)
    run_turn(repository, own, merged, 1, ignore)

    contribution = committed(repository, merged, 1)
    assert contribution.form == form
    factors, base = read_delta(committed(repository, submission, 1)), read_model(0)
    for name, tensor in read_delta(contribution).items():
        delta = tensor - base[name] if form == "full" else tensor
        np.testing.assert_allclose(delta, factors.get(name, np.zeros(())), rtol=0, atol=1e-6)


def test_a_turn_of_adapters_that_was_interrupted_goes_on_from_a_small_checkpoint(
    repository: Repository, settings: Settings, submit: Submit, tiny_model_dir: Path
) -> None:
    expected, interrupted = submit(*LORA, turns=2), submit(*LORA, turns=2)
    for turn in (1, 2):
        run_turn(repository, settings, expected, turn, ignore)
    with pytest.raises(TurnInterrupted):
        run_turn(repository, settings, interrupted, 1, ignore, StopAt(4))
    (checkpoint,) = repository.checkpoints.all(f"{interrupted.submission_id}.t00001")
    size = (tiny_model_dir / "model.safetensors").stat().st_size
    assert checkpoint.file.num_bytes < 2 * size  # three times its size with all parameters

    for turn in (1, 2):
        run_turn(repository, settings, interrupted, turn, ignore)

    for turn in (1, 2):
        digests = {
            committed(repository, each, turn).shared.digest for each in (expected, interrupted)
        }
        assert len(digests) == 1, turn


TARGET = "encoder.layer.0.attention.self.query.weight"


@pytest.mark.parametrize(
    ("tensors", "rule", "words"),
    [
        pytest.param(
            {f"{TARGET}/B": np.full((32, 2), np.nan), f"{TARGET}/A": np.ones((2, 32))},
            Rule.FINITE,
            TARGET,
            id="NaN",
        ),
        pytest.param(
            {f"{TARGET}/B": np.ones((32, 16)), f"{TARGET}/A": np.ones((16, 32))},
            Rule.MODEL,
            "fewer elements than 1024",
            id="as large as the matrix",
        ),
        pytest.param({f"{TARGET}/B": np.ones((32, 2))}, Rule.MODEL, "both, B and A", id="B alone"),
        pytest.param({"x/B": np.ones((2, 1))}, Rule.MODEL, "'x/B' is present", id="another model"),
        pytest.param(
            {f"{TARGET}/B": np.full((32, 2), 1e3), f"{TARGET}/A": np.ones((2, 32))},
            Rule.RELATIVE_NORM,
            "",
            id="too long",
        ),
    ],
)
def test_hostile_factors_are_refused_with_the_reason_and_the_others_are_fused(
    tensors: Tensors,
    rule: Rule,
    words: str,
    repository: Repository,
    settings: Settings,
    contribute: Contribute,
) -> None:
    good = contribute("good")
    factors = {name: array.astype(np.float32) for name, array in tensors.items()}
    own = {"low_rank": "factors/1"}
    bad = contribute("bad", form="low_rank", change=lambda _: factors, metadata=own)

    entry = fuse_once(repository, settings).entry

    assert entry is not None
    decisions = {each.contribution_id: each for each in entry.decisions}
    assert decisions[good.contribution_id].outcome == Outcome.FUSED
    refusal = decisions[bad.contribution_id]
    assert (refusal.outcome, refusal.rule) == (Outcome.REFUSED, rule)
    assert words in refusal.reason
