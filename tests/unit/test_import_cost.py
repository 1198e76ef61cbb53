from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "datasets", "pandas", "pyarrow", "numpy")


def loaded_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_the_package_alone_loads_nothing_heavy() -> None:
    assert not loaded_after("import coldfusion_queue") & {*HEAVY, "celery", "minio", "pydantic"}


def test_the_command_line_loads_nothing_heavy() -> None:
    loaded = loaded_after("import coldfusion_queue.cli.main")

    assert not loaded & {*HEAVY, "celery", "minio", "redis", "pydantic", "rich"}


def test_the_fusion_worker_loads_no_torch() -> None:
    loaded = loaded_after("import workers.fusion_worker, coldfusion_queue.queue.tasks")

    assert not loaded & {"torch", "transformers"}


def test_a_finetune_without_adapters_loads_no_peft() -> None:
    assert not loaded_after("import coldfusion_queue.finetune.run") & {"peft", "accelerate"}


@pytest.mark.parametrize("name", ["finetune_worker", "evaluation_worker", "fusion_worker"])
def test_a_worker_says_where_its_metrics_go_before_the_library_that_writes_them_is_loaded(
    name: str,
) -> None:
    loaded = loaded_after(
        f"import workers.{name}, coldfusion_queue.store, coldfusion_queue.queue.server"
    )

    assert "prometheus_client" not in loaded


def test_without_traces_nothing_that_sends_them_is_loaded() -> None:
    # The client of Redis loads a part of the SDK by itself, wherever there is one.
    loaded = loaded_after(
        "import workers.fusion_worker, coldfusion_queue.queue.tasks, coldfusion_queue.uploading\n"
        "from coldfusion_queue import tracing\n"
        "with tracing.span('a', links=['b']): tracing.traceparent()\n"
        "print(*('sender' for name in sys.modules if name.startswith("
        "('coldfusion_queue.spans', 'opentelemetry.exporter', 'opentelemetry.instrumentation'))))"
    )

    assert not loaded & {"sender", "requests", "google"}
