"""Make a trainable model folder from a SigLIP and an LLM; or a tiny random one, without a download.

The compressor between the two is new and untrained; its defaults are the paper's.

    hicom init my-hicom --siglip google/siglip-so400m-patch14-384 --llm Qwen/Qwen2.5-7B-Instruct
    hicom init --tiny hicom-random
"""

import argparse
import sys

from .arguments import SHARD_SIZE_HELP, at_least_one, seed_number, whole_number

HELP = "make a trainable model folder from a SigLIP and an LLM"
INJECTIONS = ("none", "direct", "coarse", "fine")
COMPRESSOR = ("formulation", "local_branch", "ratio", "local_injection", "num_global_tokens", "global_injection")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("destination", metavar="DEST", help="folder to make")
    parser.add_argument("--siglip", metavar="SOURCE", help="folder or Hub repo id of a SigLIP with both towers")
    parser.add_argument("--llm", metavar="SOURCE", help="folder or Hub repo id of a decoder")
    parser.add_argument("--tiny", action="store_true", help="a tiny model with random weights; downloads nothing")
    parser.add_argument("--overwrite", action="store_true", help="replace a model folder that is at DEST")
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16", "float16"),
        default="auto",
        help="of the weights; auto (default): the LLM's",
    )
    parser.add_argument(
        "--seed",
        type=seed_number,
        default=0,
        help="of the random weights: the compressor's, with --tiny all (default 0)",
    )
    parser.add_argument("--max-shard-size", default="5GB", metavar="SIZE", help=SHARD_SIZE_HELP)

    compressor = parser.add_argument_group("the compressor")
    compressor.add_argument(
        "--formulation",
        choices=("paper", "release"),
        help="equations of the paper (default) or of the authors' release",
    )
    compressor.add_argument(
        "--ratio",
        type=at_least_one,
        nargs=3,
        metavar=("FRAMES", "ROWS", "COLUMNS"),
        help="patches that become one local token (default 4 3 3)",
    )
    compressor.add_argument(
        "--local-branch", choices=("attention", "average_pool", "none"), help="how they do (default attention)"
    )
    compressor.add_argument(
        "--local-injection", choices=INJECTIONS, help="how the instruction enters the local branch (default direct)"
    )
    compressor.add_argument(
        "--num-global-tokens",
        type=whole_number,
        metavar="N",
        help="tokens for the whole video, 0 for none (default 32)",
    )
    compressor.add_argument(
        "--global-injection", choices=INJECTIONS, help="how the instruction enters the global branch (default coarse)"
    )


def run(args: argparse.Namespace) -> int:
    sources = {"--siglip": args.siglip, "--llm": args.llm}
    given = [name for name, source in sources.items() if source is not None]
    if args.tiny and given:
        args.parser.error(f"argument --tiny: makes all parts itself, so it does not go with {' and '.join(given)}")
    if not args.tiny and len(given) < len(sources):
        missing = " and ".join(name for name in sources if name not in given)
        args.parser.error(
            f"{missing} is missing: which SigLIP and which LLM to start from (or --tiny for a random one)"
        )

    from ..hub.new_folder import check_destination

    check_destination(args.destination, args.overwrite)
    model, processor = _tiny(args) if args.tiny else _assembled(args)

    from ..assembly.from_parts import save_new_folder
    from ..processors.answering_hicom import untrained_note

    save_new_folder(model, processor, args.destination, overwrite=args.overwrite, max_shard_size=args.max_shard_size)
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    _say(f"{args.destination}: {millions:.1f} million parameters in {str(model.dtype).removeprefix('torch.')}")
    _say(
        f"note: {untrained_note(model.config.untrained_parts)}; `hicom inspect` shows more; training can start from this folder"
    )
    print(args.destination)
    return 0


def _assembled(args: argparse.Namespace):
    from ..assembly.from_parts import assemble

    _say(f"reading {args.siglip} and {args.llm}")
    return assemble(args.siglip, args.llm, compressor_fields(args), dtype=args.dtype, seed=args.seed)


def _tiny(args: argparse.Namespace):
    import torch

    from ..assembly.random_model import TINY_COMPRESSOR, tiny_model, tiny_processor

    fields = compressor_fields(args)
    if fields.get("global_injection", "coarse") != "none":
        fields = {**TINY_COMPRESSOR, **fields}
    model = tiny_model(seed=args.seed, **fields)
    if args.dtype != "auto":
        model = model.to(getattr(torch, args.dtype))
    return model, tiny_processor(model.config)


def compressor_fields(args: argparse.Namespace) -> dict:
    """The fields of the compressor's config that were asked for; a branch that is absent has no injection."""
    fields = {name: getattr(args, name) for name in COMPRESSOR if getattr(args, name) is not None}
    if fields.get("local_branch", "attention") != "attention":
        fields.setdefault("local_injection", "none")
        fields["local_branch"] = None if fields["local_branch"] == "none" else fields["local_branch"]
    if fields.get("num_global_tokens") == 0:
        fields.setdefault("global_injection", "none")
    return fields


def _say(line: str) -> None:
    print(f"hicom: {line}", file=sys.stderr, flush=True)
