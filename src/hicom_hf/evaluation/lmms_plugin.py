"""What lmms-eval finds through the entry point `lmms_eval.models`: `lmms_eval --model hicom --model_args pretrained=...`.

Nothing is imported from lmms-eval before it asks, so the entry point costs nothing where it is absent.
"""

from typing import Any

CLASS_PATH = "hicom_hf.evaluation.lmms_model.HiComLmms"


def manifest() -> Any:
    """The registration of the model."""
    from lmms_eval.models.registry_v2 import ModelManifest  # pyright: ignore[reportMissingImports] see above

    return ModelManifest(model_id="hicom", chat_class_path=CLASS_PATH)
