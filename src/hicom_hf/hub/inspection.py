"""Say what a model is from its config, the headers of its weight files, and its processor; no weights are loaded."""

from collections import Counter
from math import prod
from pathlib import Path
from typing import Any

from huggingface_hub import get_safetensors_metadata
from jinja2 import TemplateError
from safetensors import SafetensorError, safe_open
from transformers.utils.hub import cached_file

from ..modeling.configuration_hicom import HiComConfig
from ..modeling.parts_hicom import PARTS, count_by_part
from ..processors.processing_hicom import HiComProcessor
from .loading import load_config, load_processor
from .places import Model, ModelPlace, find_model
from .reading import shard_names

FRAME_COUNTS = (1, 8, 16, 32, 64, 128)
ADAPTER_WEIGHTS = "adapter_model.safetensors"
WEIGHTS_FILE, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"


def inspect_model(model: Model) -> dict[str, Any]:
    """What a model is.

    Args:
        model: see `find_model`; of an adapter, its base and the adapter's size.

    Returns:
        Plain values: `model`, `adapter` (None, or its base and the number of its parameters, its compressor's included),
        `formulation`, `compressor` (its config), `untrained_parts`, `parts` (per part its type, size and parameters),
        `num_parameters`, `dtypes`, `num_bytes`, `num_weight_files`, `tokens` (one entry per frame count), `processor` (special
        tokens, system prompt, prompt; or `error`), `problems`.

    Raises:
        FileNotFoundError: there is no such folder, or no model in it.
        ValueError: it is another kind of model, or its config is not valid.
    """
    place = find_model(model)
    config = load_config(place)
    problems = []
    tensors, files = {}, {}
    try:
        tensors, files = read_headers(place)
    except (OSError, ValueError, SafetensorError) as error:
        problems.append(f"the weights cannot be read: {error}")
    parameters = count_by_part((name, prod(shape)) for name, (shape, _) in tensors.items())
    dtypes = Counter()
    for shape, dtype in tensors.values():
        dtypes[dtype] += prod(shape)
    try:
        processor = describe_processor(load_processor(place))
    except (OSError, ValueError) as error:
        processor = None
        problems.append(str(error))
    return {
        "model": str(place),
        "adapter": None if place.adapter is None else {"base": place.source, "num_parameters": _adapter_size(place)},
        "formulation": config.compressor_config.formulation,
        "compressor": _compressor(config),
        "untrained_parts": config.untrained_parts,
        "parts": {
            part: {**_part_sizes(config, part), "num_parameters": parameters[part] if tensors else None}
            for part in PARTS
        },
        "num_parameters": sum(parameters.values()) if tensors else None,
        "dtypes": dict(dtypes.most_common()),
        "num_weight_files": len(files),
        "num_bytes": sum(files.values()),
        "tokens": [_tokens(config, num_frames) for num_frames in FRAME_COUNTS],
        "processor": processor,
        "problems": problems,
    }


def read_headers(model: Model) -> tuple[dict[str, tuple[list[int], str]], dict[str, int]]:
    """Shapes and dtypes of all weights, without reading them.

    Args:
        model: see `find_model`; of a repo that is not in the cache only the headers are fetched.

    Returns:
        Name -> (shape, dtype as safetensors calls it), and weight file -> bytes (empty if only headers were fetched).

    Raises:
        FileNotFoundError: a weight file is missing.
        OSError: the repo cannot be reached.
        SafetensorError: a weight file is damaged.
    """
    place = find_model(model)
    folder = Path(place.source)
    is_local = folder.is_dir()
    if not is_local:
        config_file = cached_file(place.source, "config.json", revision=place.revision)
        assert config_file is not None  # otherwise it raises
        folder = Path(config_file).parent  # the repo's folder in the cache
    names = [WEIGHTS_FILE]
    if (folder / WEIGHTS_INDEX).is_file():
        names = shard_names(folder / WEIGHTS_INDEX)
    absent = [name for name in names if not (folder / name).is_file()]
    if absent and not is_local:
        metadata = get_safetensors_metadata(place.source, revision=place.revision)
        return {
            name: (tensor.shape, tensor.dtype)
            for file in metadata.files_metadata.values()
            for name, tensor in file.tensors.items()
        }, {}
    if absent:
        raise FileNotFoundError(f"{place}: {', '.join(absent)} is missing")
    tensors = {}
    for name in names:
        tensors.update(_headers_of(folder / name))
    return tensors, {name: (folder / name).stat().st_size for name in names}


def _headers_of(path: Path) -> dict[str, tuple[list[int], str]]:
    with safe_open(path, "pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  safe_open is no dictionary
        return {name: (tensor.get_shape(), tensor.get_dtype()) for name, tensor in slices.items()}


def _adapter_size(place: ModelPlace) -> int | None:
    path = Path(place.adapter or "") / ADAPTER_WEIGHTS
    return sum(prod(shape) for shape, _ in _headers_of(path).values()) if path.is_file() else None


def describe_processor(processor: HiComProcessor) -> dict[str, Any]:
    """Special tokens, and the prompt that a question becomes."""
    video_processor = processor.video_processor
    question = {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "QUESTION"}]}
    return {
        "image_token": processor.image_token,
        "image_token_id": processor.image_token_id,
        "video_token": processor.video_token,
        "video_token_id": processor.video_token_id,
        "end_token": processor.tokenizer.eos_token,
        "padding_token": processor.tokenizer.pad_token,
        "instruction_length": processor.instruction_length,
        "num_frames": video_processor.num_frames if video_processor.fps is None else None,
        "fps": video_processor.fps,
        "frame_size": [video_processor.size["height"], video_processor.size["width"]],
        "system_prompt": system_prompt(processor),
        "prompt": processor.apply_chat_template([question], add_generation_prompt=True, tokenize=False),
    }


def system_prompt(processor: HiComProcessor) -> str | None:
    """What the chat template says to the model when the chat has no system turn; None if it says nothing or takes none.

    Found by rendering a chat with a system turn that can be recognised, and reading what stands in its place without.
    """
    mark = "SYSTEM PROMPT GOES HERE"
    chat = [{"role": "user", "content": "QUESTION"}]
    try:
        marked = processor.apply_chat_template([{"role": "system", "content": mark}, *chat], tokenize=False)
        plain = processor.apply_chat_template(chat, tokenize=False)
    except (ValueError, TemplateError):
        return None
    before, _, after = marked.partition(mark)
    if not (after and plain.startswith(before) and plain.endswith(after)):
        return None
    return plain[len(before) : len(plain) - len(after)] or None


def _compressor(config: HiComConfig) -> dict[str, Any]:
    compressor = config.compressor_config
    return {
        name: getattr(compressor, name)
        for name in (
            "local_branch",
            "ratio",
            "local_injection",
            "num_global_tokens",
            "global_injection",
            "key_adapter",
            "value_adapter",
            "bypass_injection",
        )
    }


def _part_sizes(config: HiComConfig, part: str) -> dict[str, Any]:
    if part == "compressor":
        return {"type": config.compressor_config.model_type, "width": config.vision_config.hidden_size}
    part_config = {
        "vision_tower": config.vision_config,
        "instruction_encoder": config.instruction_config,
        "language_model": config.text_config,
    }[part]
    sizes = {
        "type": part_config.model_type,
        "width": part_config.hidden_size,
        "num_layers": part_config.num_hidden_layers,
    }
    if part == "vision_tower":
        sizes |= {
            "frame_size": part_config.image_size,
            "patch_size": part_config.patch_size,
            "grid": list(config.grid),
        }
    return sizes


def _tokens(config: HiComConfig, num_frames: int) -> dict[str, Any]:
    patches = num_frames * prod(config.grid)
    tokens = config.num_visual_tokens(num_frames)
    return {
        "num_frames": num_frames,
        "num_visual_tokens": tokens,
        "num_uncompressed_patches": patches,
        "times_fewer": round(patches / tokens, 1),
    }
