"""The official config.json: what it builds in our terms, and what of it is refused by name."""

from ..modeling.compressor_hicom import HiComCompressor
from .names import PROJECTOR_RULES
from .projector_string import UNGUIDED, ProjectorPlan, UnreleasedOptionError, parse_projector_string
from .tensor_matching import match_tensors

OFFICIAL_LLM = "hicom_qwen2"  # its decoder is Qwen2's
SECOND_TO_LAST = -2  # the SigLIP layer whose states are compressed
# Fields that the LLM's config needs; a default could fit the tensors and still give another model.
LLM_KEYS = (
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "rope_theta",
    "vocab_size",
)
NOT_BUILT = "is an unreleased experiment that hicom_hf does not build"


def projector_plan(config: dict) -> ProjectorPlan:
    """What the projector of an official config is.

    Args:
        config: the official config.json; only the keys of the projector are read.

    Returns:
        The compressor's config, in words, and notes.

    Raises:
        ValueError: for an option that is not understood; `UnreleasedOptionError` for one that is not built, by name.
    """
    if "mm_projector_type" not in config:
        raise ValueError(
            "the config has no mm_projector_type: it is not the config.json of an official HICom checkpoint"
        )
    if config.get("use_clip_scale"):
        raise UnreleasedOptionError(f"logit scale (use_clip_scale={config['use_clip_scale']!r}) {NOT_BUILT}")
    text_width = config.get("text_dim")
    if text_width is not None and text_width != config.get("mm_hidden_size", text_width):
        raise UnreleasedOptionError(
            f"another text width (text_dim={text_width}, mm_hidden_size={config['mm_hidden_size']}) {NOT_BUILT}"
        )
    _check_layout(config)
    return parse_projector_string(config["mm_projector_type"], config.get("use_guide"))


def _check_layout(config: dict) -> None:
    """Only plain flattening of the visual tokens is built: no newline tokens, no any-resolution layouts."""
    aspect = config.get("image_aspect_ratio")
    if aspect not in (None, "pad", "square"):
        raise UnreleasedOptionError(
            f"any-resolution layouts (image_aspect_ratio={aspect!r}) {NOT_BUILT}; known are pad and square"
        )
    merge = config.get("mm_patch_merge_type") or "flat"
    if merge != "flat" and not merge.startswith("spatial"):
        raise ValueError(f"mm_patch_merge_type is {merge!r}; expected 'flat' or 'spatial_unpad'")
    newline = config.get("mm_newline_position") or "one_token"  # the official default for a missing key
    if merge != "flat" and newline != "no_token":
        raise UnreleasedOptionError(
            f"newline tokens (mm_patch_merge_type={merge!r} with mm_newline_position={newline!r}) {NOT_BUILT}; expected "
            "mm_newline_position='no_token' or mm_patch_merge_type='flat'"
        )


def check_behaviour(config: dict, plan: ProjectorPlan, towers_inside: bool) -> None:
    """Refuse what changes the numbers of a whole model and is in no released script.

    Args:
        config: the official config.json.
        plan: what its projector is.
        towers_inside: whether the checkpoint is to bring its own towers.

    Raises:
        ValueError: by name; `UnreleasedOptionError` for unreleased experiments.
    """
    if config.get("model_type") != OFFICIAL_LLM:
        raise UnreleasedOptionError(
            f"the LLM is of type {config.get('model_type')!r}; only Qwen2.5 ({OFFICIAL_LLM!r}) was released, and hicom_hf "
            "does not convert Llama or others"
        )
    missing = [key for key in LLM_KEYS if config.get(key) is None]
    if missing:
        raise ValueError(f"the official config has no {', '.join(missing)}, needed to build its LLM")
    if config.get("add_time_instruction"):
        raise UnreleasedOptionError(f"a sentence about frame times in the prompt (add_time_instruction) {NOT_BUILT}")
    for key, expected in (("mm_vision_select_layer", SECOND_TO_LAST), ("mm_vision_select_feature", "patch")):
        if config.get(key, expected) != expected:
            raise UnreleasedOptionError(f"other SigLIP features ({key}={config[key]!r}) {NOT_BUILT}")
    if plan.config.local_branch and not plan.config.uses_instruction and config.get("use_guide") not in UNGUIDED:
        raise UnreleasedOptionError(
            f"guideoff in every branch with use_guide={config['use_guide']!r} (keys of the instruction's space, but no "
            f"instruction) {NOT_BUILT}"
        )
    if not config.get("use_mm_proj", True):
        raise ValueError("use_mm_proj is false in the official config, so there is no projector to convert")
    if towers_inside and config.get("delay_load"):
        raise ValueError(
            "delay_load is true in the official config, so the official program ignores the towers in the checkpoint and "
            "reads the original SigLIP; set it to false in config.json to convert the checkpoint's own towers"
        )


def build_official_compressor(config: dict, state_dict: dict) -> HiComCompressor:
    """An official projector as our compressor, from its options and tensors alone.

    Args:
        config: keys of the official config.json: mm_projector_type, use_guide, mm_hidden_size (D), hidden_size (C), and
            those of other options if they are set.
        state_dict: the projector's tensors, named relative to it (`local_compressor.readout.0.weight`).

    Returns:
        The compressor, float32, in evaluation mode.

    Raises:
        ValueError: for options that are not built, by name, and for tensors that do not fit, all together.

    Example:
        >>> config = {"mm_projector_type": "local43", "use_guide": None, "mm_hidden_size": 8, "hidden_size": 4}
        >>> tensors = {"local_compressor.readout.0.weight": torch.ones(4, 8), "local_compressor.readout.0.bias":
        ...     torch.ones(4), "local_compressor.readout.2.weight": torch.ones(4, 4),
        ...     "local_compressor.readout.2.bias": torch.ones(4)}
        >>> build_official_compressor(config, tensors).config.ratio
        [4, 3, 3]
    """
    plan = projector_plan(config)
    missing = [key for key in ("mm_hidden_size", "hidden_size") if key not in config]
    if missing:
        raise ValueError(f"the official config has no {' and no '.join(missing)}, the widths of the projector")
    compressor = HiComCompressor(plan.config, config["mm_hidden_size"], config["hidden_size"])
    wanted = {name: tuple(tensor.shape) for name, tensor in compressor.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state_dict.items()}
    sources = match_tensors(found, wanted, PROJECTOR_RULES, built="; ".join(plan.words))
    compressor.load_state_dict({ours: state_dict[official].float() for ours, official in sources.items()})
    return compressor.eval()
