"""Compare our code with the official program's reference numbers: every case of a folder, one line each.

In: a folder of reference numbers with an index.json. Out: per case the largest difference, or why it does not apply; a summary.

    python benchmarks/parity.py GOLDEN_DIR [--kind e2e ...] [--verbose]

Exit code 1 if any case misses, or if nothing could be compared.
"""

import argparse
import sys
from pathlib import Path

from transformers.utils import logging

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # where the harness lives
from parity.suite import ParityRun


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="GOLDEN_DIR", help="folder with an index.json")
    parser.add_argument("--kind", nargs="+", help="only cases of these kinds, such as compressor, table or e2e")
    parser.add_argument("--verbose", action="store_true", help="also every single comparison")
    args = parser.parse_args(argv)
    logging.disable_progress_bar()

    results = []
    with ParityRun(args.folder) as run:
        for result in run.all(args.kind):
            print(result.line(), flush=True)
            for comparison in result.comparisons if args.verbose else result.misses[1:]:
                print(f"          {comparison.what}: {comparison.difference:.3e} (allowed {comparison.tolerance:.0e})")
            results.append(result)
    compared = [result for result in results if result.applies]
    missed = [result.case_id for result in compared if not result.passed]
    number = sum(len(result.comparisons) for result in compared)
    print(
        f"{len(results)} cases: {len(compared) - len(missed)} agree ({number} comparisons), "
        f"{len(results) - len(compared)} left out, {len(missed)} miss{': ' if missed else ''}{', '.join(missed)}"
    )
    for kind in dict.fromkeys(result.kind for result in compared):
        values = [c.difference for r in compared if r.kind == kind for c in r.comparisons if 0 < c.tolerance < 1]
        if values:
            print(f"  {kind}: largest difference {max(values):.2e}")
    return 1 if missed or not compared else 0


if __name__ == "__main__":
    sys.exit(main())
