"""Entry point of the command line: run the called command, turn errors into messages and exit codes."""

from __future__ import annotations

import atexit
import gc
import os
import re
import resource
import sys
import threading
import traceback
from typing import Any

import typer
from typer.main import get_command

from orpo_cli import interruption
from orpo_cli.cli.commands import (
    COMPUTING_COMMANDS,
    FILE_COMMANDS,
    LIGHT_COMMANDS,
    build_app,
    called_command,
    commands_to_import,
)
from orpo_cli.cli.completion import use_own_bash_script, words_to_complete
from orpo_cli.cli.help_page import hide_flag_types
from orpo_cli.cli.reexec import reexec_with_environment
from orpo_cli.cli.standard_streams import lost_output, output_is_closed, protect_standard_streams
from orpo_cli.control_characters import escape_controls
from orpo_cli.errors import STRICT, Interrupted, MachineError, OrpoError, UsageError
from orpo_cli.library_imports import begin_command
from orpo_cli.library_messages import silence_libraries
from orpo_cli.os_errors import explain_os_error
from orpo_cli.redaction import redact, redact_record
from orpo_cli.report.console import Console
from orpo_cli.run_log import log_library_messages, print_traceback, run_log

LAUNCHED = "ORPO_LAUNCHED"  # set in a rank that `orpo train` has started
MIN_ADDRESS_SPACE = 1.5e9  # bytes


def _print_traceback_of_thread(bug: threading.ExceptHookArgs) -> None:
    if bug.exc_value is not None:
        print_traceback(bug.exc_type, bug.exc_value, bug.exc_traceback)


def main() -> None:
    """Run the command line and exit with the code of its outcome."""
    restore_signals = interruption.install()
    try:
        reexec_with_environment()  # first: afterwards, a stream that the caller closed looks open
        protect_standard_streams()
        sys.excepthook = print_traceback
        threading.excepthook = _print_traceback_of_thread
        run_log.discard()
        Console.has_printed_document = False
        log_library_messages()
        silence_libraries()
        begin_command()
        try:
            interruption.command_started()
            code, error = _run_command()
        except KeyboardInterrupt:
            code, error = Interrupted.exit_code, _interrupted()
        interruption.command_ended(code)
        if error is not None:
            _report_error(error)
        _freeze_garbage_collector()
    finally:
        restore_signals()
    code = _code_of_output(code)
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_initialized():
        _end_rank(code)
    sys.exit(code)


def _end_rank(code: int) -> None:
    """End one of several processes without its interpreter's cleanup: threads of gloo may still run, and would abort it."""
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _run_command() -> tuple[int, OrpoError | None]:
    """The exit code of the called command, and the error to report. Raises KeyboardInterrupt where a signal has arrived."""
    try:
        # Typer.__call__ would replace sys.excepthook. The command returns the code of a typer.Exit, and 130 for Ctrl-C.
        _check_address_space()
        _check_output()
        code = hide_flag_types(get_command(_import_called_command()))(standalone_mode=False)
        if code == Interrupted.exit_code:
            raise KeyboardInterrupt
        interruption.raise_if_requested()
        return code if isinstance(code, int) else 0, None
    except OrpoError as error:
        return error.exit_code, error
    except typer.Abort:
        raise KeyboardInterrupt from None
    except (
        typer.TyperException
    ) as error:  # wrong option, argument or command; without a message: only the help was shown
        message = error.format_message().replace("Value error, ", "")  # pydantic's, for choices
        message = message.replace("\n\t", " ")  # click writes each choice of a missing option on a line of its own
        return error.exit_code, UsageError(message, remedy=_usage_remedy(error)) if message else None
    except (KeyboardInterrupt, SystemExit):
        raise
    except UnicodeEncodeError as error:
        if error.reason != "surrogates not allowed":
            raise
        return UsageError.exit_code, UsageError(
            f"{error.object[:200]!a}: a name or a text that is not UTF-8, which the libraries cannot process.",
            remedy="Use another name, or give the text in UTF-8.",
        )
    # a limit of the machine may be met anywhere, and a panic of Rust code is no Exception; any other error is a bug
    except BaseException as error:
        explained = explain_os_error(error)
        if explained is not None:
            explained.__cause__ = error
            return explained.exit_code, explained
        if not interruption.was_raised():
            raise
        raise KeyboardInterrupt from error  # a library converted the exception of the signal, or could not be imported


def _usage_remedy(error: typer.TyperException) -> str:
    """What to do about a wrong option or command: the command to write if it is known, or the help page to read."""
    context: typer.Context | None = getattr(error, "ctx", None)
    if context is None or context.parent is None:
        return "See `orpo --help` and `orpo COMMAND --help`."
    command = f"orpo {_path_below_root(context)}"
    option = getattr(error, "option_name", None)
    takes_set = any("--set" in parameter.opts for parameter in context.command.params)
    if option and takes_set:
        from orpo_cli.recipe.did_you_mean import full_key  # loads pydantic

        if key := full_key(option.lstrip("-").replace("-", "_")):
            return f"A key of the recipe is changed with `--set {key}=VALUE`."
    if takes_set and (extra := re.search(r"extra argument.*\(([\w.]+=\S*?)[) ]", error.format_message())):
        return f"Repeat --set for each value: `--set {extra[1]}`."
    if subcommands := getattr(context.command, "commands", None):
        return f"Write {' or '.join(f'`{command} {name}`' for name in subcommands)}; see `{command} --help`."
    return f"See `{command} --help`."


def _path_below_root(context: Any) -> str:
    """The names of the subcommands that led to this context, such as ``recipes show``."""
    above = context.parent
    name = str(context.info_name)
    return name if above.parent is None else f"{_path_below_root(above)} {name}"


def _check_address_space() -> None:
    """Raise MachineError below the limit where importing torch ends the process: its C++ code cannot report the error."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if called_command() not in ("", *LIGHT_COMMANDS) and 0 <= limit < MIN_ADDRESS_SPACE:
        raise MachineError(
            f"out of memory: the limit of the address space is {limit / 1e9:.1f} GB, and torch needs "
            f"{MIN_ADDRESS_SPACE / 1e9:.1f} GB.",
            remedy="Raise the limit (ulimit -v) in the shell, then repeat the command.",
        )


def _prints_document() -> bool:
    return "--json" in sys.argv[1:]


def _check_output() -> None:
    """Raise MachineError if standard output is closed and a computed result would be lost. A training is never refused."""
    called = called_command()
    if output_is_closed() and (called in COMPUTING_COMMANDS or (_prints_document() and called != "train")):
        raise _lost_output_error("it is closed")


def _lost_output_error(reason: str) -> MachineError:
    return MachineError(
        f"the result cannot be written to standard output: {reason}.",
        remedy="Free some space, or redirect the output to another place (also /dev/null).",
    )


def _interrupted() -> Interrupted:
    if interruption.cause() is None:
        return Interrupted(f"{interruption.interrupted()}.")
    kept = f"{interruption.interrupted()}: nothing incomplete is left, and what was complete before is kept."
    return Interrupted(kept, remedy="Run the same command again.")


def _code_of_output(code: int) -> int:
    """The exit code, after a check that the result was written: a disk may be full behind standard output."""
    error, text = lost_output()
    is_needless = output_is_closed() and called_command() in FILE_COMMANDS and not _prints_document()
    if code or error is None or is_needless:
        return code
    lost = _lost_output_error(error.strerror or str(error))
    _report_error(lost)
    if called_command() in COMPUTING_COMMANDS:
        print(escape_controls(text) if sys.stderr.isatty() else text, file=sys.stderr)
    return lost.exit_code


def _import_called_command() -> typer.Typer:
    """The app with the called command. The garbage collector is off while it is imported, because imports make no garbage."""
    gc.disable()
    use_own_bash_script()
    try:
        return build_app(commands_to_import(words_to_complete() or sys.argv[1:]))
    finally:
        _freeze_garbage_collector()
        gc.enable()


def _freeze_garbage_collector() -> None:
    """Exclude the present objects from garbage collection, which takes a fifth of the time of `orpo validate`.

    Not if torch is imported already, as in a test, because models that are no longer used must be freed.
    """
    if "torch" not in sys.modules:
        gc.freeze()


def _report_error(error: OrpoError) -> None:
    """Print the error on standard error; with --json also as the document on standard output, unless it has one."""
    if error.is_reported or os.environ.get(LAUNCHED) == "1":  # by another rank, or by the parent of this one
        run_log.write(redact("".join(traceback.format_exception(error))))
        return
    document = {"status": error.kind, "exit_code": error.exit_code, "message": error.message, "remedy": error.remedy}
    lines = [str(error) if isinstance(error, Interrupted) else f"error: {error}"]
    if error.problems:
        document["problems"] = [vars(problem) for problem in error.problems]
        lines = [problem.text() for problem in error.problems]
        if all(problem.severity == "warning" for problem in error.problems):
            lines.append(f"error: {STRICT}")
    if error.remedy:
        lines.append(f"  → {error.remedy}")
    for line in lines:
        Console().print_line(line)
    run_log.write(redact("".join(traceback.format_exception(error))))
    if not Console.has_printed_document:
        Console(as_json=_prints_document()).document(redact_record(document))
