"""Starts the `hicom` command without waiting for torch.

`import hicom_hf` registers the models with transformers, which imports torch and takes seconds; `hicom --help` and a mistyped
argument should not. So this module stands outside the package: it makes the package known without running it, and
`hicom_hf.cli.main` runs it before a command starts.
"""

import sys
from importlib.util import find_spec, module_from_spec

PACKAGE = "hicom_hf"


def main() -> int:
    """Run `hicom`; returns the exit code."""
    if PACKAGE not in sys.modules:
        sys.modules[PACKAGE] = module_from_spec(find_spec(PACKAGE))
    try:
        from hicom_hf.cli.main import main
    except KeyboardInterrupt:  # Ctrl-C before the command can say so itself
        return 130
    return main()
