"""Arguments that several commands share, and types of arguments: what argparse calls on the text that was given."""

import os
import sys
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, BooleanOptionalAction, Namespace
from pathlib import Path
from typing import Any

MOST_SEED = 2**63 - 1  # that torch takes
CONTROL_CHARACTERS = {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), 127, *range(128, 160))}
SAFE_TO_PRINT = {code: shown for code, shown in CONTROL_CHARACTERS.items() if chr(code) not in "\n\t"}
MODEL_HELP = "hicom-tiny, a folder, a Hub repo id (OWNER/NAME, OWNER/NAME@REVISION), or the folder of a LoRA adapter"
FRAMES_HELP = "frames, spread evenly (default: the model's)"
FPS_HELP = "frames per second of video, instead of a number of frames"
SYSTEM_HELP = "system prompt (default: that of the model's chat template)"
HOST_HELP = "address to listen at (default: 127.0.0.1, this machine only)"
SHARD_SIZE_HELP = "largest size of a weight file (default 5GB)"
DTYPES = ("auto", "float32", "bfloat16", "float16")
QUANTIZATIONS = ("nf4", "int8")
COMPILE = ("auto", "on", "off")
SELECTION_RULES = ("question", "mixture", "uniform")


def add_model_arguments(
    parser: ArgumentParser,
    positional: bool = False,
    dtype: tuple[str | None, str] = ("auto", "auto (default): as saved"),
) -> None:
    """`--model` and how it is loaded; `model_options` reads them.

    Args:
        parser: gets the arguments.
        positional: whether the model stands by itself, for commands that take nothing else.
        dtype: default of `--dtype`, and the words that say so.
    """
    group = parser.add_argument_group("the model")
    place: dict[str, Any] = {"nargs": "?"} if positional else {}
    name = "model" if positional else "--model"
    group.add_argument(name, metavar="MODEL", help=f"{MODEL_HELP} (default: the packaged hicom-tiny)", **place)
    group.add_argument(
        "--device", default="auto", help="auto (default: a GPU if there is one), cpu, cuda, cuda:1, mps"
    )
    group.add_argument("--dtype", choices=DTYPES, default=dtype[0], help=f"of the weights; {dtype[1]}")
    group.add_argument(
        "--device-map", metavar="MAP", help="in place of --device: auto spreads the model over all GPUs (accelerate)"
    )
    group.add_argument(
        "--quantize", choices=QUANTIZATIONS, help="keep the LLM in 4 bits (nf4) or 8 (int8), with bitsandbytes"
    )
    group.add_argument(
        "--attn",
        "--attn-implementation",
        dest="attn_implementation",
        metavar="NAME",
        help="attention code: sdpa, eager, flash_attention_2, ... (default: the best that is there)",
    )
    group.add_argument(
        "--compile",
        nargs="?",
        choices=COMPILE,
        const="on",
        default="auto",
        help="the step of decoding: auto (default) compiles it on a GPU in half precision once that pays, on (or --compile "
        "alone) with the first answer, off never",
    )


def model_options(args: Namespace) -> dict[str, Any]:
    """What `load_model` takes besides the model, as `add_model_arguments` reads it."""
    names = ("device", "dtype", "device_map", "quantize", "attn_implementation", "compile")
    return {name: getattr(args, name) for name in names}


def add_traceback_argument(parser: ArgumentParser) -> None:
    """`--traceback` behind a command, where one adds it after an error; SUPPRESS keeps what was given in front."""
    parser.add_argument("--traceback", action="store_true", default=SUPPRESS, help="show where an error arose")


def add_media_arguments(parser: ArgumentParser, default: str | None = "open", serves: bool = False) -> None:
    """What reading videos and images may touch; `media_access` and `media_bounds` read them. The names are those of vLLM.

    Args:
        parser: gets the arguments.
        default: of `--media`; None leaves the choice to whoever reads it.
        serves: for commands whose sources strangers name: always guarded, and the limits can be set.
    """
    group = parser.add_argument_group("what may be read")
    if serves:
        parser.set_defaults(media="guarded")
    else:
        group.add_argument(
            "--media",
            choices=("open", "guarded"),
            default=default,
            help="open (default): all that you may read; guarded, for sources that strangers name: public servers only, "
            "256 MiB, 60 s, and no local files but those below --allowed-local-media-path",
        )
    only = "" if serves else "with guarded: "
    group.add_argument(
        "--allowed-local-media-path",
        action="append",
        metavar="FOLDER",
        help=f"{only}files below this folder may be read; may be given several times (default: no local file)",
    )
    group.add_argument(
        "--allowed-media-domains",
        action="extend",
        nargs="+" if serves else 1,
        metavar="HOST",
        help=f"{only}only this host and its subdomains may be asked; may be given several times (default: all public hosts)",
    )
    if serves:
        _add_media_limits(group)


def _add_media_limits(group: Any) -> None:
    group.add_argument(
        "--allowed-private-hosts",
        action="extend",
        nargs="+",
        metavar="HOST",
        help="hosts that may be asked though their address is private",
    )
    group.add_argument(
        "--max-media-mb", type=at_least_one, default=256, metavar="N", help="size of one video, in MiB (default 256)"
    )
    group.add_argument(
        "--max-video-seconds", type=at_least_one, default=4 * 3600, metavar="S", help="its length (default 4 hours)"
    )
    group.add_argument(
        "--max-pixels", type=at_least_one, default=2**25, metavar="N", help="of one picture (default 33 million, 8K)"
    )


def media_access(args: Namespace) -> Any:
    """The `MediaAccess` that the arguments of `add_media_arguments` ask for.

    Raises:
        ValueError: a folder is not there, or folders or hosts are named without guarded.
    """
    from ..processors.media_access_hicom import MediaAccess, media_access_of

    folders = [os.path.expanduser(folder) for folder in args.allowed_local_media_path or ()]
    if "max_media_mb" not in args:
        return media_access_of(args.media, folders, args.allowed_media_domains)
    return MediaAccess.guarded(
        allowed_local_media_path=folders,
        allowed_media_domains=args.allowed_media_domains,
        allowed_private_hosts=args.allowed_private_hosts or (),
        max_bytes=args.max_media_mb * 2**20,
    )


def media_bounds(args: Namespace) -> Any:
    """The `MediaBounds` that the limits of `add_media_arguments` ask for."""
    from ..processors.media_bounds_hicom import MediaBounds

    return MediaBounds(max_seconds=args.max_video_seconds, max_pixels=args.max_pixels)


def at_least_one(text: str) -> int:
    """A whole number from 1 on."""
    value = whole_number(text)
    if value < 1:
        raise ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def all_or_at_least_one(text: str) -> int | str:
    """A whole number from 1 on, or "all"."""
    return text if text == "all" else at_least_one(text)


def whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:  # also of more digits than Python converts
        raise ArgumentTypeError(f"must be a whole number, got {text!r}") from None


def seed_number(text: str) -> int:
    """A whole number from 0 on that torch takes as a seed."""
    value = whole_number(text)
    if not 0 <= value <= MOST_SEED:
        raise ArgumentTypeError(f"must be from 0 to {MOST_SEED}, got {value}")
    return value


def readable_text(text: str) -> str:
    """Text that a tokenizer can read; an argument that is not UTF-8 reaches Python with surrogates in it."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ArgumentTypeError(f"is not valid UTF-8: {text!r}") from None
    return text


def check_picture(path: Path, argument: str) -> None:
    """Refuse a picture that could not be written in the end, before the work.

    Raises:
        FileNotFoundError: it is a folder, or would lie in none.
    """
    if path.is_dir() or not path.parent.is_dir():
        raise FileNotFoundError(
            f"{path}: the picture cannot be written there; {argument} takes a file in a folder that exists"
        )


def not_negative(text: str) -> float:
    """A finite number from 0 on."""
    value = number(text)
    if value < 0:
        raise ArgumentTypeError(f"must be 0 or above, got {text}")
    return value


def above_zero(text: str) -> float:
    """A finite number above 0."""
    value = number(text)
    if value <= 0:
        raise ArgumentTypeError(f"must be above 0, got {text}")
    return value


def number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ArgumentTypeError(f"must be a number, got {text!r}") from None
    if not abs(value) < float("inf"):
        raise ArgumentTypeError(f"must be a finite number, got {text}")
    return value


def part_of_parts(text: str) -> tuple[int, int]:
    """I/N as two numbers."""
    first, slash, second = text.partition("/")
    if not (slash and first.isdigit() and second.isdigit() and 1 <= int(first) <= int(second)):
        raise ArgumentTypeError(f"must be I/N with I from 1 to N, such as 1/4; got {text!r}")
    return int(first), int(second)


def zooms_of_tiles(text: str) -> tuple[int, ...]:
    """Whole numbers with commas between them, each once, such as 1 or 0,1,2; 0 is the overview."""
    values = tuple(whole_number(part) for part in text.split(","))
    if min(values) < 0 or len(set(values)) < len(values) or max(values) == 0:
        raise ArgumentTypeError(
            f"must be zooms from 1 on, each once, such as 1 or 1,2 (0 adds the overview); got {text!r}"
        )
    return values


def add_tiles_argument(group: Any) -> None:
    """`--tiles`; `frame_tiles` reads it."""
    group.add_argument(
        "--tiles",
        type=zooms_of_tiles,
        metavar="ZOOMS",
        help="do not pad frames, but let each question choose among overlapping squares: 1 for squares of the shorter side, "
        "2 for half of it; 1,2 for either; 0,1 also for the padded frame",
    )
    group.add_argument(
        "--score-tiles",
        action=BooleanOptionalAction,
        help="with --select and --tiles: choose frames by their squares, too (default), or padded, which encodes fewer squares "
        "and misses small things",
    )


def frame_tiles(args: Namespace) -> Any:
    """The `FrameTiles` that `--tiles` asks for; None without it."""
    if args.score_tiles is not None and (args.tiles is None or args.select is None):
        args.parser.error(f"argument --{'' if args.score_tiles else 'no-'}score-tiles: goes with --select and --tiles")

    from ..processors.frame_tiles_hicom import FrameTiles

    return None if args.tiles is None else FrameTiles.of_zooms(args.tiles, args.score_tiles is not False)


def progress_bar(iterable, total: int, name: str):
    """Progress on stderr; see `hub.progress`."""
    from tqdm import tqdm

    return tqdm(iterable, total=total, desc=name, file=sys.stderr, leave=False)
