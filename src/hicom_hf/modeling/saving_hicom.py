"""What a saved folder needs besides weights, so that it loads without `hicom_hf` installed: names, code, pipeline."""

import shutil
from pathlib import Path

from transformers.utils import cached_file, logging

logger = logging.get_logger(__name__)

CONFIG_CLASS = "configuration_hicom.HiComConfig"
MODEL_CLASS = "modeling_hicom.HiComForConditionalGeneration"
PROCESSOR_CLASS = "processing_hicom.HiComProcessor"
# Every Auto class gives the model that generates. transformers itself would register one Auto class only.
AUTO_MAP = {
    "AutoConfig": CONFIG_CLASS,
    "AutoProcessor": PROCESSOR_CLASS,
    "AutoModel": MODEL_CLASS,
    "AutoModelForCausalLM": MODEL_CLASS,
    "AutoModelForImageTextToText": MODEL_CLASS,
    "AutoModelForMultimodalLM": MODEL_CLASS,
}
PIPELINE_TASK = "video-text-to-text"
PIPELINE_FILE = "video_text_to_text.py"
CUSTOM_PIPELINES = {
    PIPELINE_TASK: {
        "impl": "video_text_to_text.VideoTextToTextPipeline",
        "pt": ["AutoModelForImageTextToText"],
        "default": None,
        "type": "multimodal",
    }
}


def write_hub_files(model, save_directory) -> None:
    """Name the remote code in the model's config and copy the pipeline; transformers copies the model code itself."""
    folder = Path(save_directory)
    folder.mkdir(parents=True, exist_ok=True)
    model.config.auto_map = dict(AUTO_MAP)
    pipeline = _pipeline_file(model)
    if pipeline is None:
        logger.warning(
            f"{PIPELINE_FILE} was not found beside the model's code: {folder} is saved without its pipeline"
        )
        model.config.custom_pipelines = {}
        return
    model.config.custom_pipelines = {name: dict(entry) for name, entry in CUSTOM_PIPELINES.items()}
    if pipeline.resolve() != (folder / PIPELINE_FILE).resolve():
        shutil.copyfile(pipeline, folder / PIPELINE_FILE)


def _pipeline_file(model) -> Path | None:
    """The pipeline's source: in the package, beside this file (remote code), or in the folder or repo of the weights."""
    here = Path(__file__).parent
    for candidate in (here.parent / "pipelines" / PIPELINE_FILE, here / PIPELINE_FILE):
        if candidate.is_file():
            return candidate
    source = model.config.name_or_path
    found = cached_file(source, PIPELINE_FILE, _raise_exceptions_for_missing_entries=False) if source else None
    return Path(found) if found else None
