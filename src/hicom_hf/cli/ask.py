"""Answer questions about a video or an image."""

import argparse

HELP = "answer questions about a video or an image"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("video", metavar="VIDEO")


def run(args: argparse.Namespace) -> int:
    raise NotImplementedError
