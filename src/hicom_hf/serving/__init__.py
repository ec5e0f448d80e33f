"""Serving: an engine that answers many clients with one model, an OpenAI-compatible server and a web page on it.

The engine needs no further package. `make_app` and `ServerOptions` are imported when they are asked for, because they need the
extra `serve` (FastAPI); `make_page` needs the extra `web` (Gradio).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .engine import Engine
from .replicas import EngineSettings, Replicas
from .requests import (
    EngineBusy,
    EngineClosed,
    Limits,
    Request,
    RequestCancelled,
    RequestTooSlow,
    Result,
    Settings,
    Ticket,
    VideoSource,
)
from .space import write_space
from .statistics import Statistics

if TYPE_CHECKING:
    from .app import ServerOptions, make_app
    from .web import make_page

NEED_AN_EXTRA = {"ServerOptions": ".app", "make_app": ".app", "make_page": ".web"}

__all__ = [
    "Engine",
    "EngineBusy",
    "EngineClosed",
    "EngineSettings",
    "Limits",
    "Replicas",
    "Request",
    "RequestCancelled",
    "RequestTooSlow",
    "Result",
    "ServerOptions",
    "Settings",
    "Statistics",
    "Ticket",
    "VideoSource",
    "make_app",
    "make_page",
    "write_space",
]


def __getattr__(name: str) -> Any:
    if name not in NEED_AN_EXTRA:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(NEED_AN_EXTRA[name], __name__), name)
