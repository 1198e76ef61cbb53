"""Report and model card of a repository on the real store, through the command line."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from transformers import AutoModel, AutoTokenizer

from coldfusion_queue.audit import audit
from coldfusion_queue.cli.main import cli
from coldfusion_queue.errors import AccessDeniedError, NotFoundError, UsageError
from coldfusion_queue.records import (
    BaseVersion,
    EvaluationSpec,
    ModelIdentity,
    Policy,
)
from coldfusion_queue.repository.evaluations import Evaluations
from coldfusion_queue.repository.fusing import fuse_once
from coldfusion_queue.repository.policy import change_policy
from coldfusion_queue.repository.repository import Repository
from coldfusion_queue.repository.rolling_back import roll_back
from coldfusion_queue.settings import Settings
from coldfusion_queue.store import Store
from tests.integration.audited import NO_GRACE
from tests.integration.conftest import Contribute
from tests.integration.probing import evaluation, fuse_until_decided, harmed_by
from tests.integration.submitting import upload_rows
from tests.unit.report.pages import Parsed


@pytest.fixture
def policy() -> Policy:
    return Policy(min_contributions=1, max_copy_cosine=None, min_cosine=None)


@pytest.fixture
def dataset_id(repository: Repository, tmp_path: Path) -> str:
    """A dataset that people know as ``definitions``."""
    found = upload_rows(repository, tmp_path)
    repository.submissions.create("definitions", kind="held_out", dataset_id=found)
    return found


@pytest.fixture
def eventful(
    repository: Repository, settings: Settings, contribute: Contribute, dataset_id: str
) -> Repository:
    """Version 1 is fused, a batch withheld, ``bad`` refused for it, version 2, back to 1."""
    change_policy(repository, {"gate_datasets": (dataset_id,)})
    contribute("early")
    fuse_until_decided(repository, settings, harmed_by(()))
    for number, name in enumerate(("good", "bad", "fine")):
        contribute(name, seed=number + 1)
    fuse_until_decided(repository, settings, harmed_by({"bad"}))
    roll_back(repository, 1, "the operator liked it better")
    return repository


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(each) for each in arguments], catch_exceptions=False)


def measure(repository: Repository, base: BaseVersion, spec: EvaluationSpec, score: float) -> None:
    for request in repository.evaluations.want(base, [spec]):
        repository.evaluations.record(evaluation(request, score))


def files(directory: Path) -> dict[str, str]:
    """Digests of the files of a directory."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()
    }


@pytest.mark.usefixtures("eventful")
def test_the_page_shows_what_happened(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"

    done = run("report", path)

    assert done.exit_code == 0
    assert done.stdout.strip() == f"{path} shows the repository up to base version 3"
    assert files(path.parent).keys() == {"report.html"}
    text = Parsed(path.read_text(encoding="utf-8")).text
    for sentence in (
        "the operator liked it better",
        "bad.t00001",
        "By rule: gate 1",
        "1 withheld: withheld: gate",
        "definitions, accuracy",
    ):
        assert sentence in text


@pytest.mark.usefixtures("eventful")
def test_the_same_is_there_as_json(repository: Repository, tmp_path: Path) -> None:
    data = json.loads(run("report", "--json").stdout)

    kinds = [step["kind"] for step in data["steps"]]
    withheld = [entry for entry in repository.ledger.entries() if entry.withheld is not None]
    assert len(withheld) >= 1
    assert kinds.count("withheld") == len(withheld)
    assert [kind for kind in kinds if kind != "withheld"] == [
        "pretrained",
        "fused",
        "fused",
        "restored",
    ]
    counts = {item["contributor_id"]: item for item in data["contributors"]}
    assert {name for name, item in counts.items() if item["fused"]} == {"early", "good", "fine"}
    assert counts["bad"]["refused"] == 1
    assert data["rules"] == {"gate": 1}
    assert data["waiting"]["num_known"] == 4
    path = tmp_path / "both.html"
    assert json.loads(run("report", "1", path, "--json").stdout)["version"] == 1
    assert "Up to base version 1" in path.read_text(encoding="utf-8")


@pytest.mark.usefixtures("eventful")
def test_a_page_replaces_the_last_one_and_nothing_else(tmp_path: Path) -> None:
    path, other = tmp_path / "report.html", tmp_path / "model.safetensors"
    path.write_text("the last one")
    other.write_text("mine")

    run("report", path)

    assert "the last one" not in path.read_text(encoding="utf-8")
    with pytest.raises(UsageError, match="ends in"):
        run("report", other)
    assert other.read_text() == "mine"


@pytest.mark.usefixtures("eventful")
@pytest.mark.parametrize("arguments", [(), ("3",), ("3", "x.html", "y.html"), ("new", "x.html")])
def test_arguments_that_cannot_be_taken_are_told(arguments: Sequence[str]) -> None:
    with pytest.raises(UsageError, match="VERSION"):
        run("report", *arguments)


@pytest.mark.usefixtures("eventful")
def test_a_version_that_there_is_not_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="newest is 3"):
        run("report", "9", tmp_path / "x.html")

    assert list(tmp_path.glob("*.html*")) == []


def test_a_pulled_model_has_a_card_and_loads(
    eventful: Repository, dataset_id: str, tmp_path: Path
) -> None:
    spec = EvaluationSpec(dataset_id=dataset_id, kind="few_shot", num_shots=8)
    base = eventful.ledger.base_version(2)
    measure(eventful, base, spec, 0.625)
    directory = tmp_path / "pulled"

    assert run("pull", "2", directory).exit_code == 0

    AutoModel.from_pretrained(directory)
    AutoTokenizer.from_pretrained(directory)
    text = (directory / "README.md").read_text(encoding="utf-8")
    assert "good.t00001" in text
    assert "fine.t00001" in text
    assert "bad.t00001" not in text
    assert "| few_shot 8 | `definitions` | accuracy | 62.5 |" in text
    assert "The gate measured 51.00" in text
    assert 'base_model: "tiny"' in text
    pulled = files(directory)
    assert {name: pulled[name] for name in base.files} == {
        name: file.digest for name, file in base.files.items()
    }
    assert pulled.keys() - base.files.keys() == {"README.md", "lineage.json"}


def test_a_restored_version_has_the_scores_of_what_it_restores(
    eventful: Repository, dataset_id: str, tmp_path: Path
) -> None:
    spec = EvaluationSpec(dataset_id=dataset_id, kind="frozen")
    measure(eventful, eventful.ledger.base_version(1), spec, 0.875)

    run("pull", tmp_path / "pulled")

    text = (tmp_path / "pulled" / "README.md").read_text(encoding="utf-8")
    assert "Version 3 has the parameters of version 1: version 2 was rolled back" in text
    assert "| frozen | `definitions` | accuracy | 87.5 |" in text


def test_the_pretrained_models_card_is_kept_beside_ours(
    store: Store, settings: Settings, policy: Policy, tiny_model_dir: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    shutil.copytree(tiny_model_dir, source)
    own = "---\nlicense: apache-2.0\n---\n# The tiny model\n"
    (source / "README.md").write_text(own, encoding="utf-8")
    repository = Repository(store, settings.repository)
    identity = ModelIdentity(
        model_type="bert", hub_id="org/tiny", tokenizer_digest=None, num_parameters=1
    )
    base = repository.base_versions.upload_first(source)
    repository.initialise(identity, base, policy)

    run("pull", tmp_path / "pulled")

    pulled = tmp_path / "pulled"
    assert (pulled / "README.pretrained.md").read_text(encoding="utf-8") == own
    assert files(pulled)["README.pretrained.md"] == base.files["README.md"].digest
    assert "The pretrained model's is `apache-2.0`" in (pulled / "README.md").read_text("utf-8")
    AutoModel.from_pretrained(pulled)
    assert audit(settings, repository.name, NO_GRACE).findings == ()


def test_credentials_that_may_read_models_alone_get_the_model(
    eventful: Repository, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_: object) -> None:
        raise AccessDeniedError("the store", "AccessDenied", "COLDFUSION_S3_ACCESS_KEY")

    monkeypatch.setattr(Evaluations, "of", refuse)

    done = run("pull", tmp_path / "pulled")

    assert done.exit_code == 0
    assert "has no card" in done.stderr
    assert not (tmp_path / "pulled" / "README.md").exists()
    AutoModel.from_pretrained(tmp_path / "pulled")


def test_nothing_is_written_to_the_bucket(
    eventful: Repository, settings: Settings, tmp_path: Path
) -> None:
    fuse_once(eventful, settings)
    before = {item.key: item.stamp for item in eventful.store.list(f"{eventful.name}/")}

    run("report", tmp_path / "report.html")
    run("pull", tmp_path / "pulled")

    assert {item.key: item.stamp for item in eventful.store.list(f"{eventful.name}/")} == before
