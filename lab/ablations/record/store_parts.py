"""Keep what a campaign starts from: the pre-trained towers and LLM of a run of `python -m lab.hicom_tiny`, in bf16.

Every stage loads its model in bf16, so nothing is lost: a campaign gives the same numbers with these parts as with the run's
own.

In: a run's folder (siglip/, llm/, made_with.json). Out: the same in DEST, half as large.

    python lab/ablations/record/store_parts.py runs/hicom-tiny lab/ablations/record/parts
"""

import argparse
import shutil
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, SiglipModel

PARTS = {"siglip": SiglipModel, "llm": AutoModelForCausalLM}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("dest", type=Path, help="where the parts go")
    arguments = parser.parse_args()
    for name, model_class in PARTS.items():
        shutil.copytree(arguments.run / name, arguments.dest / name)  # tokenizers and settings, too
        model = model_class.from_pretrained(arguments.run / name, dtype=torch.bfloat16)
        model.save_pretrained(arguments.dest / name)
    shutil.copyfile(arguments.run / "made_with.json", arguments.dest / "made_with.json")


if __name__ == "__main__":
    main()
