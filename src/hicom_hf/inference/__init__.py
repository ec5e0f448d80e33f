"""Ask a model about videos, and see which patches the compressor attended to."""

from ..processors.answering_hicom import Answer, EncodedVideo
from .attention_maps import AttentionFraction, AttentionMaps, attention_fraction, attention_maps, global_map, local_map
from .attention_picture import Explained, picture, shown_frames, whole_frames
from .open_videos import AnswerStream, ChoosingVideo, Video, ask_each
from .session import HiComSession

__all__ = [
    "Answer",
    "AnswerStream",
    "AttentionFraction",
    "AttentionMaps",
    "ChoosingVideo",
    "EncodedVideo",
    "Explained",
    "HiComSession",
    "Video",
    "ask_each",
    "attention_fraction",
    "attention_maps",
    "global_map",
    "local_map",
    "picture",
    "shown_frames",
    "whole_frames",
]
