"""Runs cases of all kinds and prints what is not allowed: python -m fuzz.run [--seed N] [--times N] [KIND ...]

Run it in `tests/`. Each case is forked from this process, which has loaded everything, and may take 2 GB and 20 s of one core.
Allowed: the right value, a value with a warning, a clear error. Exit code 1 if anything else came out.
"""

import argparse
import sys
import tempfile
from collections import Counter
from itertools import islice
from pathlib import Path
from random import Random

import torch

from .cases import KINDS, problem
from .forked import run


def main(arguments: list[str] | None = None) -> int:
    """Runs the kinds that are named, prints a line for each and the problems."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(KINDS)}; default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--times", type=int, default=1, help="how many times the quick number of cases")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    num_problems = 0
    for kind in args.kinds or KINDS:
        make, number = KINDS[kind]
        outcomes, cpu, memory = Counter(), 0.0, 0
        with tempfile.TemporaryDirectory() as folder:
            for case in islice(make(Path(folder), Random(args.seed)), number * args.times):
                outcome = run(case.run)
                outcomes[outcome.kind] += 1
                cpu, memory = max(cpu, outcome.cpu), max(memory, outcome.memory)
                found = problem(case, outcome)
                if found:
                    num_problems += 1
                    print(f"PROBLEM {kind} {found}", flush=True)
        print(f"{kind}: {dict(outcomes)}, at most {cpu:.1f} s and {memory / 2**20:.0f} MiB", flush=True)
    return 1 if num_problems else 0


if __name__ == "__main__":
    sys.exit(main())
