"""HICom for Hugging Face: video language models whose visual tokens are compressed on the condition of the question.

Importing the package registers HICom with the Auto classes and the pipelines of transformers.
"""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
)
from transformers.models.auto.video_processing_auto import AutoVideoProcessor
from transformers.pipelines import PIPELINE_REGISTRY

from .assets import FOLDER, HICOM_TINY, HICOM_TINY_NOTE, example_videos, hicom_tiny
from .inference.session import HiComSession
from .modeling.backbone_hicom import HiComModel
from .modeling.configuration_hicom import HiComCompressorConfig, HiComConfig
from .modeling.modeling_hicom import HiComForConditionalGeneration
from .modeling.outputs_hicom import HiComVideoFeatures
from .processors.frame_sampling_hicom import FrameSampling
from .processors.frame_selection_hicom import FrameSelection
from .processors.frame_tiles_hicom import FrameTiles
from .processors.processing_hicom import HiComProcessor
from .processors.video_processing_hicom import HiComVideoProcessor
from .processors.video_text_to_text import NOTES, VideoTextToTextPipeline

__version__ = "0.1.0"
__all__ = [
    "FrameSampling",
    "FrameSelection",
    "FrameTiles",
    "HiComCompressorConfig",
    "HiComConfig",
    "HiComForConditionalGeneration",
    "HiComModel",
    "HiComProcessor",
    "HiComSession",
    "HiComVideoFeatures",
    "HiComVideoProcessor",
    "VideoTextToTextPipeline",
    "example_videos",
    "hicom_tiny",
]

AutoConfig.register("hicom", HiComConfig, exist_ok=True)
for auto_class in (AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMultimodalLM):
    auto_class.register(HiComConfig, HiComForConditionalGeneration, exist_ok=True)
AutoProcessor.register(HiComConfig, HiComProcessor, exist_ok=True)
AutoVideoProcessor.register(HiComConfig, HiComVideoProcessor, exist_ok=True)
default_model = str(FOLDER / HICOM_TINY)  # where no model is named: a folder of the package, nothing is downloaded
PIPELINE_REGISTRY.register_pipeline(
    "video-text-to-text",
    VideoTextToTextPipeline,
    pt_model=AutoModelForImageTextToText,
    default={"model": (default_model, "main")},  # a folder has no revisions, but the registry wants one
    type="multimodal",
)
NOTES[default_model] = HICOM_TINY_NOTE
# The package's pipeline serves the task; for a config that names the folder's copy, transformers would ask to trust it.
HiComConfig.has_own_pipeline = True

# So that save_pretrained copies the code into the folder of the weights.
HiComConfig.register_for_auto_class()
HiComForConditionalGeneration.register_for_auto_class("AutoModel")
HiComProcessor.register_for_auto_class()
HiComVideoProcessor.register_for_auto_class()
