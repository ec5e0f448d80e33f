"""Say what a model folder or repo is, without loading its weights."""

import argparse

HELP = "say what a model is, without loading its weights"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL")


def run(args: argparse.Namespace) -> int:
    raise NotImplementedError
