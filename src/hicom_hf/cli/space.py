"""Write the folder of a Space of the Hugging Face Hub that shows a model on the web page.

It holds README.md with the Space's settings, app.py, requirements.txt and the wheel of the package that runs. Upload it with
`hf upload OWNER/NAME DEST --repo-type space`.

    hicom space my-space --model somebody/hicom-7b

Without --model the Space shows hicom-tiny, which comes with the package and knows only its synthetic world of coloured shapes.
"""

import argparse
import sys

HELP = "write a Space of the Hugging Face Hub that shows a model (extra: web)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("destination", metavar="DEST", help="folder to make")
    parser.add_argument("--model", metavar="REPO", help="Hub repo id, OWNER/NAME (default: the packaged hicom-tiny)")
    parser.add_argument("--title", help="of the Space (default: made of the model's name)")


def run(args: argparse.Namespace) -> int:
    from ..serving.space import write_space

    folder = write_space(args.destination, args.model, args.title)
    print(f"hicom: wrote {folder}; not verified on ZeroGPU", file=sys.stderr)
    return 0
