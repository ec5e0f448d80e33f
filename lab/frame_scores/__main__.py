"""Measure which part of the score decides what frames a question chooses: number type, patches, query, parts; and cuts.

    python -m lab.frame_scores runs/frame_scores.json

Prints tables, and writes the numbers.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch

from hicom_hf.assets import hicom_tiny
from hicom_hf.hub.files import write_text
from hicom_hf.inference.session import HiComSession

from .measuring import Budget, as_markdown, measure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="where the numbers go (JSON)")
    parser.add_argument("--model", default=str(hicom_tiny()), help="folder or repo (default: hicom-tiny)")
    budget = Budget()
    parser.add_argument("--questions", type=int, default=budget.questions, help="of each group (default: %(default)s)")
    parser.add_argument("--length", type=int, default=budget.length, help="frames of a video (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(budget.seeds), help="(default: %(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    budget = Budget(args.questions, args.length, tuple(args.seeds))
    measured = measure(HiComSession.load(args.model, device="cpu", dtype="float32"), budget)
    args.file.parent.mkdir(parents=True, exist_ok=True)
    write_text(args.file, json.dumps({"budget": asdict(budget), **measured}, indent=1) + "\n")
    print(as_markdown(measured))


if __name__ == "__main__":
    main()
