"""Merge LoRA adapters into their base: a plain model folder with processor, for use without peft."""

import argparse

HELP = "merge LoRA adapters into their base model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("adapter", metavar="ADAPTER", help="folder of the adapter, as training has written it")
    parser.add_argument("destination", metavar="DEST", help="folder to write; must not exist")
    parser.add_argument("--base", metavar="FOLDER", help="the base model, if it is no longer where the adapter says")


def run(args: argparse.Namespace) -> int:
    from ..training.adapters import merge_adapter

    print(merge_adapter(args.adapter, args.destination, args.base))
    return 0
