"""Ask a model about videos, and see which patches the compressor attended to."""

from ..processors.answering_hicom import Answer, EncodedVideo
from .attention_maps import AttentionMaps, AttentionShare, attention_maps, attention_share, global_map, local_map
from .attention_picture import Explained, picture, shown_frames
from .session import AnswerStream, ChoosingVideo, HiComSession, Video

__all__ = [
    "Answer",
    "AnswerStream",
    "AttentionMaps",
    "AttentionShare",
    "ChoosingVideo",
    "EncodedVideo",
    "Explained",
    "HiComSession",
    "Video",
    "attention_maps",
    "attention_share",
    "global_map",
    "local_map",
    "picture",
    "shown_frames",
]
