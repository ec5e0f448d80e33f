"""Save or upload a model and its processor as one self-contained folder.

The folder loads with `hicom_hf` installed, and without it through `trust_remote_code=True`: weights, configs, both tokenizers,
chat template, code, pipeline, model card. Loading and uploading are tested up to the network, not against the real Hub.
"""

from pathlib import Path
from typing import Any

from ..modeling.modeling_hicom import HiComForConditionalGeneration
from ..processors.processing_hicom import HiComProcessor
from .loading import check_fits


def save_hub_folder(
    model: HiComForConditionalGeneration, processor: HiComProcessor, folder: str | Path, **kwargs: Any
) -> Path:
    """Save both into one folder.

    Args:
        model: its weights, config, code, pipeline and card are written.
        processor: both its tokenizers, its settings, chat template and code are written.
        folder: made if it does not exist. A README.md there is replaced only if it was generated and not edited.
        **kwargs: for the model's `save_pretrained`, such as `max_shard_size`.

    Returns:
        The folder.

    Raises:
        ValueError: the processor was made for another model.

    Example:
        >>> from hicom_hf.assembly.random_model import tiny_model, tiny_processor
        >>> save_hub_folder(tiny_model(), tiny_processor(), "hicom-random")  # doctest: +SKIP
    """
    folder = Path(folder)
    check_fits(model.config, processor, folder)
    model.save_pretrained(folder, processor=processor, **kwargs)
    return folder


def push_to_hub(model: HiComForConditionalGeneration, processor: HiComProcessor, repo_id: str, **kwargs: Any) -> Any:
    """Upload both in one commit.

    Args:
        model, processor: as for `save_hub_folder`.
        repo_id: made if it does not exist. A model card there is replaced only if it was generated and not edited.
        **kwargs: commit_message, commit_description, private, token, revision, create_pr, max_shard_size, tags.

    Returns:
        What huggingface_hub says about the commit.

    Raises:
        ValueError: the processor was made for another model.
    """
    check_fits(model.config, processor, repo_id)
    return model.push_to_hub(repo_id, processor=processor, **kwargs)
