"""Where the compressor looks: attention as maps over the video, numbers about them, and pictures of them.

maps = attention_maps(model, processor, video, "What colour is the striped circle?")
picture(frames, times, [Explained(question, answer, maps), ...]).save("attention.png")
"""

from .maps import AttentionMaps, AttentionShare, attention_maps, attention_share, global_map, local_map
from .picture import Explained, picture, shown_frames

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
