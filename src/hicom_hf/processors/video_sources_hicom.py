"""From every form of a video or an image to bytes or arrays: paths, URLs, bytes, file objects, folders, arrays.

Frames are uint8 RGB arrays (height, width, 3).
"""

import base64
import binascii
import io
import os
import re
import stat
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote, unquote_to_bytes, urlsplit
from urllib.request import url2pathname

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from .media_access_hicom import OPEN_ACCESS, MediaAccess, MediaAccessError
from .media_bounds_hicom import DEFAULT_BOUNDS, MediaBounds
from .media_download_hicom import DownloadError, download
from .picture_settings_hicom import DEFAULT_SETTINGS, PictureSettings, on_white
from .source_names_hicom import DATA_SCHEME, VideoReadError, source_name, url_scheme

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
# Formats that Pillow may read. Its other formats are rarely used for pictures, and some start other programs:
# a PostScript file under any name would run Ghostscript.
STILL_FORMATS = ("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
LEVELS_OF_16_BITS = 257  # of one level of 8 bits
# What Pillow's readers raise on damaged data.
PILLOW_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    TypeError,
    RuntimeError,
    LookupError,
    ArithmeticError,
    MemoryError,
    struct.error,
    Image.DecompressionBombError,
)


def open_binary(source: Any, access: MediaAccess = OPEN_ACCESS) -> BinaryIO:
    """Opens a path, URL, bytes or file object as a seekable binary file at its beginning.

    Args:
        source: str or Path of a file (`~` is the home folder); http(s), file or data URL; bytes; the {"bytes", "path"} of the
            library datasets; or an object with `read`. A file object is rewound if it can seek and read into memory if it
            cannot; it is never closed here.
        access: which files and servers may be read.

    Returns:
        A binary file. The caller closes it unless it is the one that was passed in.

    Raises:
        VideoReadError: there is no such file, it is empty or unreadable, not allowed, or the download fails.
        TypeError: the source is of no known type.
    """
    name = source_name(source)
    if isinstance(source, Mapping) and "bytes" in source:
        source = source["path"] if source["bytes"] is None else source["bytes"]
    scheme = url_scheme(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        file = io.BytesIO(source)
    elif isinstance(source, str) and scheme == "data":
        file = io.BytesIO(_data_content(source, name, access))
    elif isinstance(source, str) and scheme in ("http", "https"):
        file = _downloaded(source, name, access)
    elif isinstance(source, (str, os.PathLike)):
        file = _open_path(local_path(source, access), name)
    elif callable(getattr(source, "read", None)):
        file = _rewound(source, name)
    else:
        raise TypeError(
            f"{name}: a video is a path, a URL (http, https, file, data), bytes, a binary file object, a folder of images, a "
            f"uint8 array or tensor (T, height, width, 3), a list of images, or a decoder of torchcodec or decord; got "
            f"{type(source).__name__}"
        )
    try:
        is_empty = file.seek(0, os.SEEK_END) == 0
        file.seek(0)
    except OSError as error:  # /proc/self/mem, for example, which the system calls a file
        if file is not source:
            file.close()
        raise VideoReadError(f"{name}: the file has no end that can be found ({error.strerror})") from error
    if is_empty:
        if file is not source:
            file.close()
        raise VideoReadError(f"{name}: the file is empty (0 bytes); was it downloaded or copied completely?")
    return file


def local_path(source: str | os.PathLike, access: MediaAccess = OPEN_ACCESS) -> Path:
    """The path that a path or `file://` URL names, with `~` as the home folder.

    Raises:
        VideoReadError: it is another URL, or lies where `access` does not allow it.
    """
    name, scheme = source_name(source), url_scheme(source)
    if not os.fspath(source):
        raise VideoReadError("the path is empty; give the path or URL of a video or image")
    if scheme not in (None, "file"):
        raise VideoReadError(
            f"{name}: {scheme} addresses are not read here, only http, https, file and data; download it and pass its path"
        )
    if scheme == "file":
        parts = urlsplit(os.fspath(source))
        if parts.netloc not in ("", "localhost"):
            raise VideoReadError(f"{name}: a file URL names a file of this machine, as file:///folder/video.mp4")
        path = Path(url2pathname(parts.path))
    else:
        path = Path(os.path.expanduser(os.fsdecode(source)))
    try:
        return access.local_path(path)
    except MediaAccessError as error:
        raise VideoReadError(f"{name}: {error}") from None
    except ValueError as error:  # a null byte
        raise VideoReadError(f"{name}: the file cannot be opened ({error}); check the path") from error


def list_frame_files(folder: Path) -> list[Path]:
    """Image files of a folder in natural order (2.png before 10.png).

    Raises:
        VideoReadError: there are none.
    """
    files = [path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.name[0] != "."]
    if not files:
        raise VideoReadError(
            f"{source_name(folder)}: the folder holds no images ({', '.join(IMAGE_SUFFIXES)}); "
            "pass a video file or a folder of frames"
        )
    return sorted(files, key=_natural_key)


def load_image(
    image: Any,
    name: str | None = None,
    access: MediaAccess = OPEN_ACCESS,
    bounds: MediaBounds = DEFAULT_BOUNDS,
    settings: PictureSettings = DEFAULT_SETTINGS,
) -> np.ndarray:
    """One image as uint8 RGB.

    Args:
        image: what `open_binary` takes, PIL image, or a uint8 array or tensor (height, width, 3) or
            (3, height, width).
        name: what messages call it, if not by its own name.
        access: which files and servers may be read.
        bounds: `max_pixels` of them.
        settings: whether transparent pixels are put on white.

    Returns:
        uint8 array (height, width, 3), upright.

    Raises:
        VideoReadError: it cannot be read, or has the wrong shape or dtype.
        TypeError: it is of no known type.
    """
    name = name or source_name(image)
    if isinstance(image, (np.ndarray, torch.Tensor)):
        return as_uint8_frames(image, name, num_axes=3)
    if isinstance(image, Image.Image):
        return rgb_from_pil(image, name, settings)
    file = open_binary(image, access)
    try:
        with Image.open(file, formats=STILL_FORMATS) as opened:
            bounds.check("max_pixels", opened.width * opened.height, name, "the number of pixels")
            return rgb_from_pil(opened, name, settings)
    except UnidentifiedImageError as error:
        raise VideoReadError(f"{name}: this is not an image that Pillow can read; pass a PNG or JPEG file") from error
    except VideoReadError:
        raise
    except PILLOW_ERRORS as error:
        raise VideoReadError(f"{name}: the image cannot be decoded ({error}); it may be incomplete") from error
    finally:
        if file is not image:
            file.close()


def is_frame_list(sources: Any) -> bool:
    """Whether a list is one video, given as frames: PIL images, arrays of three axes, or several paths or URLs of images."""
    if not isinstance(sources, (list, tuple)) or not sources:
        return False
    if len(sources) > 1 and all(isinstance(item, (str, os.PathLike)) for item in sources):
        return all(os.fsdecode(item).lower().endswith(IMAGE_SUFFIXES) for item in sources)
    return all(
        isinstance(item, Image.Image) or (isinstance(item, (np.ndarray, torch.Tensor)) and item.ndim == 3)
        for item in sources
    )


def rgb_from_pil(image: Image.Image, name: str, settings: PictureSettings = DEFAULT_SETTINGS) -> np.ndarray:
    """A PIL image as uint8 RGB (height, width, 3), turned upright by its EXIF orientation, on white or without its alpha."""
    if image.mode in ("F", "I"):  # nothing says which values are black and white
        raise VideoReadError(
            f"{name}: pixels of mode {image.mode} have more than 8 bits; convert the image to RGB first"
        )
    upright = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):  # Pillow's own conversion would cut at 255
        upright = Image.fromarray((np.asarray(upright) / LEVELS_OF_16_BITS).round().astype(np.uint8))
    if settings.alpha_on_white and image.has_transparency_data:
        return on_white(np.array(upright.convert("RGBA")))
    return np.array(upright.convert("RGB"))


def as_uint8_frames(frames: np.ndarray | torch.Tensor, name: str, num_axes: int) -> np.ndarray:
    """Frames in memory as a uint8 array with channels last.

    Args:
        frames: uint8, (T, height, width, 3) or (T, 3, height, width) for `num_axes` 4; without T for 3. Where both
            readings fit (a side of 3 pixels), channels are taken to be last.
        name: what messages call it.
        num_axes: 4 for a video, 3 for one frame.

    Returns:
        uint8 array (T, height, width, 3), or (height, width, 3).

    Raises:
        VideoReadError: another dtype or shape, or no frames.
    """
    shape = tuple(frames.shape)
    expected = "(T, height, width, 3) or (T, 3, height, width)" if num_axes == 4 else "(height, width, 3) or (3, h, w)"
    if isinstance(frames, torch.Tensor) and (frames.is_meta or frames.layout is not torch.strided):
        kind = "on the device meta, which holds no values" if frames.is_meta else f"{frames.layout}"
        raise VideoReadError(f"{name}: frames must be a dense tensor with values, got one that is {kind}")
    if frames.dtype not in (np.uint8, torch.uint8):
        raise VideoReadError(
            f"{name}: frames must be uint8 from 0 to 255, got {frames.dtype}; pixels in [0, 1] become uint8 by "
            "(frames * 255).round() and a cast"
        )
    if len(shape) != num_axes or 3 not in (shape[-1], shape[-3]):
        raise VideoReadError(f"{name}: expected shape {expected}, got {shape}")
    if 0 in shape:
        raise VideoReadError(f"{name}: shape {shape} holds no pixels; expected {expected} with all sizes above 0")
    array = frames.detach().cpu().numpy() if isinstance(frames, torch.Tensor) else frames
    return array if shape[-1] == 3 else np.moveaxis(array, -3, -1)


def _natural_key(path: Path) -> list[tuple[int, int, str]]:
    parts = re.split(r"(\d+)", path.name)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part.lower()) for part in parts if part]


def _open_path(path: Path, name: str) -> BinaryIO:
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):  # opening a pipe would wait for its writer, and a device may be endless
            return path.open("rb")
    except FileNotFoundError as error:
        raise VideoReadError(f"{name}: there is no such file or folder; check the path") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        reason = error.strerror if isinstance(error, OSError) else error
        raise VideoReadError(
            f"{name}: the file cannot be opened ({reason}); check the path and its permissions"
        ) from error
    kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, socket or device"
    raise VideoReadError(f"{name}: this is {kind}, not a file; pass a regular file")


def _rewound(file: Any, name: str) -> BinaryIO:
    try:
        if callable(getattr(file, "seekable", None)) and file.seekable():
            file.seek(0)
            if isinstance(file.read(0), bytes):
                return file
            content = None
        else:
            content = file.read()
    except (OSError, ValueError) as error:  # ValueError: the file is closed
        raise VideoReadError(f"{name}: the file object cannot be read ({error}); pass an open binary file") from error
    if not isinstance(content, bytes):
        raise VideoReadError(f'{name}: the file object gives text, not bytes; open the file with mode "rb"')
    return io.BytesIO(content)


def _downloaded(url: str, name: str, access: MediaAccess) -> BinaryIO:
    try:
        return download(url, access)
    except (DownloadError, MediaAccessError) as error:
        # Not `from error`: its cause may repeat the address with its password.
        raise VideoReadError(f"{name}: {error}") from None


def _data_content(url: str, name: str, access: MediaAccess) -> bytes:
    """The bytes of a `data:` URL (RFC 2397), which are percent-encoded or base64."""
    head, comma, payload = url[len(DATA_SCHEME) :].partition(",")
    if not comma:
        raise VideoReadError(f"{name}: a data URL has a comma before its content, as data:video/mp4;base64,AAAA")
    is_base64 = head.lower().rstrip().endswith(";base64")
    if len(payload) * 3 // 4 > access.max_bytes:
        raise VideoReadError(f"{name}: the data URL has more than {access.max_bytes} bytes, the limit")
    if not is_base64:
        return unquote_to_bytes(payload)
    payload = re.sub(r"\s", "", unquote(payload)).translate(str.maketrans("-_", "+/")).rstrip("=")
    try:
        return base64.b64decode(payload + "=" * (-len(payload) % 4), validate=True)
    except (binascii.Error, ValueError) as error:  # ValueError: letters outside ASCII
        raise VideoReadError(f"{name}: the content of the data URL is not base64 ({error}); was it cut?") from None
