"""Make a trainable model folder from a SigLIP and an LLM."""

import argparse

HELP = "make a trainable model folder from a SigLIP and an LLM"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("destination", metavar="DEST")


def run(args: argparse.Namespace) -> int:
    raise NotImplementedError
