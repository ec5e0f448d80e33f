"""The `hicom` command: finds the sub-command, runs it, and turns its errors into one line and an exit code.

Exit codes: 0 done, 1 failed, 2 bad arguments, 130 interrupted.
"""

import argparse
import os
import re
import sys
from importlib import import_module, metadata
from typing import NoReturn

from . import CommandError

# In the order of `hicom --help`; each is the module of the same name in this folder.
COMMANDS = ("ask", "convert", "data", "demo", "init", "inspect", "merge", "shapes", "train")

FAILED, BAD_ARGUMENTS, INTERRUPTED = 1, 2, 130  # exit codes; 130 is what a shell gives for Ctrl-C
EXPECTED_ERRORS = (ValueError, OSError, ImportError, CommandError)


def main(argv: list[str] | None = None) -> int:
    """Run `hicom` with the arguments behind its name (default: those of the process); returns the exit code."""
    return run_command(build_parser(), argv)


def run_command(parser: argparse.ArgumentParser, argv: list[str] | None = None) -> int:
    """Parse the arguments and run the command that they name; an expected error is one line and an exit code.

    Args:
        parser: sets `run`, a function of the parsed arguments, `parser` and `traceback`.
        argv: as for `main`.
    """
    try:
        args = parser.parse_args(argv)
    except SystemExit as stop:  # argparse has printed the help or what is wrong with the arguments
        return stop.code or 0
    try:
        _load_package()
        code = args.run(args)
        sys.stdout.flush()
        return code
    except SystemExit as stop:  # parser.error
        return stop.code or 0
    except KeyboardInterrupt:
        print("hicom: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        return _reader_has_gone()
    except Exception as error:
        if args.traceback or not _is_expected(error):
            raise
        print(f"hicom: error: {_one_message(error)}", file=sys.stderr)
        return FAILED


class Parser(argparse.ArgumentParser):
    """A parser that says what is wrong with the arguments in one line, without the whole usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_ARGUMENTS, f"{self.prog}: error: {message} ({self.prog} --help explains the arguments)\n")


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
        module = import_module(f".{name}", __package__)
        command = commands.add_parser(
            name, help=module.HELP, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        module.add_arguments(command)
        # Also behind the command, where one adds it after an error; SUPPRESS keeps what was given in front.
        command.add_argument(
            "--traceback", action="store_true", default=argparse.SUPPRESS, help="show where an error arose"
        )
        command.set_defaults(run=module.run, parser=command)
    return parser


def _load_package() -> None:
    """Run the package's own `__init__`, which registers HICom with transformers, if `hicom_command` put that off."""
    package = sys.modules["hicom_hf"]
    if not hasattr(package, "__version__"):
        package.__spec__.loader.exec_module(package)


def _is_expected(error: Exception) -> bool:
    """Whether an error is the user's to mend; torch's "out of memory" is a RuntimeError, and torch may not be loaded."""
    return isinstance(error, EXPECTED_ERRORS) or type(error).__name__ == "OutOfMemoryError"


def _one_message(error: Exception) -> str:
    """An error's message without blank lines and line breaks; its type if it has none."""
    first = error
    while isinstance(first.__cause__, ModuleNotFoundError):  # transformers puts its own in front
        first = first.__cause__
    package = first.name.partition(".")[0] if isinstance(first, ModuleNotFoundError) and first.name else None
    if extra := _extra_with(package):
        return f"this takes {package}, which is not installed: pip install 'hicom_hf[{extra}]'"
    return " ".join(line.strip() for line in str(error).splitlines() if line.strip()) or type(error).__name__


def _extra_with(package: str | None) -> str | None:
    """The first of our extras that brings a package, or None."""
    for requirement in metadata.requires("hicom_hf") or ():
        found = re.match(r"([\w.-]+).*extra == .(\w+)", requirement)
        if found and found[1] == package:
            return found[2]
    return None


def _reader_has_gone() -> int:
    """What reads our output, such as `head`, has closed it: stop quietly. Python's documentation, module signal."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return FAILED


if __name__ == "__main__":
    sys.exit(main())
