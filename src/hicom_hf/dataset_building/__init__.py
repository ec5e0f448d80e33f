"""Builds instruction-conditioned training data from untrimmed videos, as HICom-248K was built (paper, section 3.2).

`hicom build-data` is its command, docs/building_data.md its documentation. Each stage is a file. Stages pass paths and times to
one another, never frames. `stages.py` defines where results are stored, `settings.py` which settings determine them. The export
is `hicom_hf.dataset_building.export.export`.
"""

from .building import Build
from .clips import Clip
from .embedders import Embedder, make_embedder
from .probe import SourceVideo, find_videos
from .report import write_report
from .settings import (
    BuildSettings,
    CaptionSettings,
    ClipSettings,
    DecontaminationSettings,
    DeduplicationSettings,
    FilterSettings,
    KeyframeSettings,
    PairSettings,
    SelectionSettings,
    ShotSettings,
    read_settings,
    settings_from_dict,
)

__all__ = [
    "Build",
    "BuildSettings",
    "CaptionSettings",
    "Clip",
    "ClipSettings",
    "DecontaminationSettings",
    "DeduplicationSettings",
    "Embedder",
    "FilterSettings",
    "KeyframeSettings",
    "PairSettings",
    "SelectionSettings",
    "ShotSettings",
    "SourceVideo",
    "find_videos",
    "make_embedder",
    "read_settings",
    "settings_from_dict",
    "write_report",
]
