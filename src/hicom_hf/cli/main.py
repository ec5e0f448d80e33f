"""The `hicom` command: finds the sub-command, runs it, and turns its errors into one line and an exit code.

Exit codes: 0 done, 1 failed, 2 bad arguments, 130 interrupted. With `--json`, a command that fails writes
`{"error": {"type": ..., "message": ...}}` to stdout as well.

`run_command` is the one door through which errors leave, and the only broad `except` that ends an error. `--traceback`, in front
of the command or behind it, and `HICOM_DEBUG=1` disable this: errors are shown with their traceback.
"""

import argparse
import io
import json
import os
import re
import shlex
import sys
from importlib import import_module, metadata
from typing import Any, NoReturn, cast

from . import CommandError
from .arguments import CONTROL_CHARACTERS, add_traceback_argument

# In the order of `hicom --help`; each is the module of the same name in this folder, with _ for -.
COMMANDS = (
    "ask",
    "build-data",
    "convert",
    "data",
    "demo",
    "eval",
    "init",
    "inspect",
    "merge",
    "serve",
    "shapes",
    "space",
    "train",
    "web",
)

FAILED, BAD_ARGUMENTS, INTERRUPTED = 1, 2, 130  # exit codes; 130 is what a shell gives for Ctrl-C
EXPECTED_ERRORS = (ValueError, OSError, ImportError, CommandError)
LONGEST_MESSAGE = 2000  # characters; a library may put a whole file into its message
LONGEST_ARGUMENT = 60  # characters of an argument that a message repeats
DEBUG = "HICOM_DEBUG"  # environment variable


def main(argv: list[str] | None = None) -> int:
    """Run `hicom` with the arguments behind its name (default: those of the process); returns the exit code."""
    return run_command(build_parser(), argv)


def run_command(parser: argparse.ArgumentParser, argv: list[str] | None = None) -> int:
    """Parse the arguments and run the command that they name; an error is one line and an exit code.

    Args:
        parser: sets `run`, a function of the parsed arguments, `parser` and `traceback`.
        argv: as for `main`.
    """
    argv = sys.argv[1:] if argv is None else argv
    is_open = "--traceback" in argv or os.environ.get(DEBUG, "") not in ("", "0")
    as_json = "--json" in argv
    try:
        _prepare_streams()
        args = parser.parse_args(argv)
        _load_package()
        code = args.run(args)
        sys.stdout.flush()
        return code
    except SystemExit as stop:  # of argparse, which has printed the help or what is wrong with the arguments
        if as_json and isinstance(stop, BadArguments):
            _print_error_object("BadArguments", stop.message)
        return cast(int, stop.code or 0)  # argparse gives numbers
    except KeyboardInterrupt:
        print("hicom: interrupted", file=sys.stderr)
        if as_json:
            _print_error_object("KeyboardInterrupt", "interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        return _reader_has_gone()
    except Exception as error:
        if is_open:
            raise
        message = _one_message(error, argv)
        print(f"hicom: error: {message}", file=sys.stderr)
        if as_json:
            _print_error_object(type(error).__name__, message)
        return FAILED


class BadArguments(SystemExit):
    """Ends a command for its arguments, after `message` was printed."""

    def __init__(self, message: str):
        super().__init__(BAD_ARGUMENTS)
        self.message = message


class Parser(argparse.ArgumentParser):
    """A parser that says what is wrong with the arguments in one line, without the whole usage."""

    def error(self, message: str) -> NoReturn:
        message = _on_one_line(message)
        print(f"{self.prog}: error: {message} ({self.prog} --help explains the arguments)", file=sys.stderr)
        raise BadArguments(message)


def build_parser() -> Parser:
    """The parser of `hicom` with all its sub-commands."""
    parser = Parser(
        prog="hicom",
        description="HICom: video language models whose visual tokens are compressed on the condition of the question.",
        epilog="`hicom COMMAND --help` explains a command.",
    )
    parser.add_argument("--version", action="version", version=f"hicom_hf {metadata.version('hicom_hf')}")
    parser.add_argument("--traceback", action="store_true", help="show where in the program an error arose")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in COMMANDS:
        module = import_module(f".{name.replace('-', '_')}", __package__)
        command = commands.add_parser(
            name, help=module.HELP, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        module.add_arguments(command)
        add_traceback_argument(command)
        command.set_defaults(run=module.run, parser=command)
    return parser


def _load_package() -> None:
    """Run the package's own `__init__`, which registers HICom with transformers, if `hicom_command` put that off."""
    package = sys.modules["hicom_hf"]
    if not hasattr(package, "__version__"):
        spec = package.__spec__
        assert spec is not None and spec.loader is not None  # it was found and is not run yet
        spec.loader.exec_module(package)


def _prepare_streams() -> None:
    """Closed streams swallow what is written; a name that is not UTF-8 is written as an escape, which JSON knows as well.

    A file descriptor that is closed is opened on nothing, so that no file that is opened later gets the number of stdout.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  as long as the process
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _one_message(error: Exception, argv: list[str]) -> str:
    """What went wrong, on one line: what was being read, the error's message, and how to see more if it was not foreseen."""
    first: BaseException = error
    while isinstance(first.__cause__, ModuleNotFoundError):  # transformers puts its own in front
        first = first.__cause__
    package = first.name.partition(".")[0] if isinstance(first, ModuleNotFoundError) and first.name else None
    if extra := _extra_with(package):
        return f"this takes {package}, which is not installed: pip install 'hicom_hf[{extra}]'"
    message = _on_one_line(str(error))
    foreseen = _is_expected(error)
    if not foreseen or not message:
        message = f"{type(error).__name__}: {message}" if message else _without_message(error)
    message = _named(message, error, argv)
    if foreseen:
        return message
    return f"{message} (this kind of error was not foreseen: a damaged file, or a fault of the program; {DEBUG}=1 shows where)"


def _is_expected(error: Exception) -> bool:
    """Whether an error is one that the user can correct; torch's "out of memory" is a RuntimeError, and torch may not be
    loaded."""
    return isinstance(error, (*EXPECTED_ERRORS, MemoryError)) or type(error).__name__ == "OutOfMemoryError"


def _without_message(error: Exception) -> str:
    return "there is not enough memory for this" if isinstance(error, MemoryError) else type(error).__name__


def _named(message: str, error: Exception, argv: list[str]) -> str:
    """The message with what was being read in front, or with the command behind, if it names none of them itself."""
    reading = sys.modules.get("hicom_hf.hub.reading")  # not loaded where nothing has been read yet
    for what in map(_on_one_line, reading.being_read(error)[:1] if reading else ()):
        return message if what in message else f"{what}: {message}"
    words = [word for word in argv if not word.startswith("-")][1:]
    if not words or any(_on_one_line(word) in message for word in words):
        return message
    shown = " ".join(_shortened(shlex.quote(_on_one_line(word)), LONGEST_ARGUMENT) for word in argv)
    return f"{message} (hicom {_shortened(shown, 4 * LONGEST_ARGUMENT)})"


def _on_one_line(text: str) -> str:
    """Without blank lines, line breaks, and what could command a terminal."""
    lines = " ".join(line.strip() for line in text.splitlines() if line.strip())
    return _shortened(lines.translate(CONTROL_CHARACTERS), LONGEST_MESSAGE)


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."


def _print_error_object(kind: str, message: str) -> None:
    """What a program that reads `--json` gets on stdout in place of a result."""
    error: dict[str, Any] = {"error": {"type": kind, "message": message}}
    print(json.dumps(error, ensure_ascii=False, indent=2), flush=True)


def _extra_with(package: str | None) -> str | None:
    """The first of our extras that brings a package, or None."""
    for requirement in metadata.requires("hicom_hf") or ():
        found = re.match(r"([\w.-]+).*extra == .([\w-]+)", requirement)
        if found and found[1] == package:
            return found[2]
    return None


def _reader_has_gone() -> int:
    """What reads our output, such as `head`, has closed it: stop quietly. Python's documentation, module signal."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return FAILED


if __name__ == "__main__":
    sys.exit(main())
