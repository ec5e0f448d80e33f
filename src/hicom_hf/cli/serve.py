"""Serve a model over HTTP, as OpenAI's chat completions.

Answers at http://127.0.0.1:8000/v1 until it is interrupted; then it finishes the answers that are running. Local files and
private addresses are not read unless they are allowed. Log lines are JSON, on stderr.

    hicom serve hicom-7b --api-key "$KEY" --allowed-media-domains example.org
    hicom serve --allowed-local-media-path ~/videos

Without MODEL answers hicom-tiny, which comes with the package and knows only its synthetic world of coloured shapes.
"""

import argparse
import os
import signal
import sys
from contextlib import suppress

from .arguments import (
    HOST_HELP,
    above_zero,
    add_media_arguments,
    add_model_arguments,
    at_least_one,
    media_access,
    media_bounds,
    model_options,
    not_negative,
    seed_number,
)

HELP = "serve a model over HTTP to the clients of OpenAI's API (extra: serve)"
LOOPBACK = ("127.0.0.1", "::1", "localhost")
KEY_VARIABLE = "HICOM_API_KEY"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser, positional=True)
    parser.add_argument("--served-model-name", metavar="NAME", help="what clients call it (default: MODEL)")

    http = parser.add_argument_group("HTTP")
    http.add_argument("--host", default="127.0.0.1", help=HOST_HELP)
    http.add_argument("--port", type=seed_number, default=8000, help="default 8000; 0 takes a free one")
    http.add_argument("--api-key", metavar="KEY", help=f"clients must send it (default: ${KEY_VARIABLE}, or none)")
    http.add_argument(
        "--max-body-mb", type=at_least_one, default=64, metavar="N", help="size of a request, in MiB (default 64)"
    )

    add_media_arguments(parser, serves=True)
    add_engine_arguments(parser)
    parser.add_argument(
        "--replicas",
        type=at_least_one,
        default=1,
        metavar="N",
        help="copies of the model, each on a GPU of its own; follow-ups go to the one that holds the features (default 1)",
    )


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """How requests are answered."""
    engine = parser.add_argument_group("the engine")
    engine.add_argument(
        "--max-queue", type=at_least_one, default=64, metavar="N", help="requests at once; then 429 (64)"
    )
    engine.add_argument(
        "--max-num-seqs", type=at_least_one, default=8, metavar="N", help="answers in a batch (default 8)"
    )
    engine.add_argument("--max-new-tokens", type=at_least_one, default=1024, metavar="N", help="of an answer (1024)")
    engine.add_argument("--default-max-tokens", type=at_least_one, metavar="N", help="where a client names none (256)")
    engine.add_argument("--max-frames", type=at_least_one, default=128, metavar="N", help="of one video (default 128)")
    engine.add_argument(
        "--max-candidates",
        type=at_least_one,
        default=7200,
        metavar="N",
        help="frames among which a question chooses (default 7200); with tiles, twice as many squares of them",
    )
    engine.add_argument(
        "--max-squares",
        type=at_least_one,
        default=256,
        metavar="N",
        help="of all frames of one video that a question sees with tiles (default 256)",
    )
    engine.add_argument(
        "--candidates-gb", type=not_negative, default=16.0, metavar="N", help="of their files, in GiB (default 16)"
    )
    engine.add_argument(
        "--max-read-seconds", type=above_zero, default=30.0, metavar="S", help="to read one video (default 30)"
    )
    engine.add_argument("--max-seconds", type=above_zero, default=300.0, metavar="S", help="for one request (300)")
    engine.add_argument("--workers", type=seed_number, default=2, metavar="N", help="processes that read videos (2)")
    engine.add_argument(
        "--cache-gb", type=not_negative, default=2.0, metavar="N", help="features kept, in GiB (default 2)"
    )
    engine.add_argument("--cache-dir", metavar="FOLDER", help="keep features on disk as well")


def run(args: argparse.Namespace) -> int:
    import uvicorn

    from ..assets import HICOM_TINY
    from ..serving.app import ServerOptions, log_as_json, make_app

    key = os.environ.get(KEY_VARIABLE) if args.api_key is None else args.api_key
    if key is not None and not key.strip():  # of a variable that is not set: no server without a key by mistake
        args.parser.error(f"argument --api-key: is empty; leave it and ${KEY_VARIABLE} out to serve without a key")
    engine = _open(args)
    name = args.served_model_name or args.model or HICOM_TINY
    default = min(args.default_max_tokens or 256, args.max_new_tokens)
    options = ServerOptions(name, key, default, args.max_body_mb * 2**20)
    log_as_json()
    if engine.note:
        _say(f"note: {engine.note}")
    if key is None and args.host not in LOOPBACK:
        _say(f"warning: {args.host} may be reached by others, and there is no --api-key")
    app = make_app(engine, options)
    server = uvicorn.Server(uvicorn.Config(app, args.host, args.port, log_config=None, access_log=False))
    # uvicorn finishes running answers, then raises the signal again for whoever handled it before: this, which ends quietly.
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    with suppress(SystemExit):  # uvicorn's own code of a failed start, which its log explains
        server.run()
    return 0 if server.started else 1


def engine_settings(args: argparse.Namespace, keep_pictures: bool = False):
    """The `EngineSettings` that the arguments describe."""
    from ..serving.replicas import EngineSettings
    from ..serving.requests import Limits

    return EngineSettings(
        model=args.model,
        loading=model_options(args),
        access=media_access(args),
        bounds=media_bounds(args),
        limits=Limits(
            max_queue=args.max_queue,
            max_batch=args.max_num_seqs,
            max_new_tokens=args.max_new_tokens,
            max_frames=args.max_frames,
            max_candidates=args.max_candidates,
            max_squares=args.max_squares,
            max_read_seconds=args.max_read_seconds,
            max_seconds=args.max_seconds,
        ),
        num_workers=args.workers,
        candidate_bytes=int(args.candidates_gb * 2**30),
        keep_pictures=keep_pictures,
        cache_bytes=int(args.cache_gb * 2**30),
        cache_dir=args.cache_dir,
    )


def _open(args: argparse.Namespace):
    """The engine, or the replicas, that the arguments describe."""
    from ..hub.loading import choose_device
    from ..serving.replicas import Replicas

    settings = engine_settings(args)
    if args.replicas == 1:
        return settings.open()
    if args.device_map is not None:
        args.parser.error(
            "argument --device-map: goes without --replicas, which has one GPU for each copy of the model"
        )
    device = choose_device(args.device)
    if device.type != "cuda":
        return Replicas(settings, [str(device)] * args.replicas)
    import torch

    if args.replicas > torch.cuda.device_count():
        args.parser.error(f"argument --replicas: must be at most {torch.cuda.device_count()}, the number of GPUs")
    return Replicas(settings, [f"cuda:{number}" for number in range(args.replicas)])


def _say(line: str) -> None:
    print(f"hicom: {line}", file=sys.stderr, flush=True)
