"""What comes with the package: hicom-tiny, a small trained model, and three example videos.

hicom-tiny (2.2 million parameters) was trained on the shapes world (docs/shapes.md) and knows nothing else. `hicom ask` and
`pipeline("video-text-to-text")` use it where no model is named; transformers loads it from the path that `hicom_tiny` gives.
"""

import json
import os
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
HICOM_TINY = "hicom-tiny"
HICOM_TINY_NOTE = (
    "hicom-tiny knows only its synthetic world of coloured shapes (docs/shapes.md); about any other video its answers mean "
    "nothing"
)
VIDEO_LIST = "videos.json"  # which scene each video shows
REMEDY = "it belongs to the package, so install hicom_hf again"


def hicom_tiny() -> Path:
    """The folder of hicom-tiny, for every `from_pretrained`.

    It holds weights, configuration and tokenizers but no code: what loads it has imported `hicom_hf`. A folder that
    `save_pretrained` writes has the code as well.

    Raises:
        FileNotFoundError: the folder is not there or holds no config.json.

    Example:
        >>> from transformers import AutoModel
        >>> model = AutoModel.from_pretrained(hicom_tiny())  # doctest: +SKIP
    """
    folder = FOLDER / HICOM_TINY
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder}: {HICOM_TINY} is missing (no config.json); {REMEDY}")
    return folder


def example_videos() -> list[Path]:
    """Three videos of the shapes world, H.264, 16 frames at 4 per second: normal, dense, and a wide one of 4:3.

    Their scenes are of the split `test`: no training has seen them.

    Raises:
        FileNotFoundError: one of them, or the list of them, is not there.

    Example:
        >>> [path.name for path in example_videos()]
        ['shapes_normal.mp4', 'shapes_dense.mp4', 'shapes_wide.mp4']
    """
    paths = [FOLDER / "videos" / name for name in _video_list()]
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: this example video is missing; {REMEDY}")
    return paths


def example_scene(video: str | os.PathLike) -> dict[str, Any] | None:
    """What `Scene.from_seed` makes the scene of an example video of; None for every other video.

    Args:
        video: path of a video.

    Example:
        >>> example_scene(example_videos()[0])
        {'seed': 63, 'clutter': 'normal', 'split': 'test'}
    """
    path = Path(video).resolve()
    return _video_list()[path.name]["scene"] if path in map(Path.resolve, example_videos()) else None


def model_source(name: str | os.PathLike | None) -> str:
    """Where to load a model from: for no name or "hicom-tiny" the packaged folder, for everything else the name itself.

    A folder `hicom-tiny` in the current directory goes before the packaged one.

    Raises:
        FileNotFoundError: hicom-tiny is wanted and missing.
    """
    if name is None or (str(name) == HICOM_TINY and not Path(name).exists()):
        return str(hicom_tiny())
    return str(name)


def model_note(source: str | os.PathLike) -> str | None:
    """The note for readers of the packaged hicom-tiny's answers; None for any other folder or repo."""
    return HICOM_TINY_NOTE if Path(source).resolve() == (FOLDER / HICOM_TINY).resolve() else None


def _video_list() -> dict[str, dict[str, Any]]:
    path = FOLDER / "videos" / VIDEO_LIST
    if not path.is_file():
        raise FileNotFoundError(f"{path}: the list of example videos is missing; {REMEDY}")
    return json.loads(path.read_text(encoding="utf-8"))
