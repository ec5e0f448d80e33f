"""Everything of a converted folder but the weights: config, processor and generation settings, from the official files."""

from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedConfig, Qwen2Config
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from ..assembly.from_parts import IMAGE_TOKEN, VIDEO_TOKEN, build_processor, load_instruction_tokenizer
from ..hub.reading import read_json_object
from ..modeling.configuration_hicom import HiComConfig
from ..processors.chat_template_hicom import multimodal_chat_template
from ..processors.processing_hicom import HiComProcessor
from ..processors.square_frames_hicom import BICUBIC
from ..processors.video_processing_hicom import HiComVideoProcessor
from .official_sources import OfficialSource
from .projector_string import UnreleasedOptionError

NORMALISATION = ("image_mean", "image_std", "rescale_factor", "resample")


def build_config(source: OfficialSource, tokenizer: PreTrainedTokenizerBase, instruction_tokenizer) -> HiComConfig:
    """The model's config: LLM from the official one, tower sizes from the tower's own, compressor from the string.

    Raises:
        ValueError: if the tower is no SigLIP or the parts do not fit together.
    """
    siglip = AutoConfig.from_pretrained(str(source.tower))
    if siglip.model_type != "siglip":
        towers = "CLIP towers" if "clip" in siglip.model_type else f"towers of type {siglip.model_type!r}"
        raise UnreleasedOptionError(f"{towers} ({source.tower}): hicom_hf converts SigLIP only")
    width = siglip.vision_config.hidden_size
    if source.config.get("mm_hidden_size", width) != width:
        raise ValueError(
            f"{source.tower} is {width} wide, the official config says mm_hidden_size={source.config['mm_hidden_size']}: it "
            "is not the checkpoint's SigLIP; name the right one with --vision-tower"
        )
    tokens = {"bos_token_id": None}
    for name in ("eos_token_id", "pad_token_id"):
        tokens[name] = getattr(instruction_tokenizer, name)
    text_config = _text_config(source.config)
    ids: list[Any] = [tokenizer.convert_tokens_to_ids(token) for token in (IMAGE_TOKEN, VIDEO_TOKEN)]
    text_config["vocab_size"] = max(text_config["vocab_size"], *(token_id + 1 for token_id in ids))
    return HiComConfig(
        vision_config=siglip.vision_config.to_dict(),
        instruction_config={**siglip.text_config.to_dict(), **tokens},
        text_config={"model_type": "qwen2", **text_config},
        compressor_config=source.plan.config.to_dict(),
        image_token_id=ids[0],
        video_token_id=ids[1],
    )


def _text_config(config: dict) -> dict:
    """The LLM's part of the official config."""
    known = set(Qwen2Config().to_dict()) - set(PreTrainedConfig().to_dict())
    shared = {"bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings"}
    values = {key: config[key] for key in sorted(known | shared) if config.get(key) is not None}
    scaling = dict(config.get("rope_scaling") or {})
    scaling.setdefault("rope_type", scaling.pop("type", "default"))  # transformers 4 and 5
    values.setdefault("rope_parameters", {"rope_theta": config["rope_theta"], **scaling})
    return values


def build_tokenizer(source: OfficialSource) -> PreTrainedTokenizerBase:
    """The LLM's tokenizer with placeholders for images and videos; Qwen2.5's own has them."""
    folder = source.folder if _has_tokenizer(source.folder) else source.language_model
    if folder is None:
        raise FileNotFoundError(f"{source.folder} holds no tokenizer (tokenizer.json or vocab.json and merges.txt)")
    # Given a config, it does not read the official one, which transformers does not know.
    tokenizer = AutoTokenizer.from_pretrained(str(folder), config=Qwen2Config())
    absent = [token for token in (IMAGE_TOKEN, VIDEO_TOKEN) if token not in tokenizer.get_vocab()]
    if absent:
        tokenizer.add_tokens(absent, special_tokens=True)
        source.notes.append(f"The tokenizer had no {' and no '.join(absent)}; added.")
    tokenizer.padding_side = "left"  # what generation needs; the official inference has one row only
    return tokenizer


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json"))


def build_official_processor(
    source: OfficialSource, config: HiComConfig, tokenizer, instruction_tokenizer
) -> HiComProcessor:
    """The processor with the release's behaviour: chat layout, 64 positions, padding, frames of short videos repeated."""
    template = tokenizer.chat_template
    tokenizer.chat_template = None  # the processor has it
    template = multimodal_chat_template(template, IMAGE_TOKEN, VIDEO_TOKEN)
    processor = build_processor(config, tokenizer, instruction_tokenizer, template)
    processor.video_processor = _video_processor(source, config)
    return processor


def _video_processor(source: OfficialSource, config: HiComConfig) -> HiComVideoProcessor:
    """Preprocessing and frame sampling as in the release, to the byte, but for its cap of 32 frames."""
    path = source.tower / "preprocessor_config.json"
    values = read_json_object(path) if path.is_file() else {}
    side = config.vision_config.image_size
    settings = {name: values[name] for name in NORMALISATION if values.get(name) is not None}
    if settings.get("resample", BICUBIC) == BICUBIC:
        settings["resample"] = "exact"
    num_frames = source.config.get("num_frames", HiComVideoProcessor.num_frames)
    settings |= {"num_frames": num_frames} if num_frames else {"fps": 1.0}  # null: one frame per second
    return HiComVideoProcessor(
        size={"height": side, "width": side},
        do_pad=source.config.get("image_aspect_ratio") == "pad",
        short_video="repeat",
        square_pixels=False,
        alpha_on_white=False,
        browser_delays=False,
        **settings,
    )


def build_generation_config(source: OfficialSource, tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
    """Greedy, as the official inference; ends of turns as in the checkpoint."""
    path = source.folder / "generation_config.json"
    if not path.is_file() and source.language_model is not None:
        path = source.language_model / "generation_config.json"
    values = read_json_object(path) if path.is_file() else {}
    ids = {key: values.get(key, source.config.get(key)) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    if ids["eos_token_id"] is None:
        ids["eos_token_id"] = tokenizer.eos_token_id
    if ids["pad_token_id"] is None:
        ids["pad_token_id"] = tokenizer.pad_token_id
    return GenerationConfig(do_sample=False, **ids)


def load_tower_tokenizer(source: OfficialSource) -> PreTrainedTokenizerBase:
    """The tower's text tokenizer in its fast form; the slow one, with a warning, if that differs."""
    return load_instruction_tokenizer(source.tower)
