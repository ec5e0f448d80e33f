"""The `hicom` command: one module per sub-command, thin over public functions.

A sub-command is a module `hicom_hf/cli/<name>.py`, listed in `main.COMMANDS`, with

* `HELP`: one line for `hicom --help`;
* `add_arguments(parser)`: its options, each with a help text; `parser.error(...)` is for bad arguments (exit code 2);
* `run(args) -> int`: does the work and returns the exit code. `args.parser` is the sub-command's parser.

At the top of such a module stand imports of the standard library only; everything else is imported in `run`. Results go to
stdout, all the rest to stderr. An error that leaves `run` is printed as one line without a traceback (exit code 1), and with
`--json` as an object on stdout. A `ValueError`, `OSError`, `ImportError` or `CommandError` is printed as it is, so its message
must name the file or argument and say what to do; with any other, the line says that it was not foreseen. `hub/reading.py` adds
what was being read.
"""


class CommandError(RuntimeError):
    """A command cannot continue, for a reason that its user can understand and correct."""
