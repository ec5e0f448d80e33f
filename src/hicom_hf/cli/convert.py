"""Convert an official HICom checkpoint into a folder that loads anywhere.

SOURCE is a folder or Hub repo id in the authors' format: a whole checkpoint, the projector of stages 1 and 2 (mm_projector.bin)
or a LoRA run. The SigLIP and, for the latter two, the base LLM are those that its config names unless given here.

    hicom convert lntzm/HICom_7B_qwen25_directg_local43_global32 hicom-7b --vision-tower google/siglip-so400m-patch14-384
"""

import argparse
import json
import sys

from .arguments import SHARD_SIZE_HELP

HELP = "convert an official HICom checkpoint"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="folder or Hub repo id in the official format")
    parser.add_argument("destination", metavar="DESTINATION", help="folder to make")
    parser.add_argument(
        "--vision-tower", metavar="SIGLIP", help="folder or Hub repo id of the SigLIP (default: what the config names)"
    )
    parser.add_argument(
        "--language-model",
        metavar="LLM",
        help="folder or Hub repo id of the base LLM of a projector or LoRA run (default: what the config names)",
    )
    parser.add_argument(
        "--dtype", choices=("bf16", "fp16", "fp32"), help="of the weights written (default: as in the source)"
    )
    parser.add_argument("--max-shard-size", default="5GB", metavar="SIZE", help=SHARD_SIZE_HELP)
    parser.add_argument("--overwrite", action="store_true", help="replace a model folder that is at DESTINATION")
    parser.add_argument("--json", action="store_true", help="say what was converted as JSON")


def run(args: argparse.Namespace) -> int:
    from ..conversion.converting import convert_official_checkpoint

    conversion = convert_official_checkpoint(
        args.source,
        args.destination,
        vision_tower=args.vision_tower,
        language_model=args.language_model,
        dtype=args.dtype,
        max_shard_size=args.max_shard_size,
        overwrite=args.overwrite,
        progress=lambda line: print(line, file=sys.stderr),
    )
    if args.json:
        print(json.dumps(conversion.to_dict(), indent=2))
        return 0
    for line in conversion.built:
        print(line, file=sys.stderr)
    for note in conversion.notes:
        print(f"note: {note}", file=sys.stderr)
    print(conversion.destination)
    return 0
