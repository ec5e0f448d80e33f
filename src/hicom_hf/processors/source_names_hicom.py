"""How messages and records call a video or an image: bounded, without payload or password, safe to print.

A path or URL keeps its own words. What could command a terminal is shown as an escape; a very long name loses its middle.
"""

import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import torch
from PIL import Image

MAX_NAME_LENGTH = 500  # characters; an address that someone signed may be long
DATA_SCHEME = "data:"
SCHEME_RE = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")  # one letter is a drive of Windows
USERINFO_RE = re.compile(r"(?<=://)[^/?#]*@")
MEDIA_TYPE_RE = re.compile(r"data:([\w.+-]{1,40}/[\w.+-]{1,60})", re.IGNORECASE)


class VideoReadError(ValueError):
    """A video or image that cannot be used; the message names it, says what is wrong and what to do."""


def source_name(source: Any) -> str:
    """What messages and records call a source: its path or URL, or what it is, in angle brackets.

    Example:
        >>> source_name("https://me:secret@example.org/a.mp4"), source_name("data:video/mp4;base64,AAAA"), source_name(b"...")
        ('https://example.org/a.mp4', '<data:video/mp4>', '<bytes>')
    """
    if isinstance(source, (str, os.PathLike)):
        return _text_name(os.fsdecode(source))
    if isinstance(source, Mapping):
        return source_name(source["path"]) if source.get("path") else "<bytes>"
    if isinstance(source, (bytes, bytearray, memoryview)):
        return "<bytes>"
    if isinstance(source, np.ndarray):
        return "<array>"
    if isinstance(source, torch.Tensor):
        return "<tensor>"
    if isinstance(source, Image.Image):
        return _text_name(str(getattr(source, "filename", ""))) or "<image>"
    if isinstance(source, (list, tuple)):
        return "<frames>"
    name = getattr(source, "name", None)
    if isinstance(name, str):
        return _text_name(name)
    return "<file object>" if callable(getattr(source, "read", None)) else f"<{type(source).__name__}>"


def printable(text: str) -> str:
    """A text in which everything that is no visible character or space is written as an escape.

    Example:
        >>> print(printable("a\\x1b]0;b"))
        a\\x1b]0;b
    """
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in text
    )


def url_scheme(source: Any) -> str | None:
    """The scheme of a URL in lower case ("data" for a `data:` URL), None for anything else."""
    if not isinstance(source, str):
        return None
    if source[: len(DATA_SCHEME)].lower() == DATA_SCHEME:
        return "data"
    found = SCHEME_RE.match(source)
    return found and found[1].lower()


def _text_name(text: str) -> str:
    scheme = url_scheme(text)
    if scheme == "data":
        found = MEDIA_TYPE_RE.match(text)
        return f"<data:{found[1]}>" if found else "<data URL>"
    if scheme is not None:
        text = _without_userinfo(text)
    if len(text) > MAX_NAME_LENGTH:
        half = MAX_NAME_LENGTH // 2
        text = f"{text[:half]}...{text[-half:]}"
    return printable(text)


def _without_userinfo(url: str) -> str:
    try:
        netloc = urlsplit(url).netloc
    except ValueError:  # a malformed address
        return USERINFO_RE.sub("", url)
    return url.replace(netloc, netloc.rpartition("@")[2], 1) if "@" in netloc else url
