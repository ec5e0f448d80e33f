"""Ask a model about videos, and see which patches the compressor attended to."""

from .attention_maps import AttentionMaps, AttentionShare, attention_maps, attention_share, global_map, local_map
from .attention_picture import Explained, picture, shown_frames

__all__ = [
    "AttentionMaps",
    "AttentionShare",
    "Explained",
    "attention_maps",
    "attention_share",
    "global_map",
    "local_map",
    "picture",
    "shown_frames",
]
