"""All verbs together, and what a failure looks like: one line, never a stack trace unless asked for."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, NoReturn, TextIO

import typer

import ommatid
from ommatid.cli.bench import bench
from ommatid.cli.compare import compare
from ommatid.cli.compress import compress
from ommatid.cli.doctor import doctor
from ommatid.cli.evaluate import evaluate
from ommatid.cli.experts import experts
from ommatid.cli.explore import explore
from ommatid.cli.export import export
from ommatid.cli.models import models
from ommatid.cli.parts import parts
from ommatid.cli.predict import predict
from ommatid.cli.quantize import quantize
from ommatid.cli.reduce import reduce
from ommatid.cli.restore import restore
from ommatid.cli.serve import serve
from ommatid.cli.systems import systems
from ommatid.cli.train import train
from ommatid.cli.verify import verify

BAD_INPUT, OWN_FAULT, INTERRUPTED = 2, 70, 130
"""Exit codes; 1 is a verb's own "no" (verify: a miss). 70 is EX_SOFTWARE of sysexits.h, 130 the shell's for Ctrl-C."""

RESUME = {
    "train": "`ommatid train --resume RUN` continues from its last epoch; RUN is its --out, or its folder in runs/",
    "compare": "the same command continues where this one stopped",
    "explore": "the same command continues; no finished training is lost",
    "compress": "the same command continues where this one stopped",
    "bench": "with --suite the same command continues where this one stopped",
    "restore": "the same command continues with the pictures that are left",
}

app = typer.Typer(
    name="ommatid",
    help="Choose, train and trust a vision model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for verb in (
    models,
    parts,
    systems,
    doctor,
    verify,
    train,
    evaluate,
    experts,
    predict,
    restore,
    reduce,
    export,
    quantize,
    bench,
    compare,
    explore,
    serve,
    compress,
):
    app.command()(verb)


def print_version(asked: bool) -> None:
    if asked:
        print(f"ommatid {ommatid.__version__}")
        raise typer.Exit


@app.callback()
def common(
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error was raised.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Choose, train and trust a vision model."""
    if debug:
        os.environ["OMMATID_DEBUG"] = "1"


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs one command line and exits: 0 done, 1 verify missed, 2 bad input, 70 ommatid's own fault, 130 Ctrl-C."""
    # --debug belongs to no verb; moved to the front it may stand anywhere.
    words = sorted(sys.argv[1:] if arguments is None else arguments, key="--debug".__ne__)
    warnings.showwarning = _show_warning
    try:
        code = app(words, prog_name="ommatid", standalone_mode=False) or 0
    except BrokenPipeError:
        # The reader (`| head`) has seen enough; without this, Python complains again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception as error:
        if os.environ.get("OMMATID_DEBUG"):
            raise
        code = _explain(error)
    if code == INTERRUPTED:
        hint = next((RESUME[word] for word in words if word in RESUME), "nothing was changed")
        print(f"interrupted: {hint}", file=sys.stderr)
    sys.exit(code)


def _explain(error: Exception) -> int:
    """Prints the error in one line and gives the exit code."""
    if hasattr(error, "format_message"):  # typer's own: a word that is no verb or option, a value that does not parse
        message, code = error.format_message() or "a verb is missing; `ommatid --help` lists them", BAD_INPUT
    elif isinstance(error, OSError) and error.strerror:
        message, code = ": ".join(str(part) for part in (error.filename, error.strerror) if part), BAD_INPUT
    elif isinstance(error, ValueError | OSError):
        message, code = str(error), BAD_INPUT
    else:
        message = f"unexpected {type(error).__name__}: {error} (again with --debug, it shows where)"
        code = OWN_FAULT
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return code


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)
