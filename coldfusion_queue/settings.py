"""Settings of every process, read from ``COLDFUSION_*`` environment variables.

Precedence: the process environment, then the files of ``$COLDFUSION_SECRETS_DIR``, then the file
that a running local stack leaves at ``$COLDFUSION_HOME/stack/stack.env``, then the defaults below.
What belongs to a repository and
must be the same for everybody (how many contributions make a fusion, staleness, method) is not
here but in its policy (``records.Policy``), which lives in the ledger.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

from pydantic import (
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from coldfusion_queue.broker_url import check_broker_url, has_credentials, with_credentials
from coldfusion_queue.errors import SettingsError, UsageError
from coldfusion_queue.names import check_name, check_site
from coldfusion_queue.settings_checks import checked_endpoint, contradictions
from coldfusion_queue.settings_sources import (
    ENV_PREFIX,
    described,
    read_secrets,
    stack_env_file,
    unknown_variables,
)

__all__ = [
    "ENV_PREFIX",
    "ContributionChoice",
    "ContributionDtype",
    "Settings",
    "load_settings",
    "stack_env_file",
]

Seconds = Annotated[float, Field(gt=0)]

#: What a finetune uploads.
ContributionChoice = Literal["auto", "delta", "full"]

#: In what a delta is uploaded: 4, 2, 2 or 0.39 bytes an element.
ContributionDtype = Literal["float32", "bfloat16", "float16", "quantised"]


class Settings(BaseSettings):
    """What one process needs to know; immutable once read."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        use_attribute_docstrings=True,
    )

    home: Path = Path("~/.coldfusion")
    """Directory of this machine's caches and of the local stack. ``~`` is expanded."""

    repository: str = "default"
    """Name of the repository: the prefix of all its objects in the bucket. Several repositories
    can share one bucket and one broker."""

    secrets_dir: Path | None = None
    """Directory with a file for each secret, named as its variable, such as
    ``COLDFUSION_S3_SECRET_KEY``; any setting can be given so, and variables go before files."""

    # --- broker -------------------------------------------------------------------------------
    broker_username: str | None = None
    """User of the broker, if it is not in ``broker_url``; it needs ``broker_password``."""

    broker_password: SecretStr | None = None
    """Password of the broker, if it is not in ``broker_url``; written as it is, without ``%``."""

    # After the two that its validator puts into it.
    broker_url: SecretStr = Field(SecretStr("redis://127.0.0.1:6379/0"), validate_default=True)
    """Redis-protocol server: ``redis://`` or ``rediss://`` (TLS), then
    ``[[user]:password@]host:port/db``; or ``unix://``; or ``sentinel://`` or ``sentinels://`` (TLS)
    and the Sentinels, ``[[user]:password@]host:port[,host:port...]/db``. No Redis Cluster."""

    broker_sentinel_master: str | None = None
    """Name by which the Sentinels of ``broker_url`` know the server that they watch."""

    broker_sentinel_password: SecretStr | None = None
    """Password of the Sentinels themselves, if they have one."""

    broker_ca_file: Path | None = None
    """PEM file of the authority that signed the broker's certificate; None trusts the system's."""

    broker_connect_timeout_seconds: Seconds = 5.0
    """Seconds to wait for a connection to the broker before it counts as unreachable."""

    # --- object store -------------------------------------------------------------------------
    s3_endpoint: str = "http://127.0.0.1:9000"
    """URL of the S3 endpoint, ``http://`` or ``https://`` (TLS), without bucket or path."""

    s3_bucket: str = Field("coldfusion", pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")
    """Bucket that holds the repositories; it must exist (``coldfusion init`` creates it with
    ``--create-bucket``)."""

    s3_access_key: SecretStr | None = None
    """Access key; None makes anonymous requests. Give both keys or neither."""

    s3_secret_key: SecretStr | None = None
    """Secret key; see ``s3_access_key``."""

    s3_session_token: SecretStr | None = None
    """Session token of temporary credentials, if they have one."""

    s3_region: str = "us-east-1"
    """Region that requests are signed for; most self-hosted stores accept the default."""

    s3_addressing: Literal["auto", "path", "virtual"] = "auto"
    """``path`` puts the bucket in the path (self-hosted stores), ``virtual`` in the host name
    (AWS); ``auto`` decides from the endpoint."""

    s3_ca_file: Path | None = None
    """PEM file of the authority that signed the store's certificate; None trusts the system's."""

    s3_connect_timeout_seconds: Seconds = 5.0
    """Seconds to wait for a connection to the store."""

    s3_read_timeout_seconds: Seconds = 60.0
    """Seconds without a byte from the store after which a request is given up and retried."""

    s3_max_attempts: int = Field(6, ge=1, le=20)
    """How often one request is tried in all, with exponential backoff and jitter in between."""

    transfer_part_bytes: int = Field(16 * 2**20, ge=5 * 2**20, le=5 * 2**30)
    """Bytes of one part of a multipart upload or of one ranged read. An upload holds one part more
    than ``transfer_threads`` in memory. S3 allows 10,000 parts, so 16 MiB reach 160 GB."""

    transfer_threads: int = Field(4, ge=1, le=64)
    """Parallel requests of one upload or download."""

    upload_patience_seconds: Seconds = 600.0
    """Seconds for which a finished finetune goes on trying to upload while the store is away,
    before its turn is begun again from the last checkpoint or from the start."""

    # --- tasks --------------------------------------------------------------------------------
    finetune_time_limit_seconds: int = Field(6 * 3600, ge=60)
    """Seconds after which a finetune is killed and recorded as failed."""

    fusion_time_limit_seconds: int = Field(3600, ge=10)
    """Seconds after which a fusion is killed; the next one starts again from the ledger."""

    lease_seconds: int = Field(60, ge=2)
    """Seconds within which the task of a dead worker is given to another one. A worker that lives
    renews the leases of its tasks, however long they take."""

    task_max_worker_losses: int = Field(5, ge=0)
    """How often a worker may die in one turn, killed for its memory for example, before the turn
    is recorded as failed."""

    soft_shutdown_seconds: int = Field(25, ge=0)
    """Seconds that a worker which is told to stop gives its running task to save a checkpoint;
    then the task is killed and put back on the queue."""

    drain_seconds: int = Field(0, ge=0)
    """Seconds that it lets its running task go on before that; 0 asks for the checkpoint at
    once."""

    task_max_retries: int = Field(8, ge=0)
    """Retries of a task after an error that may pass, with backoff from 1 s to 5 min and jitter."""

    fusion_interval_seconds: Seconds = 30.0
    """Seconds between two looks of the fusion worker at the inbox."""

    reconcile_interval_seconds: Seconds = 10.0
    """Seconds between two searches for submissions whose next turn is queued nowhere. A turn that
    is missing at two of them is sent again."""

    gc_interval_seconds: Seconds = 3600.0
    """Seconds between two collections of garbage."""

    gc_grace_seconds: int = Field(24 * 3600, ge=0)
    """Seconds for which nothing is collected that might be in use: what no record names yet, and
    base versions that were current within this time. It must not be shorter than a finetune may
    take."""

    fusion_lock_seconds: Seconds = 60.0
    """Lease of the locks that keep a second fusion, or a second collection of garbage, from
    starting; renewed while one runs. They save work; correctness rests on the ledger."""

    fusion_chunk_bytes: int = Field(16 * 2**20, ge=64 * 2**10)
    """Bytes of a chunk while fusing, at most; up to two of each open file are held in memory."""

    fusion_read_ahead_bytes: int = Field(224 * 2**20, ge=2**20)
    """Bytes that all open files of a fusion hold in memory together. Chunks are made smaller for
    it, so that memory does not grow with the number of contributions."""

    fusion_threads: int = Field(8, ge=1, le=64)
    """Contributions read at the same time while fusing."""

    fusion_share_bytes: int = Field(32 * 2**30, ge=0)
    """Bytes of contributions from which on a fusion is shared with other fusion workers, if the
    base model has several weight files."""

    fusion_helpers: int = Field(4, ge=0)
    """Messages that ask other fusion workers for help, for each step of a fusion that is shared."""

    # --- finetuning ---------------------------------------------------------------------------
    device: str = Field("auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")
    """Where to finetune: ``auto`` takes CUDA, then Apple's MPS, then the CPU."""

    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of forward and backward passes; parameters stay float32. ``auto`` is bfloat16
    on GPUs and CPUs that have it and float32 elsewhere."""

    micro_batch_tokens: int | None = Field(None, ge=1)
    """Tokens of one forward pass, padding included; None is 16,384 on a GPU and 4,096 on a CPU.
    Out of memory halves it for the rest of the finetune."""

    compile: bool = False
    """Compile the model with ``torch.compile`` at the beginning of each finetune; needs a C++
    compiler. Compiling takes time, which only long finetunes can earn back."""

    torch_threads: int | None = Field(None, ge=1)
    """CPU threads of one finetune; None leaves torch's default."""

    duty_cycle: float = Field(1.0, gt=0, le=1)
    """Share of the time that a finetune may use its device; below 1 it pauses after each step,
    for machines that have other work to do."""

    checkpoint_seconds: float | None = Field(600, gt=0)
    """Seconds from the beginning of one checkpoint of a running finetune to that of the next, or
    until the last is uploaded if that takes longer; what is not uploaded is lost when the worker
    dies. None makes one only when the worker is told to stop."""

    contribution_form: ContributionChoice = "auto"
    """What a finetune uploads: finetuned minus base parameters (``delta``), or the finetuned
    parameters (``full``). ``auto`` is the delta, of low-rank adapters as their factors, which are
    float32 and much smaller; the others merge adapters into the parameters first."""

    contribution_dtype: ContributionDtype = "bfloat16"
    """In what a delta is uploaded, where the base model's own dtype is not narrower;
    ``docs/fusion.md`` says what each costs. The full form is always in the base model's dtype."""

    prepare_ahead_seconds: float = Field(30.0, ge=0)
    """Seconds before the end of a training in which a finetune worker takes its next turn, and
    prepares it in a second process while the first has the device. A turn that waited for twice as
    long goes back on the queue. 0 has one process, and nothing between two turns overlaps."""

    cache_bytes: int = Field(20 * 2**30, ge=0)
    """Size limit of the local cache of base versions and datasets; the least recently used goes
    first. 0 keeps nothing between tasks."""

    progress_interval_seconds: Seconds = 1.0
    """Seconds between two progress reports of a running finetune."""

    pool: str | None = None
    """Pool that a finetune worker belongs to, such as the machines with one kind of GPU: the turns
    that a pool is at are counted by themselves, so that it can be scaled by them."""

    # --- private data -------------------------------------------------------------------------
    site: str | None = None
    """Site that a finetune worker belongs to: it takes the turns of that site's queue and no
    others. None takes everybody's but those of sites."""

    site_data_dir: Path | None = None
    """Directory of the site's private data. Submissions name paths within it; nothing outside it
    is read."""

    # --- observation --------------------------------------------------------------------------
    metrics_host: str = "0.0.0.0"  # noqa: S104 - Prometheus scrapes from another host
    """Address on which workers and the exporter serve ``/metrics``."""

    metrics_port: int = Field(9464, ge=0, le=65535)
    """Port of ``/metrics``; 0 serves none."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least severe log records that are written."""

    log_format: Literal["auto", "json", "text"] = "auto"
    """``json`` writes one object a line, ``text`` is for people; ``auto`` is text on a terminal."""

    traces: bool = False
    """Send traces by OTLP over HTTP to where the standard ``OTEL_EXPORTER_OTLP_*`` variables say;
    needs the extra ``traces``."""

    @field_validator("home", "secrets_dir", "broker_ca_file", "s3_ca_file", "site_data_dir")
    @classmethod
    def _expand_user(cls, value: Path | None) -> Path | None:
        return value.expanduser() if value is not None else None

    @field_validator("repository")
    @classmethod
    def _check_repository(cls, value: str) -> str:
        try:
            return check_name("repository", value)
        except UsageError as error:
            raise ValueError(str(error)) from None

    @field_validator("site", "pool")
    @classmethod
    def _check_site(cls, value: str | None, info: ValidationInfo) -> str | None:
        try:
            return None if value is None else check_site(value, str(info.field_name))
        except UsageError as error:
            raise ValueError(str(error)) from None

    @field_validator("broker_url")
    @classmethod
    def _check_broker_url(cls, value: SecretStr, info: ValidationInfo) -> SecretStr:
        url = value.get_secret_value()
        check_broker_url(url)
        username, password = info.data.get("broker_username"), info.data.get("broker_password")
        if username is None and password is None:
            return value
        if has_credentials(url):
            raise ValueError(
                "expected no user or password in it beside COLDFUSION_BROKER_USERNAME and "
                "COLDFUSION_BROKER_PASSWORD"
            )
        secret = "" if password is None else password.get_secret_value()
        return SecretStr(with_credentials(url, username, secret))

    @field_validator("s3_endpoint")
    @classmethod
    def _check_endpoint(cls, value: str) -> str:
        return checked_endpoint(value)

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        problems = list(contradictions(self))
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def cache_dir(self) -> Path:
        """Directory of cached base versions and datasets."""
        return self.home / "cache"

    @property
    def residuals_dir(self) -> Path:
        """Directory of what quantising cut off the last turns of standing contributors."""
        return self.home / "residuals"

    @property
    def site_scratch_dir(self) -> Path:
        """Directory of a site's data in canonical form, for as long as a turn runs."""
        return self.home / "site" / "scratch"

    @property
    def site_labels_dir(self) -> Path:
        """Directory of the class names of a site's data, by submission and turn."""
        return self.home / "site" / "labels"

    @property
    def stack_dir(self) -> Path:
        """Directory of the local stack: its data, logs and process records."""
        return self.home / "stack"


def load_settings(**overrides: object) -> Settings:
    """Read and validate the settings.

    Args:
        **overrides: values by field name that go before the environment.

    Raises:
        SettingsError: one or more variables are wrong or unknown; names all of them.
    """
    secrets, problems = read_secrets(Settings.model_fields)
    problems.extend(unknown_variables(Settings.model_fields))
    try:
        settings = Settings(
            _env_file=stack_env_file(),
            _env_file_encoding="utf-8",
            **cast("Any", {**secrets, **overrides}),
        )
    except ValidationError as error:
        # A failed value is shown only for fields that are no secrets.
        for item in error.errors(include_url=False):
            name = ENV_PREFIX + "_".join(str(part) for part in item["loc"]).upper()
            problems.append(described(name if item["loc"] else "together", item["msg"]))
        raise SettingsError("\n".join(problems)) from None
    except OSError as error:
        problem = f"{error.filename}: {error.strerror}; it belongs to a local stack of another user"
        raise SettingsError(f"  {problem}") from error
    if problems:
        raise SettingsError("\n".join(problems))
    return settings
