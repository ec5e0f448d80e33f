"""Put a new model together: SigLIP's two towers, any decoder, and a fresh compressor between them.

Training starts from the result. All parts except the compressor are as published.
"""

from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from huggingface_hub import snapshot_download
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.tokenization_auto import get_tokenizer_config
from transformers.utils import logging
from transformers.utils.hub import cached_file

from ..hub.loading import load_with_report, quiet_transformers
from ..hub.new_folder import new_folder
from ..hub.places import check_exists, unreadable
from ..hub.reading import read_json_object
from ..hub.saving import save_hub_folder
from ..modeling.compressor_hicom import HiComCompressor
from ..modeling.configuration_hicom import HiComCompressorConfig, HiComConfig
from ..modeling.modeling_hicom import HiComForConditionalGeneration
from ..modeling.vision_hicom import HiComInstructionEncoder, HiComVisionTower
from ..processors.chat_template_hicom import multimodal_chat_template
from ..processors.processing_hicom import HiComProcessor
from ..processors.video_processing_hicom import HiComVideoProcessor
from .instruction_tokenizer import (
    SELF_CHECK_TEXTS,
    fast_instruction_tokenizer,
    slow_instruction_tokenizer,
    tokenizer_differences,
)

logger = logging.get_logger(__name__)

IMAGE_TOKEN, VIDEO_TOKEN = "<|image_pad|>", "<|video_pad|>"
GENERAL_TOKENIZERS = ("TokenizersBackend", "PreTrainedTokenizerFast")
CHATML_START, CHATML_END = "<|im_start|>", "<|im_end|>"
# Tensors of a SigLIP checkpoint that neither tower takes: they belong to its contrastive loss, or are tables.
UNUSED_SIGLIP = ("logit_scale", "logit_bias")
UNUSED_SIGLIP_ENDINGS = ("position_ids",)
SIGLIP_TOKENIZER_FILES = ["spiece.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]


class Tokens(NamedTuple):
    """The LLM's tokenizer with what HICom needs of it, and what had to be added."""

    tokenizer: PreTrainedTokenizerBase
    chat_template: str
    added: list[str]
    end_of_turn_id: int | None  # of a template that the LLM does not know; None if it has one of its own


def assemble(
    siglip: str | Path,
    llm: str | Path,
    compressor_config: HiComCompressorConfig | dict | None = None,
    *,
    dtype: str | torch.dtype = "auto",
    seed: int = 0,
) -> tuple[HiComForConditionalGeneration, HiComProcessor]:
    """Make a trainable model from a SigLIP and an LLM.

    Args:
        siglip: folder or repo id of a complete SigLIP (vision and text).
        llm: folder or repo id of any decoder that AutoModelForCausalLM loads.
        compressor_config: see `HiComCompressorConfig`; None for the paper's.
        dtype: of all weights; "auto" is the LLM's own.
        seed: of the compressor's weights; the global random state is left as it was.

    Returns:
        The model in evaluation mode, its compressor named in `config.untrained_parts`, and its processor.

    Raises:
        FileNotFoundError: one of the two is not there.
        ValueError: they are not what they should be, tensors are missing or left over, or the parts do not fit.

    Source: paper, section 4.1 (SigLIP so400m/14/384 and Qwen2.5).

    Example:
        >>> model, processor = assemble("google/siglip-so400m-patch14-384", "Qwen/Qwen2.5-7B-Instruct")  # doctest: +SKIP
    """
    siglip, llm = str(siglip), str(llm)
    siglip_config = _siglip_config(siglip)
    compressor_config = _compressor_config(compressor_config)
    with quiet_transformers():
        decoder = _load_decoder(llm, dtype)
        tokens = _llm_tokens(llm)
        _make_room(decoder, tokens)
        towers = _load_towers(siglip, siglip_config, decoder.dtype)
        config = HiComConfig(
            vision_config=_part(towers[0].config),
            instruction_config=_part(towers[1].config),
            text_config=_part(decoder.config),
            compressor_config=compressor_config,
            image_token_id=tokens.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
            video_token_id=tokens.tokenizer.convert_tokens_to_ids(VIDEO_TOKEN),
            untrained_parts=["compressor"],
        )
        model = _join(config, towers, decoder, seed)
        processor = build_processor(config, tokens.tokenizer, load_instruction_tokenizer(siglip), tokens.chat_template)
        processor.video_processor = HiComVideoProcessor(
            **{**_siglip_normalisation(siglip), "size": processor.video_processor.size}
        )
    _set_generation(model, decoder, tokens)
    return model.eval(), processor


def save_new_folder(
    model: HiComForConditionalGeneration,
    processor: HiComProcessor,
    destination: str | Path,
    *,
    overwrite: bool = False,
    **options,
) -> None:
    """Save a model with its processor, completely or not at all.

    Args:
        model, processor: what to save.
        destination: a new or empty folder.
        overwrite: replace the model folder that is there.
        **options: of the model's save_pretrained, such as max_shard_size.

    Raises:
        FileExistsError: `destination` holds something; see `check_destination`.
    """
    with new_folder(destination, overwrite) as folder, quiet_transformers():
        save_hub_folder(model, processor, folder, **options)


def build_processor(
    config: HiComConfig,
    tokenizer: PreTrainedTokenizerBase,
    instruction_tokenizer: PreTrainedTokenizerBase,
    chat_template: str,
) -> HiComProcessor:
    """The processor that fits a config.

    Raises:
        ValueError: if a tokenizer does not.
    """
    side, compressor = config.vision_config.image_size, config.compressor_config
    return HiComProcessor(
        tokenizer=tokenizer,
        instruction_tokenizer=instruction_tokenizer,
        video_processor=HiComVideoProcessor(size={"height": side, "width": side}),
        chat_template=chat_template,
        ratio=None if compressor.local_branch is None else compressor.ratio,
        grid=config.grid,
        num_global_tokens=compressor.num_global_tokens,
        instruction_length=config.instruction_config.max_position_embeddings,
        instruction_vocab_size=config.instruction_config.vocab_size,
        image_token=cast(str, tokenizer.convert_ids_to_tokens(config.image_token_id)),
        video_token=cast(str, tokenizer.convert_ids_to_tokens(config.video_token_id)),
    )


def load_instruction_tokenizer(siglip: str | Path) -> PreTrainedTokenizerBase:
    """SigLIP's text tokenizer, in the fast form that needs no SentencePiece; the slow one, with a warning, if it differs.

    Args:
        siglip: folder or repo id.

    Raises:
        FileNotFoundError: it holds no tokenizer.
        ImportError: SentencePiece is needed and not installed.
    """
    folder = Path(siglip) if Path(siglip).is_dir() else Path(_download(str(siglip), SIGLIP_TOKENIZER_FILES))
    try:
        fast = fast_instruction_tokenizer(folder)
        reason = None
        if (folder / "spiece.model").is_file():
            differences = tokenizer_differences(slow_instruction_tokenizer(folder), fast, SELF_CHECK_TEXTS)
            reason = f"it gives other ids for {differences[0].text!r}" if differences else None
    except ValueError as error:
        reason = str(error)
    if reason is None:
        return fast
    logger.warning(f"{siglip}: keeping the slow instruction tokenizer, which needs sentencepiece: {reason}")
    return slow_instruction_tokenizer(folder)


def _siglip_config(siglip: str):
    """A complete SigLIP's config."""
    check_exists(siglip)
    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(siglip)
    except OSError as error:
        raise unreadable(siglip, error) from error
    if config.model_type != "siglip":
        raise ValueError(
            f"{siglip}: a SigLIP with both towers is needed (model_type 'siglip'), this is {config.model_type!r}"
        )
    return config


def _compressor_config(config: HiComCompressorConfig | dict | None) -> HiComCompressorConfig:
    return config if isinstance(config, HiComCompressorConfig) else HiComCompressorConfig(**(config or {}))


def _part(config: PreTrainedConfig) -> dict:
    """A loaded part's config without what is said of the whole; a repo id is kept as its origin, a local path is not."""
    values = config.to_dict()
    for name in ("architectures", "dtype", "transformers_version"):
        values.pop(name, None)
    if Path(values.get("_name_or_path", "")).exists():
        del values["_name_or_path"]
    return values


def _load_decoder(llm: str, dtype: str | torch.dtype) -> PreTrainedModel:
    """The LLM with its head, every tensor accounted for."""
    check_exists(llm)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(llm, dtype=dtype, output_loading_info=True)
    except OSError as error:
        raise unreadable(llm, error) from error
    decoder, report = loaded
    _refuse_tensors(llm, report["missing_keys"], report["unexpected_keys"])
    if decoder.config.get_text_config() is not decoder.config:
        raise ValueError(
            f"{llm}: a text-only decoder is needed, this is {decoder.config.model_type!r} with other parts"
        )
    head = decoder.get_output_embeddings()
    if not isinstance(head, nn.Linear) or head.bias is not None:
        raise ValueError(f"{llm}: an LLM whose head is linear without bias is needed, its head is {head}")
    return decoder


def _load_towers(siglip: str, config, dtype: torch.dtype) -> tuple[HiComVisionTower, HiComInstructionEncoder]:
    """Both towers; every tensor of the checkpoint belongs to one of them or is dropped by name."""
    vision, of_vision = load_with_report(HiComVisionTower, siglip, config=config.vision_config, dtype=dtype)
    text, of_text = load_with_report(HiComInstructionEncoder, siglip, config=config.text_config, dtype=dtype)
    for report in (of_vision, of_text):
        _refuse_tensors(siglip, report["missing_keys"], [])
    unused = set(of_vision["unexpected_keys"]) & set(of_text["unexpected_keys"])
    _refuse_tensors(
        siglip, [], {key for key in unused if key not in UNUSED_SIGLIP and not key.endswith(UNUSED_SIGLIP_ENDINGS)}
    )
    return vision, text


def _refuse_tensors(source: str, missing, unexpected) -> None:
    problems = [
        f"{len(keys)} tensors are {kind}: {', '.join(sorted(keys)[:5])}{', ...' if len(keys) > 5 else ''}"
        for kind, keys in (("missing", missing), ("not known", unexpected))
        if keys
    ]
    if problems:
        raise ValueError(f"{source}: {'; '.join(problems)}")


def _llm_tokens(llm: str) -> Tokens:
    """The LLM's tokenizer with placeholders, padding and a chat template that takes videos and images."""
    tokenizer = _load_tokenizer(llm)
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    needed = [IMAGE_TOKEN, VIDEO_TOKEN, *([] if template else [CHATML_START, CHATML_END])]
    added = [token for token in needed if token not in tokenizer.get_vocab()]
    if added:
        tokenizer.add_tokens(added, special_tokens=True)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or CHATML_END
    tokenizer.padding_side = "left"  # what generation needs
    tokenizer.chat_template = None  # the processor has it
    return Tokens(
        tokenizer,
        multimodal_chat_template(template, IMAGE_TOKEN, VIDEO_TOKEN),
        added,
        None if template else cast(int, tokenizer.convert_tokens_to_ids(CHATML_END)),
    )


def _load_tokenizer(llm: str) -> PreTrainedTokenizerBase:
    """The LLM's tokenizer as its own files say.

    For some model types, qwen2 among them, AutoTokenizer (transformers 5.23) builds the type's usual tokenizer from any
    vocabulary it finds, also where the folder names the general class because its tokenizer is of another kind.
    """
    named = get_tokenizer_config(llm).get("tokenizer_class")
    loader = PreTrainedTokenizerFast if named in GENERAL_TOKENIZERS else AutoTokenizer
    return loader.from_pretrained(llm)


@torch.no_grad()
def _make_room(decoder: PreTrainedModel, tokens: Tokens) -> None:
    """Rows for added tokens in the LLM's embeddings: the mean of the others, so that none stands out as an answer."""
    size = cast(nn.Embedding, decoder.get_input_embeddings()).num_embeddings
    if len(tokens.tokenizer) > size:
        decoder.resize_token_embeddings(len(tokens.tokenizer), mean_resizing=False)
    ids = cast(list[int], tokens.tokenizer.convert_tokens_to_ids(tokens.added))
    old = [token for token in range(min(size, len(tokens.tokenizer))) if token not in set(ids)]
    embeddings = cast(nn.Embedding, decoder.get_input_embeddings())
    head = cast(nn.Linear, decoder.get_output_embeddings())  # `_load_decoder` has looked
    for weight in {weight.data_ptr(): weight for weight in (embeddings.weight, head.weight)}.values():
        if ids:
            weight[ids] = weight[old].mean(0, dtype=torch.float32).to(weight.dtype)


def _join(config: HiComConfig, towers, decoder: PreTrainedModel, seed: int) -> HiComForConditionalGeneration:
    """One model out of loaded parts; its own construction costs no memory."""
    with torch.device("meta"):
        model = HiComForConditionalGeneration(config)
    inner = cast(PreTrainedModel, decoder.base_model)
    if type(inner) is not type(model.model.language_model):
        raise ValueError(
            f"the LLM's decoder is a {type(inner).__name__}, but AutoModel makes a "
            f"{type(model.model.language_model).__name__} of its config"
        )
    model.model.vision_tower, model.model.instruction_encoder = towers
    model.model.language_model, model.lm_head = inner, cast(nn.Linear, decoder.get_output_embeddings())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        compressor = HiComCompressor(
            config.compressor_config, config.vision_config.hidden_size, inner.config.hidden_size
        )
        model.model.compressor = compressor
        compressor.apply(model._init_weights)
    compressor.to(decoder.dtype)
    model.tie_weights()
    model.config.dtype = decoder.dtype
    left = [name for name, tensor in (*model.named_parameters(), *model.named_buffers()) if tensor.is_meta]
    assert not left, f"not filled: {left}"
    return model


def _set_generation(model: HiComForConditionalGeneration, decoder: PreTrainedModel, tokens: Tokens) -> None:
    """The LLM's own way of generating; a template that it did not have brings its own end of turn."""
    settings = decoder.generation_config
    ends = settings.eos_token_id if isinstance(settings.eos_token_id, list) else [settings.eos_token_id]
    ends = {*ends, tokens.end_of_turn_id} - {None} or {cast(int, tokens.tokenizer.eos_token_id)}
    settings.eos_token_id = ends.pop() if len(ends) == 1 else sorted(ends)
    if settings.pad_token_id is None:
        settings.pad_token_id = tokens.tokenizer.pad_token_id
    model.generation_config = settings


def _siglip_normalisation(siglip: str) -> dict:
    """Mean, standard deviation and scale of the pixels that this SigLIP was trained on."""
    path = cached_file(siglip, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False)
    values = read_json_object(path) if path else {}
    return {name: values[name] for name in ("image_mean", "image_std", "rescale_factor", "resample") if name in values}


def _download(repo: str, files: list[str]) -> str:
    return snapshot_download(repo, allow_patterns=files)
