"""Show a model on a web page: upload a video, see its frames, chat about it, and see its attention.

Opens at http://127.0.0.1:7860, for this machine only unless --host says otherwise. The page loads nothing from elsewhere.

    hicom web
    hicom web hicom-7b --port 8080

Without MODEL answers hicom-tiny, which comes with the package and knows only its synthetic world of coloured shapes.
"""

import argparse
import os

from .arguments import HOST_HELP, add_media_arguments, add_model_arguments, seed_number
from .serve import add_engine_arguments, engine_settings

HELP = "show a model on a web page (extra: web)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser, positional=True)
    parser.add_argument("--host", default="127.0.0.1", help=HOST_HELP)
    parser.add_argument("--port", type=seed_number, default=7860, help="default 7860")
    add_media_arguments(parser, serves=True)
    add_engine_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from tempfile import TemporaryDirectory

    from ..assets import FOLDER, HICOM_TINY

    with TemporaryDirectory(prefix="hicom-web-") as uploads:
        os.environ["GRADIO_TEMP_DIR"] = uploads
        from ..serving.web import launch_page  # gradio reads the variable when it is imported

        args.allowed_local_media_path = [*(args.allowed_local_media_path or ()), uploads, str(FOLDER)]
        with engine_settings(args, keep_pictures=True).open() as engine:
            launch_page(engine, args.model or HICOM_TINY, args.host, args.port)
    return 0
