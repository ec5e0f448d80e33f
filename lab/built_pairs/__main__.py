"""Compare conditional pre-training on built pairs, on the world's own clips and descriptions, and none.

    python -m lab.built_pairs runs/built_pairs

About 15 minutes of one core. An interrupted command resumes when it is run again. Prints a table, and writes comparison.json.
"""

import argparse
from dataclasses import fields

import torch

from .comparing import Budget, as_markdown, compare


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="folder to write to")
    for name in ("films", "clips", "videos", "test_videos", "seed"):
        default = next(one.default for one in fields(Budget) if one.name == name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default, help="(default: %(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    budget = Budget(args.films, args.clips, args.videos, args.test_videos, seed=args.seed)
    print(as_markdown(compare(args.folder, budget)))


if __name__ == "__main__":
    main()
