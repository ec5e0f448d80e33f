"""From whatever names a video or an image to bytes or arrays: paths, URLs, bytes, file objects, folders, arrays.

Frames are uint8 RGB arrays (height, width, 3).
"""

import http.client
import io
import os
import re
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
# What Pillow may take an image for. Its other formats are not pictures that people bring, and some start other programs:
# a PostScript file under any name would run Ghostscript.
STILL_FORMATS = ("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
URL_CHARACTERS = ":/?#[]@!$&'()*+,;=%"  # what has a meaning in an address and stays as it is (RFC 3986)
DOWNLOAD_TIMEOUT = 30.0  # seconds without any data
MAX_DOWNLOAD_SIZE = 8 * 2**30  # bytes; a live stream has no end
MAX_SIZE_IN_MEMORY = 256 * 2**20  # bytes; a larger download goes to a temporary file
DOWNLOAD_CHUNK_SIZE = 2**20  # bytes
URL_PREFIXES = ("http://", "https://")


class VideoReadError(ValueError):
    """A video or image that cannot be used; the message names it, says what is wrong and what to do."""


def source_name(source: Any) -> str:
    """How messages and records call a source: its path or URL, or what it is, in angle brackets."""
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return "<bytes>"
    if isinstance(source, np.ndarray):
        return "<array>"
    if isinstance(source, torch.Tensor):
        return "<tensor>"
    if isinstance(source, Image.Image):
        return getattr(source, "filename", "") or "<image>"
    if isinstance(source, (list, tuple)):
        return "<frames>"
    name = getattr(source, "name", None)
    if isinstance(name, str):
        return name
    return "<file object>" if callable(getattr(source, "read", None)) else f"<{type(source).__name__}>"


def open_binary(source: Any) -> BinaryIO:
    """Opens a path, URL, bytes or file object as a seekable binary file at its beginning.

    Args:
        source: str or Path of a file, http(s) URL, bytes, or an object with `read`. A file object is rewound if it can
            seek and read into memory if it cannot; it is never closed here.

    Returns:
        A binary file. The caller closes it unless it is the one that was passed in.

    Raises:
        VideoReadError: there is no such file, it is empty or unreadable, or the download fails.
        TypeError: the source is of no known type.
    """
    name = source_name(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        file = io.BytesIO(source)
    elif isinstance(source, str) and source.lower().startswith(URL_PREFIXES):
        file = _download(source)
    elif isinstance(source, (str, os.PathLike)):
        file = _open_path(Path(source), name)
    elif callable(getattr(source, "read", None)):
        file = _rewound(source, name)
    else:
        raise TypeError(
            f"{name}: a video is a path, an http(s) URL, bytes, a binary file object, a folder of images, a uint8 "
            f"array or tensor (T, height, width, 3), or a list of images; got {type(source).__name__}"
        )
    if file.seek(0, os.SEEK_END) == 0:
        if file is not source:
            file.close()
        raise VideoReadError(f"{name}: the file is empty (0 bytes); was it downloaded or copied completely?")
    file.seek(0)
    return file


def list_frame_files(folder: Path) -> list[Path]:
    """Image files of a folder in natural order (2.png before 10.png).

    Raises:
        VideoReadError: there are none.
    """
    files = [path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.name[0] != "."]
    if not files:
        raise VideoReadError(
            f"{folder}: the folder holds no images ({', '.join(IMAGE_SUFFIXES)}); "
            "pass a video file or a folder of frames"
        )
    return sorted(files, key=_natural_key)


def load_image(image: Any, name: str | None = None) -> np.ndarray:
    """One image as uint8 RGB.

    Args:
        image: path, URL, bytes, file object, PIL image, or a uint8 array or tensor (height, width, 3) or
            (3, height, width).
        name: what messages call it, if not by its own name.

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
        return rgb_from_pil(image, name)
    file = open_binary(image)
    try:
        with Image.open(file, formats=STILL_FORMATS) as opened:
            return rgb_from_pil(opened, name)
    except UnidentifiedImageError as error:
        raise VideoReadError(f"{name}: this is not an image that Pillow can read; pass a PNG or JPEG file") from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise VideoReadError(f"{name}: the image cannot be decoded ({error}); it may be incomplete") from error
    finally:
        if file is not image:
            file.close()


def rgb_from_pil(image: Image.Image, name: str) -> np.ndarray:
    """A PIL image as uint8 RGB (height, width, 3), turned upright by its EXIF orientation; alpha is dropped."""
    if image.mode == "F" or image.mode.startswith("I"):
        raise VideoReadError(
            f"{name}: pixels of mode {image.mode} have more than 8 bits; convert the image to RGB first"
        )
    return np.array(ImageOps.exif_transpose(image).convert("RGB"))


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
        return path.open("rb")
    except FileNotFoundError as error:
        raise VideoReadError(f"{name}: there is no such file or folder; check the path") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise VideoReadError(
            f"{name}: the file cannot be opened ({error}); check the path and its permissions"
        ) from error


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


def _download(url: str) -> BinaryIO:
    file = tempfile.SpooledTemporaryFile(max_size=MAX_SIZE_IN_MEMORY)  # noqa: SIM115  the caller closes it
    try:
        _fill(file, url)
    except urllib.error.HTTPError as error:
        file.close()
        error.close()
        raise VideoReadError(f"{url}: the server answered {error.code} {error.reason}; check the address") from error
    except VideoReadError:
        file.close()
        raise
    except (OSError, ValueError, http.client.HTTPException) as error:  # ValueError: a malformed address
        file.close()
        raise VideoReadError(f"{url}: the download failed ({error}); check the address and the network") from error
    return file


def _fill(file: BinaryIO, url: str) -> None:
    size = 0
    address = urllib.parse.quote(
        url, safe=URL_CHARACTERS
    )  # people paste addresses with spaces and letters of all scripts
    with urllib.request.urlopen(address, timeout=DOWNLOAD_TIMEOUT) as response:
        promised = response.headers.get("Content-Length")
        while chunk := response.read(DOWNLOAD_CHUNK_SIZE):
            size += len(chunk)
            if size > MAX_DOWNLOAD_SIZE:
                raise VideoReadError(f"{url}: more than {MAX_DOWNLOAD_SIZE} bytes; download it and pass a path")
            file.write(chunk)
    if promised is not None and size < int(promised):
        raise VideoReadError(f"{url}: the download stopped after {size} of {promised} bytes; try again")
