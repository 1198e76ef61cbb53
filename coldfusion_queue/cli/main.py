"""Entry points ``coldfusion`` and ``coldfusion-submit``, and what every error becomes."""

from __future__ import annotations

import os
import sys
import traceback
from typing import NoReturn

import click

from coldfusion_queue import __version__
from coldfusion_queue.cli.audit import audit
from coldfusion_queue.cli.cancel import cancel
from coldfusion_queue.cli.completion import completion
from coldfusion_queue.cli.config import config
from coldfusion_queue.cli.contribute import contribute
from coldfusion_queue.cli.demo import demo
from coldfusion_queue.cli.doctor import doctor
from coldfusion_queue.cli.evaluate import evaluate
from coldfusion_queue.cli.experiment import experiment
from coldfusion_queue.cli.fuse import fuse
from coldfusion_queue.cli.gc import gc
from coldfusion_queue.cli.history import history
from coldfusion_queue.cli.init import init
from coldfusion_queue.cli.policy import policy
from coldfusion_queue.cli.pull import pull
from coldfusion_queue.cli.report import report
from coldfusion_queue.cli.rollback import rollback
from coldfusion_queue.cli.show import show
from coldfusion_queue.cli.stack import down, up
from coldfusion_queue.cli.status import status
from coldfusion_queue.cli.submit import submit
from coldfusion_queue.disk import disk_errors
from coldfusion_queue.errors import ColdFusionError, MissingExtraError

__all__ = ["main", "submit_main"]

_INTERRUPTED = 130


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="coldfusion")
def cli() -> None:
    """ColD Fusion Queue: a base model that gets better with every contribution.

    Settings come from COLDFUSION_* environment variables; 'coldfusion config' prints them.
    """


for _command in (
    demo,
    up,
    down,
    init,
    submit,
    status,
    history,
    show,
    pull,
    contribute,
    cancel,
    policy,
    fuse,
    evaluate,
    experiment,
    rollback,
    report,
    gc,
    doctor,
    audit,
    config,
    completion,
):
    cli.add_command(_command)


def main() -> NoReturn:
    """Run ``coldfusion``."""
    _run(cli, "coldfusion")


def submit_main() -> NoReturn:
    """Run ``coldfusion-submit``, the same as ``coldfusion submit``."""
    _run(submit, "coldfusion-submit")


def _run(command: click.Command, name: str) -> NoReturn:
    """Run a command and end the process with the exit code of what happened."""
    try:
        with disk_errors():
            code = command.main(prog_name=name, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        _complain("interrupted")
        sys.exit(_INTERRUPTED)
    except ColdFusionError as error:
        _complain(str(error))
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader of our output went away, as in "coldfusion history | head".
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        sys.exit(_unexpected(error))
    sys.exit(code if isinstance(code, int) else 0)


def _unexpected(error: Exception) -> int:
    if isinstance(error, OSError):
        _complain(f"{error.strerror or error}: {error.filename or 'unnamed file'}")
        return 1
    if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("coldfusion"):
        package = (error.name or "?").partition(".")[0]
        _complain(
            f"this command needs the package {package!r}, which is not installed here; of the "
            "container images, the worker image has it"
        )
        return MissingExtraError.exit_code
    if os.environ.get("PYTHONDEVMODE"):
        traceback.print_exc()
    _complain(
        f"internal error, {type(error).__name__}: {error}. Please report it; run with "
        "PYTHONDEVMODE=1 for a traceback"
    )
    return 1


def _complain(message: str) -> None:
    click.echo(f"error: {message}", err=True)
