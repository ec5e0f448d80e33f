"""Train hicom-tiny further on the frames that questions choose, on even ones of the same videos, and without long videos.

    python -m lab.chosen_frames runs/chosen_frames

An interrupted command resumes when it is run again. Prints tables, and writes comparison.json.
"""

import argparse
from dataclasses import replace

from .comparing import Budget, as_markdown, compare


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="folder to write to")
    budget = Budget()
    parser.add_argument("--films", type=int, default=budget.films.number, help="long videos (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=budget.steps, help="of each training (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="orders of the samples (default: 0)")
    parser.add_argument("--processes", type=int, default=2, help="variants at a time (default: %(default)s)")
    args = parser.parse_args()
    budget = replace(budget, films=replace(budget.films, number=args.films), steps=args.steps)
    print(as_markdown(compare(args.folder, budget, args.seeds, args.processes)))


if __name__ == "__main__":
    main()
