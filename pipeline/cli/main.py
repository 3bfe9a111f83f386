"""The command ``pipeline``: its groups, its options, how errors end it."""

from __future__ import annotations

import codecs
import io
import os
import sys
from typing import Annotated, Final

import typer

from pipeline import failpoints
from pipeline.cli import (
    config,
    dead_letters,
    demo,
    doctor,
    ledger,
    openapi,
    render,
    run,
    simulate,
    submit,
    submit_batch,
    tasks,
    topology,
)
from pipeline.errors import PipelineError
from pipeline.version import installed_version

FAILED: Final = 1

app = typer.Typer(
    name="pipeline",
    no_args_is_help=True,
    # Help in colours takes twice as long to come: it brings half of rich along.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=(
        "\b\n"
        "First steps\n"
        "  pipeline demo               see it work, with a simulated provider\n"
        "  pipeline run                everything in one process, without any server\n"
        "  pipeline config show        what is set, and where each value comes from\n"
        "  pipeline submit --help      have the provider make something, and wait\n"
        "  pipeline doctor             what is wrong, and what to do about it\n"
        "  pipeline dead-letters list  what could not be processed, and why\n\n"
        "Every command has --help. Settings: defaults < TOML file < PIPELINE_…"
        " variables < options. Exit codes: 0 done, 1 failed, 2 wrong usage."
    ),
)
run.add_to(app)
demo.add_to(app)
simulate.add_to(app)
submit.add_to(app)
submit_batch.add_to(app)
doctor.add_to(app)
openapi.add_to(app)
app.add_typer(tasks.app)
app.add_typer(ledger.app)
app.add_typer(
    dead_letters.app, short_help="Look through what failed; replay or discard it."
)
app.add_typer(topology.app, short_help="Make exchanges and queues, or compare them.")
app.add_typer(config.app)


def print_version(wanted: bool) -> None:
    """Print the version and exit, if that is what is asked for."""
    if wanted:
        typer.echo(f"pipeline {installed_version()}")
        raise typer.Exit


@app.callback()
def pipeline(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=print_version,
            is_eager=True,
            help="Print the version and exit.",
        ),
    ] = False,
) -> None:
    """A durable pipeline behind the callback address of an AI-music provider.

    Takes callbacks, drops repeats, fetches the files, tells subscribers; what
    fails for good is kept as a dead letter and can be replayed.
    """
    del version  # its callback has done the work


def main() -> None:
    """Run the command line and end the process with its exit code."""
    replace_missing_letters()
    try:
        warn_of_failpoints()
        app(prog_name="pipeline")
    except Exception as error:
        known = known_error(error)
        if known is None:
            raise
        render.fail(str(known) or type(known).__name__)
        sys.exit(FAILED)
    finally:
        drop_unread_output()


def replace_missing_letters() -> None:
    """Print ``?`` for letters that the terminal's encoding lacks, instead of failing.

    Standard error does without them already, and UTF-8 has them all.
    """
    out = sys.stdout
    if not isinstance(out, io.TextIOWrapper):
        return
    if codecs.lookup(out.encoding).name != "utf-8":
        out.reconfigure(errors="replace")


def warn_of_failpoints() -> None:
    """Arm what tests ask for, and say so: nobody else may want it.

    Raises:
        ConfigurationError: the variable cannot be understood.
    """
    if armed := failpoints.arm(os.environ):
        render.warn(f"{failpoints.VARIABLE} is set, for tests: {', '.join(armed)}")


def drop_unread_output() -> None:
    """Throw away output whose reader has gone.

    Python tries to write it at its very end, complains on standard error when it
    cannot, and ends with 120 whatever the exit code was.
    """
    try:
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def known_error(error: BaseException) -> BaseException | None:
    """Find the error of ours in what came up, also inside a group."""
    if isinstance(error, PipelineError):
        return error
    if isinstance(error, BaseExceptionGroup):
        found = [known_error(inner) for inner in error.exceptions]
        return None if None in found else found[0]
    return None
