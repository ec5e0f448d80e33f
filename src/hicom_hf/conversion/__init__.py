"""Official HICom checkpoints to ours: the only place that knows the official names and option strings."""

from .converting import Conversion, convert_official_checkpoint
from .official_config import build_official_compressor, projector_plan
from .official_sources import OfficialSource
from .projector_string import ProjectorPlan, UnreleasedOptionError, parse_projector_string

__all__ = [
    "Conversion",
    "OfficialSource",
    "ProjectorPlan",
    "UnreleasedOptionError",
    "build_official_compressor",
    "convert_official_checkpoint",
    "parse_projector_string",
    "projector_plan",
]
