"""What a HICom model is made of: four configurations and the rules between them."""

import copy
import logging
import re
from math import ceil, prod
from typing import TYPE_CHECKING, Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig, SiglipTextConfig, SiglipVisionConfig
from transformers.configuration_utils import SubConfigSpec

from .parts_hicom import PARTS

# SigLIP so400m-patch14-384 and Qwen2.5-7B. Source: paper, section 4.1; the values are those of their config.json.
SIGLIP_SO400M_VISION = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
}
SIGLIP_DEFAULTS_RE = re.compile(
    r"Model config: (bos_token_id must be .*, got 49406|eos_token_id must be .*, got 49407)\."
)
SIGLIP_SO400M_TEXT = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "projection_size": 1152,
    "vocab_size": 32000,
    "max_position_embeddings": 64,
    "pad_token_id": 1,
    "bos_token_id": None,
    "eos_token_id": 1,
}
QWEN2_5_7B = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
}

# Where transformers finds the pipeline that is saved beside the weights.
CUSTOM_PIPELINES = {
    "video-text-to-text": {
        "impl": "video_text_to_text.VideoTextToTextPipeline",
        "pt": ["AutoModelForImageTextToText"],
        "default": None,
        "type": "multimodal",
    }
}

Injection = Literal["none", "direct", "coarse", "fine"]

# What transformers itself may hand to any configuration besides its fields.
LIBRARY_KEYS = {
    "_attn_implementation_internal",
    "_experts_implementation_internal",
    "_name_or_path",
    "_output_attentions",
    "attn_implementation",
    "experts_implementation",
    "model_type",
    "name_or_path",
    "output_attentions",
    "torch_dtype",
}


@strict
class HiComCompressorConfig(PreTrainedConfig):
    """The compressor: its branches, the injection of the instruction, and whose equations it follows.

    Args:
        formulation: "paper" (the equations of the paper, the default for new models) or "release" (what the authors' code
            computes, for their checkpoints).
        local_branch: "attention", "average_pool" (the baseline of table 4) or None for no local branch.
        ratio: group lengths over (frames, patch rows, patch columns). Default (4, 3, 3): paper, section 4.1.
        grouping: whether a local token attends to its own group only. False lets it attend to the whole video (paper, table A3).
        local_injection: how the instruction enters the local queries. Default "direct": paper, table 6.
        num_global_tokens: learnable tokens of the global branch, 0 for no global branch. Default 32: paper, section 4.1.
        global_injection: how the instruction enters the global queries. Default "coarse": paper, table 6.
        key_adapter, value_adapter: gated adapters on the local keys and values (`release` only: its second script).
        bypass_injection: the injection modules exist and are saved but are not run. True after the alignment stage, which
            injects no instruction (paper, figure 3).

    Raises:
        ValueError: for a combination that cannot be built, or an unknown field, by name.

    Example:
        >>> HiComCompressorConfig(ratio=[4, 9, 9]).num_tokens((32, 27, 27))
        104
    """

    model_type = "hicom_compressor"
    base_config_key = "compressor_config"

    formulation: Literal["paper", "release"] = "paper"
    local_branch: Literal["attention", "average_pool"] | None = "attention"
    ratio: list[int] | tuple[int, ...] = (4, 3, 3)
    grouping: bool = True
    local_injection: Injection = "direct"
    num_global_tokens: int = 32
    global_injection: Injection = "coarse"
    key_adapter: bool = False
    value_adapter: bool = False
    bypass_injection: bool = False

    def __post_init__(self, **kwargs):
        unknown = sorted(set(kwargs) - LIBRARY_KEYS)
        if unknown:
            raise ValueError(
                f"compressor_config has no field {', '.join(map(repr, unknown))}; its fields are "
                f"{', '.join(sorted(FIELDS))}"
            )
        super().__post_init__(**kwargs)
        self.ratio = list(self.ratio)
        self._check()

    def _check(self):
        """Refuse combinations that cannot be built."""
        if len(self.ratio) != 3 or any(not isinstance(step, int) or step < 1 for step in self.ratio):
            raise ValueError(
                f"ratio must be three whole numbers of at least 1 (frames, rows, columns), got {self.ratio}"
            )
        if self.num_global_tokens < 0:
            raise ValueError(f"num_global_tokens must be at least 0, got {self.num_global_tokens}")
        if self.local_branch is None and not self.num_global_tokens:
            raise ValueError(
                "a compressor needs a local branch (local_branch) or a global one (num_global_tokens > 0)"
            )
        if self.local_branch != "attention" and self.local_injection != "none":
            raise ValueError(
                f"local_injection={self.local_injection!r} needs local_branch='attention', got {self.local_branch!r}; set "
                "local_injection='none'"
            )
        if not self.num_global_tokens and self.global_injection != "none":
            raise ValueError(
                f"global_injection={self.global_injection!r} needs a global branch; set global_injection='none' or "
                "num_global_tokens above 0"
            )
        if self.formulation == "paper" and self.global_injection == "direct":
            raise ValueError(
                "global_injection='direct' makes all global tokens equal (paper, section 3.1: direct fits the local branch "
                "only); use 'coarse' or 'fine', or formulation='release' to reproduce the released checkpoint"
            )
        if not self.grouping:
            self._check_ungrouped()
        if self.key_adapter or self.value_adapter:
            if self.formulation == "paper":
                raise ValueError("key_adapter and value_adapter exist under formulation='release' only")
            if self.local_branch != "attention":
                raise ValueError("key_adapter and value_adapter need local_branch='attention'")

    def _check_ungrouped(self):
        if self.local_branch != "attention" or self.formulation == "release":
            raise ValueError(
                "grouping=False needs local_branch='attention' and formulation='paper', got "
                f"{self.local_branch!r} and {self.formulation!r}"
            )
        if self.local_injection == "direct":
            raise ValueError(
                "local_injection='direct' without grouping makes all local tokens equal: one query for all attends to the "
                "same patches; use 'coarse' or 'fine'"
            )

    @property
    def uses_instruction(self) -> bool:
        """Whether any branch is steered by the instruction."""
        return not self.bypass_injection and (self.local_injection, self.global_injection) != ("none", "none")

    @property
    def uses_aligned_features(self) -> bool:
        """Whether the last SigLIP layer is needed: it makes the keys of a local branch with injection.

        `release`: of a local branch beside a global one with injection, too (official release, keys of its local branch).
        """
        if self.formulation == "release" and self.local_branch == "attention":
            return self.uses_instruction
        return not self.bypass_injection and self.local_injection != "none"

    def num_tokens(self, grid: tuple[int, int, int]) -> int:
        """Visual tokens that a grid of (T, H, W) patches becomes: one per group, plus the global tokens."""
        groups = prod(ceil(size / step) for size, step in zip(grid, self.ratio, strict=True))
        return (0 if self.local_branch is None else groups) + self.num_global_tokens


FIELDS = {name for name in HiComCompressorConfig.__annotations__ if name in HiComCompressorConfig.__dict__}


def _is_news(record: logging.LogRecord) -> bool:
    """False for what transformers says of the defaults of its own `SiglipTextConfig`, which it makes whenever it compares."""
    return not SIGLIP_DEFAULTS_RE.match(record.getMessage())


logging.getLogger("transformers.configuration_utils").addFilter(_is_news)


@strict
class HiComConfig(PreTrainedConfig):
    """A HICom model: SigLIP vision and text, a compressor and an LLM. The defaults are the paper's 7B.

    Args:
        vision_config: SigLIP vision, patch grid (H, W) and width D.
        instruction_config: SigLIP text; its projection is D wide.
        text_config: any decoder that AutoModel knows, width C.
        compressor_config: see `HiComCompressorConfig`.
        image_token_id, video_token_id: the LLM tokens that visual tokens replace. Defaults: `<|image_pad|>` and
            `<|video_pad|>` of Qwen2.5.
        vision_batch_size: frames that SigLIP encodes at a time; bounds memory, not results.
        tie_word_embeddings: as in `text_config`, from which it is taken.
        untrained_parts: those of `PARTS` whose weights are random: all parts of a random model, the compressor of a model
            that is to be trained. Training removes the parts that it has trained. While the list is not empty, answers are
            meaningless and printed with a note.

    Raises:
        ValueError: if the parts do not fit together.

    Example:
        >>> HiComConfig().num_visual_tokens(32)
        680
    """

    model_type = "hicom"
    sub_configs_defaults = {
        "vision_config": SubConfigSpec(AutoConfig, "siglip_vision_model", SIGLIP_SO400M_VISION),
        "instruction_config": SubConfigSpec(AutoConfig, "siglip_text_model", SIGLIP_SO400M_TEXT),
        "text_config": SubConfigSpec(AutoConfig, "qwen2", QWEN2_5_7B),
        "compressor_config": HiComCompressorConfig,  # pyright: ignore[reportAssignmentType] it stands for itself
    }

    if TYPE_CHECKING:  # what they are once the configuration is made
        vision_config: SiglipVisionConfig
        instruction_config: SiglipTextConfig
        text_config: PreTrainedConfig
        compressor_config: HiComCompressorConfig

        def __init__(
            self,
            vision_config: dict[str, Any] | PreTrainedConfig | None = None,
            instruction_config: dict[str, Any] | PreTrainedConfig | None = None,
            text_config: dict[str, Any] | PreTrainedConfig | None = None,
            compressor_config: dict[str, Any] | PreTrainedConfig | None = None,
            **kwargs: Any,
        ): ...
    else:  # what they may be given as
        # The class before dict: for each type that does not fit, the check writes out the whole value.
        vision_config: PreTrainedConfig | dict | None = None
        instruction_config: PreTrainedConfig | dict | None = None
        text_config: PreTrainedConfig | dict | None = None
        compressor_config: PreTrainedConfig | dict | None = None
    image_token_id: int = 151655
    video_token_id: int = 151656
    vision_batch_size: int = 32
    tie_word_embeddings: bool = False
    initializer_range: float = 0.02
    untrained_parts: list[str] | tuple[str, ...] = ()

    # Set by the package, which registers its own pipeline: as with models, it then goes before the folder's copy.
    has_own_pipeline = False

    def __post_init__(self, **kwargs):
        if self.has_own_pipeline:
            kwargs.pop("custom_pipelines", None)  # transformers would ask to trust the copy
        super().__post_init__(**kwargs)
        # transformers reads the flag at the top, decoders keep it in their own config.
        self.tie_word_embeddings = self.tie_word_embeddings or bool(
            self.text_config.to_dict().get("tie_word_embeddings")
        )
        self.untrained_parts = list(self.untrained_parts)
        self._check()

    def _check(self):
        """Refuse parts that do not fit together."""
        width = self.vision_config.hidden_size
        if self.vision_batch_size < 1:
            raise ValueError(f"vision_batch_size must be at least 1, got {self.vision_batch_size}")
        if not set(self.untrained_parts) <= set(PARTS):
            raise ValueError(f"untrained_parts may name {', '.join(PARTS)}; got {self.untrained_parts}")
        sizes = self.vision_config.image_size, self.vision_config.patch_size
        if not all(isinstance(size, int) for size in sizes):
            raise ValueError(f"vision_config.image_size and patch_size must be whole numbers (squares), got {sizes}")
        if self.grid[0] < 1:
            raise ValueError("vision_config.image_size is smaller than one patch")
        if not self.vision_config.vision_use_head:
            raise ValueError(
                "vision_config.vision_use_head must be true: the aligned features come from SigLIP's pooling head"
            )
        if self.instruction_config.projection_size != width:
            raise ValueError(
                f"instruction_config.projection_size is {self.instruction_config.projection_size} but "
                f"vision_config.hidden_size is {width}; take both towers from one SigLIP"
            )
        compressor = self.compressor_config
        if compressor.formulation == "paper" and compressor.num_global_tokens and width % 16:
            raise ValueError(
                f"vision_config.hidden_size must be divisible by 16 for the 3D position embedding, got {width}"
            )

    def to_dict(self) -> dict:
        """As in transformers, with the pipeline's file among `custom_pipelines`."""
        # config.json always names the pipeline's copy: a process without the package finds it so.
        return {**super().to_dict(), "custom_pipelines": copy.deepcopy(CUSTOM_PIPELINES)}

    @property
    def grid(self) -> tuple[int, int]:
        """(H, W), the patch rows and columns of a frame."""
        image_size, patch_size = self.vision_config.image_size, self.vision_config.patch_size
        assert isinstance(image_size, int) and isinstance(patch_size, int)  # checked when it was made
        side = image_size // patch_size
        return side, side

    def num_visual_tokens(self, num_frames: int) -> int:
        """Tokens that the LLM reads for a video of `num_frames` frames; 1 for an image."""
        return self.compressor_config.num_tokens((num_frames, *self.grid))
