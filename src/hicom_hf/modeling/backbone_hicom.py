"""From pixels and token ids to hidden states: SigLIP, compressor and LLM, wired.

Letters: B batch rows, V videos (or images) of the whole batch, T frames of one, H/W patch rows and columns, D vision width,
C LLM width, L = 64 instruction tokens, N visual tokens of one video, S image side in pixels.
"""

from typing import Any, Self, cast

import torch
from torch import nn
from transformers import AutoModel, Cache, PreTrainedModel
from transformers.utils.generic import can_return_tuple

from .cache_hicom import CACHE, check_packed_without_cache, is_packed, one_cache, starts_a_prompt
from .compressor_hicom import HiComCompressor
from .configuration_hicom import HiComConfig
from .kept_video_hicom import HiComKeptVideo
from .outputs_hicom import HiComModelOutputWithPast, HiComVideoFeatures, HiComVisualOutput
from .part_dtypes_hicom import set_types, types_of_parts, widest
from .vision_hicom import HiComInstructionEncoder, HiComVisionTower, encode_in_chunks, recorded_layers
from .visual_tokens_hicom import (
    HostNumbers,
    check_one_each,
    check_placeholders,
    compress_each_video,
    compress_one_video,
    compress_packed_videos,
    merge_visual_tokens,
    note_text_only,
    whole_numbers,
)


class HiComPreTrainedModel(PreTrainedModel):
    config: HiComConfig
    config_class = HiComConfig
    base_model_prefix = "model"
    input_modalities = ["image", "video", "text"]
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True  # of a decoding step; `generate` compiles nothing else
    _skip_keys_device_placement = ["past_key_values", "cache"]
    _no_split_modules = ["HiComVisionTower", "HiComInstructionEncoder", "HiComCompressor"]

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Self:
        """As in transformers; `dtype` may also be a dictionary of parts, see `part_dtypes_hicom`."""
        dtype = kwargs.pop("dtype", kwargs.pop("torch_dtype", None))
        if not isinstance(dtype, dict):
            return super().from_pretrained(*args, **kwargs, **({} if dtype is None else {"dtype": dtype}))
        if kwargs.get("quantization_config") is not None:
            raise ValueError("a type for each part is not for quantized models; give one dtype")
        types = types_of_parts(dtype)
        loaded = super().from_pretrained(*args, **kwargs, dtype=widest(types))
        set_types(loaded[0] if isinstance(loaded, tuple) else loaded, types)
        return cast(Self, loaded)  # with its report, where that is asked for

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        # The compressor's modules know their own initialisation; children come before parents.
        init_weights = getattr(module, "init_weights", None)
        if callable(init_weights) and not isinstance(module, PreTrainedModel):
            init_weights()

    def _initialize_weights(self, module: nn.Module, is_custom_code: bool = False):
        # For code outside transformers, the library skips modules without parameters of their own, and with them the MLPs
        # that start as the identity. It does so to protect loaded weights, which transformers.initialization does as well.
        super()._initialize_weights(module, is_custom_code=False)


class HiComModel(HiComPreTrainedModel):
    """SigLIP vision and text, the compressor, and the LLM without its head.

    Source: paper, figure 2.
    """

    expects_text_only = False  # whether batches without videos and images are meant in training

    def __init__(self, config: HiComConfig):
        super().__init__(config)
        width, output_size = config.vision_config.hidden_size, config.text_config.hidden_size
        self.vision_tower = HiComVisionTower._from_config(config.vision_config)
        self.instruction_encoder = HiComInstructionEncoder._from_config(config.instruction_config)
        self.compressor = HiComCompressor(config.compressor_config, width, output_size)
        self.language_model = AutoModel.from_config(config.text_config)
        self.kept_video = HiComKeptVideo()
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The LLM's input embeddings, (vocabulary, C)."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replaces the LLM's input embeddings."""
        self.language_model.set_input_embeddings(value)

    def embed(self, input_ids: torch.Tensor | None) -> torch.Tensor:
        """The LLM's embeddings of tokens, (..., C)."""
        return self.get_input_embeddings()(input_ids)

    # Once per video ----------------------------------------------------------------------------------------------------

    def encode_videos(
        self,
        pixel_values_videos: torch.Tensor,
        video_num_frames: torch.Tensor | list[int],
        all_layers: bool = False,
    ) -> HiComVideoFeatures:
        """Encode videos once, to ask many questions about them. An image is a video of one frame.

        Args:
            pixel_values_videos: (sum T, 3, S, S), the frames of all videos, one after another.
            video_num_frames: (V,), frames of each video; as a list, nothing is read from the device.
            all_layers: run SigLIP's last layer even if the compressor does not need what it gives.

        Returns:
            Features to pass as `video_features` (or `image_features`) in place of pixels.

        Raises:
            ValueError: if the frame counts do not add up or the frames have another size than SigLIP's.
        """
        side = self.config.vision_config.image_size
        if pixel_values_videos.ndim != 4 or pixel_values_videos.shape[1:] != (3, side, side):
            raise ValueError(
                f"pixel values must have the shape (frames, 3, {side}, {side}), got {tuple(pixel_values_videos.shape)}; "
                "use the model's own processor"
            )
        lengths = whole_numbers(video_num_frames, len(pixel_values_videos))
        if sum(lengths) != len(pixel_values_videos) or min(lengths, default=1) < 1:
            raise ValueError(
                f"video_num_frames {lengths} must be positive and add up to the "
                f"{len(pixel_values_videos)} frames given"
            )
        uses_aligned_features = self.config.compressor_config.uses_aligned_features
        features, aligned_features = encode_in_chunks(
            self.vision_tower,
            pixel_values_videos,
            self.config.vision_batch_size,
            aligned=uses_aligned_features or all_layers,
        )
        if not uses_aligned_features:
            aligned_features = None
        return HiComVideoFeatures(  # contiguous, as safetensors wants them
            features=features.contiguous(),
            num_frames=torch.tensor(lengths, dtype=torch.long),  # on the CPU: the compressor's shapes depend on them
            aligned_features=None if aligned_features is None else aligned_features.contiguous(),
        )

    # Once per question -------------------------------------------------------------------------------------------------

    def compress(
        self,
        video_features: HiComVideoFeatures | dict,
        instruction_ids: torch.Tensor | None,
        output_attentions: bool,
        lengths: list[int] | None = None,
    ) -> HiComVisualOutput:
        """Turn features and instructions into visual tokens.

        Args:
            video_features: what `encode_videos` returned, on any device.
            instruction_ids: (V, L), one instruction per video, or (questions, L) for a single video, whose features are
                then not copied; None only for a compressor that injects none.
            output_attentions: also return the weights of the compressor's attention.
            lengths: frames of each video, if they are known; otherwise they are read from the features.

        Raises:
            ValueError: if instructions or aligned features are missing, or counts do not match.
        """
        if lengths is None:
            lengths = whole_numbers(video_features["num_frames"], len(video_features["features"]))
        features, aligned_features = self._features_on_device(video_features)
        instruction = self._encode_instructions(instruction_ids, len(lengths))
        if len(lengths) != 1:
            return compress_packed_videos(
                self.compressor, features, aligned_features, instruction, lengths, output_attentions
            )
        num_rows = 1 if instruction_ids is None else len(instruction_ids)
        parts = None
        if not torch.compiler.is_compiling() and self._compressor_place() and features is video_features["features"]:
            parts = self.kept_video.parts_of(self.compressor, features)  # no copy in another type or on another device
        return compress_one_video(
            self.compressor, features, aligned_features, instruction, num_rows, output_attentions, parts
        )

    def _features_on_device(
        self, video_features: HiComVideoFeatures | dict
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Features and, if the compressor needs them, aligned features: on its device, in the type that it computes in."""
        place = self._compressor_place()
        if place and torch.is_autocast_enabled(place["device"].type):  # as every product with them is computed
            place["dtype"] = torch.get_autocast_dtype(place["device"].type)
        features = video_features["features"].to(**place)
        if not self.config.compressor_config.uses_aligned_features:
            return features, None
        aligned_features = video_features.get("aligned_features")
        if aligned_features is None:
            raise ValueError(
                "these features hold no aligned_features, which this compressor needs; encode the videos again"
            )
        return features, aligned_features.to(**place)

    def _encode_instructions(
        self, instruction_ids: torch.Tensor | None, num_videos: int
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Pooled (V, D) and tokens (V, L, D), on the compressor's device and in its type; None if it injects none."""
        if not self.config.compressor_config.uses_instruction:
            return None
        if instruction_ids is None:
            raise ValueError(
                "this model compresses on the condition of an instruction: pass video_instruction_ids (for images: "
                "image_instruction_ids), which HiComProcessor makes"
            )
        if num_videos != 1:
            check_one_each(instruction_ids, num_videos)
        length = self.config.instruction_config.max_position_embeddings
        if instruction_ids.shape[-1] != length:
            raise ValueError(
                f"instructions must be padded to all {length} positions, of which SigLIP pools the last; got "
                f"{instruction_ids.shape[-1]}. HiComProcessor.encode_instructions does it"
            )
        pooled, tokens = self.instruction_encoder(instruction_ids)
        place = self._compressor_place()
        return pooled.to(**place), tokens.to(**place)

    def _compressor_place(self) -> dict[str, Any]:
        """Device and type of the compressor, as arguments of `to`; none while its weights are offloaded."""
        target = next(self.compressor.parameters())
        return {} if target.is_meta else {"device": target.device, "dtype": target.dtype}

    @can_return_tuple
    def get_video_features(
        self,
        pixel_values_videos: torch.Tensor | None = None,
        video_num_frames: torch.Tensor | list[int] | None = None,
        video_instruction_ids: torch.Tensor | None = None,
        video_features: HiComVideoFeatures | dict | list | None = None,
        output_compressor_attentions: bool = False,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **kwargs: Any,
    ) -> HiComVisualOutput:
        """Visual tokens of videos, from pixels or from features encoded before.

        Args:
            pixel_values_videos: (sum T, 3, S, S); or None with `video_features`.
            video_num_frames: (V,). For a single video, or as a list of whole numbers for several, with pixels or with features,
                it lets `torch.compile` make one graph of this method, and nothing is read from a GPU.
            video_instruction_ids: (V, L), one instruction per video; or several for a single one.
            video_features: what `encode_videos` returned; or a list with what it returned of one video for each instruction. A
                video that stands there several times is compressed for its instructions together, and not copied.
            output_compressor_attentions: also return the weights of the compressor's attention.
            output_hidden_states, output_attentions: also return what SigLIP's layers gave, of all frames; default: as the
                configuration says. From pixels only. The attentions need `attn_implementation="eager"`.

        Returns:
            `pooler_output`: one (N, C) tensor per video; `last_hidden_state`: SigLIP's features (sum T, H * W, D), which are
            `hidden_states[-2]`.

        Raises:
            ValueError: of pixels and encoded features not exactly one was given, frame counts are missing or do not fit, or
                SigLIP's layers are asked for together with encoded features.
        """
        if (pixel_values_videos is None) == (video_features is None):
            raise ValueError("pass either pixel values or features encoded before, not both and not neither")
        if video_features is not None and (output_hidden_states or output_attentions):
            raise ValueError("output_hidden_states and output_attentions need pixel values: features hold no layers")
        if isinstance(video_features, (list, tuple)):
            return compress_each_video(
                lambda video, ids: self.compress(video, ids, output_compressor_attentions),
                video_features,
                video_instruction_ids,
            )
        frames: Any = pixel_values_videos if video_features is None else video_features["features"]
        lengths = None if video_num_frames is None else whole_numbers(video_num_frames, len(frames))
        layers: dict[str, Any] = {}
        if video_features is None:
            if lengths is None or pixel_values_videos is None:
                raise ValueError("pixel_values_videos needs video_num_frames, the number of frames of each video")
            video_features, layers = self._encode_and_record(
                pixel_values_videos, lengths, output_hidden_states, output_attentions
            )
        elif lengths is not None and not torch.compiler.is_compiling():
            encoded = whole_numbers(video_features["num_frames"], len(frames))
            if lengths != encoded:
                raise ValueError(
                    f"video_num_frames {lengths} are not those of the features, {encoded}; leave video_num_frames out"
                )
        output = self.compress(video_features, video_instruction_ids, output_compressor_attentions, lengths)
        output.last_hidden_state = video_features["features"].flatten(1, 2)
        for name, values in layers.items():
            output[name] = values
        return output

    def _encode_and_record(
        self, pixels: torch.Tensor, lengths: list[int], hidden_states: bool | None, attentions: bool | None
    ) -> tuple[HiComVideoFeatures, dict[str, Any]]:
        """Encoded videos, and the hidden states and attentions of SigLIP's layers if they are asked for."""
        hidden_states = self.config.output_hidden_states if hidden_states is None else hidden_states
        attentions = self.config.output_attentions if attentions is None else attentions
        if not hidden_states and not attentions:
            return self.encode_videos(pixels, lengths), {}
        with recorded_layers(self.vision_tower, bool(hidden_states), bool(attentions)) as layers:
            features = self.encode_videos(pixels, lengths, all_layers=True)
        return features, layers

    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: torch.Tensor | None = None,
        image_instruction_ids: torch.Tensor | None = None,
        image_features: HiComVideoFeatures | dict | None = None,
        output_compressor_attentions: bool = False,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **kwargs: Any,
    ) -> HiComVisualOutput:
        """Visual tokens of images, which are videos of one frame; arguments as for `get_video_features`."""
        num_frames = None
        if pixel_values is not None:
            num_frames = [1] * len(pixel_values)
        return self.get_video_features(
            pixel_values,
            num_frames,
            image_instruction_ids,
            image_features,
            output_compressor_attentions,
            output_hidden_states,
            output_attentions,
            return_dict=True,
        )

    # The LLM -----------------------------------------------------------------------------------------------------------

    def placeholders(
        self, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor, token_id: int, prompt_length: int | None
    ) -> torch.Tensor:
        """Where visual tokens belong, (B, length) bool.

        Args:
            input_ids: (B, length), or None to find placeholders by their embedding.
            inputs_embeds: (B, length, C).
            token_id: the placeholder.
            prompt_length: placeholders behind it were written by the model itself and are tokens as others are.
        """
        if input_ids is not None:
            mask = input_ids == token_id
        else:
            placeholder = torch.full((), token_id, device=inputs_embeds.device)
            mask = (inputs_embeds == self.embed(placeholder)).all(-1)
        if prompt_length is not None:
            mask = mask & (torch.arange(mask.shape[1], device=mask.device) < prompt_length)
        return mask

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        video_num_frames: torch.Tensor | None = None,
        image_instruction_ids: torch.Tensor | None = None,
        video_instruction_ids: torch.Tensor | None = None,
        image_features: HiComVideoFeatures | dict | None = None,
        video_features: HiComVideoFeatures | dict | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        mm_encoder_outputs: dict | None = None,
        prompt_length: int | None = None,
        output_compressor_attentions: bool = False,
        **kwargs: Any,
    ) -> HiComModelOutputWithPast:
        """See `HiComForConditionalGeneration.forward`."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("pass exactly one of input_ids and inputs_embeds")
        embeds = self.embed(input_ids) if inputs_embeds is None else inputs_embeds
        cache = one_cache(cache, past_key_values)
        is_prefill = starts_a_prompt(cache, embeds.shape[1])
        visual = dict(mm_encoder_outputs or {})
        has_images = "image" in visual or pixel_values is not None or image_features is not None
        has_videos = "video" in visual or pixel_values_videos is not None or video_features is not None
        if self.training and not (has_images or has_videos or self.expects_text_only):
            note_text_only()
        placeholders = {}  # also of what is not given: placeholders without visual tokens are an error in a prompt
        if is_prefill or has_images:
            placeholders["image"] = self.placeholders(input_ids, embeds, self.config.image_token_id, prompt_length)
        if is_prefill or has_videos:
            placeholders["video"] = self.placeholders(input_ids, embeds, self.config.video_token_id, prompt_length)
        counts, has_padding, packed = _start_reading(placeholders, attention_mask, position_ids)
        if pixel_values is not None or image_features is not None:
            visual["image"] = self.get_image_features(
                pixel_values,
                image_instruction_ids,
                image_features,
                output_compressor_attentions,
                False,
                False,
                return_dict=True,  # of the LLM only
            )
        if pixel_values_videos is not None or video_features is not None:
            visual["video"] = self.get_video_features(
                pixel_values_videos,
                video_num_frames,
                video_instruction_ids,
                video_features,
                output_compressor_attentions,
                output_hidden_states=False,  # of the LLM only
                output_attentions=False,
                return_dict=True,
            )
        if is_prefill and packed is not None and packed.read():
            check_packed_without_cache(use_cache, cache)
            use_cache = False
        for modality, mask in placeholders.items():
            visual_tokens = visual[modality].pooler_output if modality in visual else None
            if modality in counts:
                check_placeholders(counts[modality].read(), visual_tokens, modality)
            embeds = merge_visual_tokens(embeds, mask, visual_tokens)
        if is_prefill and has_padding is not None and not has_padding.read():
            attention_mask = None  # says the same, and transformers need not ask the device whether it does
        outputs = self.language_model(
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=embeds,
            use_cache=use_cache,
            return_dict=True,
            **{CACHE: cache},
            **kwargs,
        )
        attentions = {
            f"{modality}_compressor_attentions": output.compressor_attentions for modality, output in visual.items()
        }
        return HiComModelOutputWithPast(**outputs, **attentions)


def _start_reading(
    placeholders: dict[str, torch.Tensor], attention_mask: torch.Tensor | None, position_ids: torch.Tensor | None
) -> tuple[dict[str, HostNumbers], HostNumbers | None, HostNumbers | None]:
    """Sends to the host what it must know of a prompt, before the videos are queued, for which it would wait otherwise.

    Args:
        placeholders: (B, length) bool, by modality.
        attention_mask: (B, length), or anything else, which is not looked at.
        position_ids: (B, length); with a mask they are not looked at.

    Returns:
        Placeholders of each row by modality; whether the mask hides anything; whether rows are packed. None where that is not
        asked for; nothing in a graph of `torch.compile`.
    """
    if torch.compiler.is_compiling():
        return {}, None, None
    counts = {modality: HostNumbers(mask.sum(-1)) for modality, mask in placeholders.items()}
    if not placeholders:
        return counts, None, None
    if attention_mask is None:
        restarts = is_packed(position_ids)
        return counts, None, None if restarts is None else HostNumbers(restarts)
    is_plain = isinstance(attention_mask, torch.Tensor) and attention_mask.ndim == 2 and position_ids is None
    return counts, HostNumbers((attention_mask == 0).any()) if is_plain else None, None
