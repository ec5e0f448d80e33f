"""The HICom model: wiring of SigLIP, compressor and LLM.

Letters: B batch rows, V videos (or images) of the whole batch, T frames of one, H/W patch rows and columns, D vision width,
C LLM width, L = 64 instruction tokens, N visual tokens of one video, S image side in pixels.
"""

import torch
from torch import nn
from transformers import AutoModel, GenerationMixin, PreTrainedModel
from transformers.utils import can_return_tuple

from .cache_hicom import CACHE, is_packed, one_cache, starts_a_prompt
from .compressor_hicom import HiComCompressor, HiComCompressorAttentions
from .configuration_hicom import HiComConfig
from .outputs_hicom import (
    HiComCausalLMOutputWithPast,
    HiComModelOutputWithPast,
    HiComVideoFeatures,
    HiComVisualOutput,
)
from .quantization_hicom import spare_from_quantization
from .saving_hicom import HubFolderMixin
from .vision_hicom import HiComInstructionEncoder, HiComVisionTower, encode_in_chunks

IGNORED_LABEL = -100  # transformers' and PyTorch's


class HiComPreTrainedModel(PreTrainedModel):
    config: HiComConfig
    config_class = HiComConfig
    base_model_prefix = "model"
    input_modalities = ("image", "video", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True  # of a step of decoding, which is all that `generate` compiles
    _skip_keys_device_placement = ["past_key_values", "cache"]
    _no_split_modules = ["HiComVisionTower", "HiComInstructionEncoder", "HiComCompressor"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        # The compressor's modules know their own initialisation; children come before parents.
        if hasattr(module, "init_weights") and not isinstance(module, PreTrainedModel):
            module.init_weights()

    def _initialize_weights(self, module: nn.Module, is_custom_code: bool = False):
        # For code outside transformers, the library skips modules without parameters of their own, and with them the MLPs
        # that start as the identity. It does so to protect loaded weights, which transformers.initialization does as well.
        super()._initialize_weights(module, is_custom_code=False)


class HiComModel(HiComPreTrainedModel):
    """SigLIP vision and text, the compressor, and the LLM without its head.

    Source: paper, figure 2.
    """

    def __init__(self, config: HiComConfig):
        super().__init__(config)
        width, output_size = config.vision_config.hidden_size, config.text_config.hidden_size
        self.vision_tower = HiComVisionTower._from_config(config.vision_config)
        self.instruction_encoder = HiComInstructionEncoder._from_config(config.instruction_config)
        self.compressor = HiComCompressor(config.compressor_config, width, output_size)
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    # Once per video ----------------------------------------------------------------------------------------------------

    def encode_videos(
        self, pixel_values_videos: torch.Tensor, video_num_frames: torch.Tensor | list[int]
    ) -> HiComVideoFeatures:
        """Encode videos once, to ask many questions about them. An image is a video of one frame.

        Args:
            pixel_values_videos: (sum T, 3, S, S), the frames of all videos, one after another.
            video_num_frames: (V,), frames of each video; as a list, nothing is read from the device.

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
        lengths = _whole_numbers(video_num_frames)
        if sum(lengths) != len(pixel_values_videos) or min(lengths, default=1) < 1:
            raise ValueError(
                f"video_num_frames {lengths} must be positive and add up to the "
                f"{len(pixel_values_videos)} frames given"
            )
        features, aligned_features = encode_in_chunks(
            self.vision_tower,
            pixel_values_videos,
            self.config.vision_batch_size,
            aligned=self.config.compressor_config.uses_aligned_features,
        )
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
            output_attentions: also return where the compressor looked.
            lengths: frames of each video, if they are known; otherwise they are read from the features.

        Raises:
            ValueError: if instructions or aligned features are missing, or counts do not match.
        """
        lengths = _whole_numbers(video_features["num_frames"]) if lengths is None else lengths
        features, aligned_features, instruction = self._check_features(video_features, instruction_ids, len(lengths))
        if len(lengths) == 1:  # one video and one or more questions
            batch_tokens, batch_attentions = self.compressor(
                features[None],
                None if aligned_features is None else aligned_features[None],
                instruction,
                output_attentions=output_attentions,
            )
            rows = range(1 if instruction_ids is None else len(instruction_ids))
            batch_tokens = batch_tokens.expand(len(rows), -1, -1)
            attentions = tuple(_row(batch_attentions, row) for row in rows) if output_attentions else None
            return HiComVisualOutput(pooler_output=list(batch_tokens), compressor_attentions=attentions)
        tokens, attentions = [None] * len(lengths), [None] * len(lengths)
        for length in sorted(set(lengths)):  # equally long videos are compressed together
            videos = [video for video, frame_count in enumerate(lengths) if frame_count == length]
            batch_tokens, batch_attentions = self.compressor(
                _equally_long(features, lengths, length),
                None if aligned_features is None else _equally_long(aligned_features, lengths, length),
                None if instruction is None else tuple(part[videos] for part in instruction),
                output_attentions=output_attentions,
            )
            for row, video in enumerate(videos):
                tokens[video] = batch_tokens[row]
                if output_attentions:
                    attentions[video] = _row(batch_attentions, row)
        return HiComVisualOutput(
            pooler_output=tokens, compressor_attentions=tuple(attentions) if output_attentions else None
        )

    def _check_features(self, video_features, instruction_ids, num_videos: int):
        """Unpack features and encode instructions, on the compressor's device, in the model's type."""
        compressor_config = self.config.compressor_config
        target = next(self.compressor.parameters())
        place = {} if target.is_meta else {"device": target.device, "dtype": target.dtype}
        features_place = place
        if place and torch.is_autocast_enabled(target.device.type):  # as every product with them is computed
            features_place = {**place, "dtype": torch.get_autocast_dtype(target.device.type)}
        features = video_features["features"].to(**features_place)
        aligned_features = video_features.get("aligned_features")
        instruction = None
        if compressor_config.uses_instruction:
            if instruction_ids is None:
                raise ValueError(
                    "this model compresses on the condition of an instruction: pass video_instruction_ids (for images: "
                    "image_instruction_ids), which HiComProcessor makes"
                )
            if num_videos != 1 and len(instruction_ids) != num_videos:
                raise ValueError(
                    f"got {len(instruction_ids)} instructions for {num_videos} videos; one each is needed"
                )
            length = self.config.instruction_config.max_position_embeddings
            if instruction_ids.shape[-1] != length:
                raise ValueError(
                    f"instructions must be padded to all {length} positions, of which SigLIP pools the last; got "
                    f"{instruction_ids.shape[-1]}. HiComProcessor.encode_instructions does it"
                )
            instruction = tuple(part.to(**place) for part in self.instruction_encoder(instruction_ids))
        if compressor_config.uses_aligned_features:
            if aligned_features is None:
                raise ValueError(
                    "these features hold no aligned_features, which this compressor needs; encode the videos again"
                )
            aligned_features = aligned_features.to(**features_place)
        else:
            aligned_features = None
        return features, aligned_features, instruction

    @can_return_tuple
    def get_video_features(
        self,
        pixel_values_videos: torch.Tensor | None = None,
        video_num_frames: torch.Tensor | list[int] | None = None,
        video_instruction_ids: torch.Tensor | None = None,
        video_features: HiComVideoFeatures | dict | None = None,
        output_compressor_attentions: bool = False,
        **kwargs,
    ) -> HiComVisualOutput:
        """Visual tokens of videos, from pixels or from features encoded before.

        Args:
            pixel_values_videos: (sum T, 3, S, S); or None with `video_features`.
            video_num_frames: (V,). As a list of whole numbers, with pixels or with features, it lets `torch.compile` make one
                graph of this method.
            video_instruction_ids: (V, L), one instruction per video; or several for a single one.
            video_features: what `encode_videos` returned.
            output_compressor_attentions: also return where the compressor looked.

        Returns:
            `pooler_output`: one (N, C) tensor per video; `last_hidden_state`: SigLIP's features (sum T, H * W, D).
        """
        if (pixel_values_videos is None) == (video_features is None):
            raise ValueError("pass either pixel values or features encoded before, not both and not neither")
        lengths = None if video_num_frames is None else _whole_numbers(video_num_frames)
        if video_features is None:
            if lengths is None:
                raise ValueError("pixel_values_videos needs video_num_frames, the number of frames of each video")
            video_features = self.encode_videos(pixel_values_videos, lengths)
        elif lengths is not None and not torch.compiler.is_compiling():
            encoded = _whole_numbers(video_features["num_frames"])
            if lengths != encoded:
                raise ValueError(
                    f"video_num_frames {lengths} are not those of the features, {encoded}; leave video_num_frames out"
                )
        output = self.compress(video_features, video_instruction_ids, output_compressor_attentions, lengths)
        output.last_hidden_state = video_features["features"].flatten(1, 2)
        return output

    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: torch.Tensor | None = None,
        image_instruction_ids: torch.Tensor | None = None,
        image_features: HiComVideoFeatures | dict | None = None,
        output_compressor_attentions: bool = False,
        **kwargs,
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
            return_dict=True,
        )

    # The LLM -----------------------------------------------------------------------------------------------------------

    def merge_visual_tokens(
        self,
        input_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor,
        visual_tokens: list[torch.Tensor] | torch.Tensor | None,
        token_id: int,
        modality: str,
        is_prefill: bool,
        prompt_length: int | None = None,
    ) -> torch.Tensor:
        """Put visual tokens in the place of their placeholders.

        Args:
            input_ids: (B, length), or None to find placeholders by their embedding.
            inputs_embeds: (B, length, C).
            visual_tokens: one (N, C) tensor per video, in the order of the prompt; None if there are none.
            token_id: the placeholder.
            modality: "image" or "video", for the error.
            is_prefill: placeholders without visual tokens are an error then.
            prompt_length: placeholders behind it were written by the model itself and are tokens as others are.

        Raises:
            ValueError: if there are more or fewer placeholders than visual tokens.
        """
        if visual_tokens is None and not is_prefill:
            return inputs_embeds
        if input_ids is not None:
            mask = input_ids == token_id
        else:
            placeholder = torch.full((), token_id, device=inputs_embeds.device)
            mask = (inputs_embeds == self.get_input_embeddings()(placeholder)).all(-1)
        if prompt_length is not None:
            mask = mask & (torch.arange(mask.shape[1], device=mask.device) < prompt_length)
        lengths = [] if visual_tokens is None else [len(tokens) for tokens in visual_tokens]
        if not torch.compiler.is_compiling() and int(mask.sum()) != sum(lengths):
            raise ValueError(
                f"the prompt has {int(mask.sum())} {modality} placeholder tokens (per row: {mask.sum(-1).tolist()}) but the "
                f"{len(lengths)} {modality}s given make {sum(lengths)} visual tokens (each: {lengths}); give the prompt, the "
                f"{modality}s and their frame counts from one call of the model's processor"
            )
        if not lengths:
            return inputs_embeds
        tokens = torch.cat(list(visual_tokens)).to(inputs_embeds)
        return inputs_embeds.masked_scatter(mask[..., None].to(inputs_embeds.device), tokens)

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
        past_key_values=None,
        cache=None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        mm_encoder_outputs: dict | None = None,
        prompt_length: int | None = None,
        output_compressor_attentions: bool = False,
        **kwargs,
    ) -> HiComModelOutputWithPast:
        """See `HiComForConditionalGeneration.forward`."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("pass exactly one of input_ids and inputs_embeds")
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        visual = dict(mm_encoder_outputs or {})
        if pixel_values is not None or image_features is not None:
            visual["image"] = self.get_image_features(
                pixel_values, image_instruction_ids, image_features, output_compressor_attentions, return_dict=True
            )
        if pixel_values_videos is not None or video_features is not None:
            visual["video"] = self.get_video_features(
                pixel_values_videos,
                video_num_frames,
                video_instruction_ids,
                video_features,
                output_compressor_attentions,
                return_dict=True,
            )
        cache = one_cache(cache, past_key_values)
        is_prefill = starts_a_prompt(cache, inputs_embeds.shape[1])
        if is_prefill and attention_mask is None and is_packed(position_ids):
            if use_cache or cache is not None:
                raise ValueError(
                    "position_ids restart within a row, so the row holds several packed samples, which a cache cannot keep "
                    "apart; pass use_cache=False and no cache"
                )
            use_cache = False
        attentions = {}
        for modality, token_id in (("image", self.config.image_token_id), ("video", self.config.video_token_id)):
            output = visual.get(modality)
            visual_tokens = None if output is None else output.pooler_output
            attentions[modality] = getattr(output, "compressor_attentions", None)
            inputs_embeds = self.merge_visual_tokens(
                input_ids, inputs_embeds, visual_tokens, token_id, modality, is_prefill, prompt_length
            )
        outputs = self.language_model(
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            return_dict=True,
            **{CACHE: cache},
            **kwargs,
        )
        return HiComModelOutputWithPast(
            **outputs, image_compressor_attentions=attentions["image"], video_compressor_attentions=attentions["video"]
        )


class HiComForConditionalGeneration(HubFolderMixin, HiComPreTrainedModel, GenerationMixin):
    """HICom: an LLM that answers about videos and images through instruction-conditioned visual tokens.

    Example:
        >>> model = HiComForConditionalGeneration.from_pretrained("hicom-7b")  # doctest: +SKIP
    """

    _tp_plan = {"lm_head": "colwise_gather_output"}

    def __init__(self, config: HiComConfig):
        super().__init__(config)
        self.model = HiComModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        embeddings = self.get_input_embeddings()  # decoders name them differently
        name = next(name for name, module in self.named_modules() if module is embeddings)
        self._tied_weights_keys = {"lm_head.weight": f"{name}.weight"}
        self.post_init()

    def encode_videos(self, pixel_values_videos: torch.Tensor, video_num_frames: torch.Tensor) -> HiComVideoFeatures:
        """Encode videos once, to ask many questions about them; see `HiComModel.encode_videos`. No gradients.

        Example:
            >>> features = model.encode_videos(inputs["pixel_values_videos"], inputs["video_num_frames"])  # doctest: +SKIP
            >>> model.generate(**questions, video_features=features)  # doctest: +SKIP
        """
        with torch.no_grad():
            return self.model.encode_videos(pixel_values_videos, video_num_frames)

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
        past_key_values=None,
        cache=None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        mm_encoder_outputs: dict | None = None,
        prompt_length: int | None = None,
        mm_token_type_ids: torch.Tensor | None = None,
        skip_logits: bool = False,
        output_compressor_attentions: bool = False,
        **kwargs,
    ) -> HiComCausalLMOutputWithPast:
        """Next-token logits for prompts with any number of videos and images per row.

        Videos and images are packed over the batch, in the order of their placeholders (row by row).

        Args:
            input_ids: (B, length), every video and image already a run of placeholder tokens, as long as its visual tokens.
            pixel_values: (images, 3, S, S).
            pixel_values_videos: (sum T, 3, S, S), the frames of all videos, one after another.
            video_num_frames: (V,), frames of each video.
            image_instruction_ids, video_instruction_ids: (images, L) and (V, L), one instruction each.
            image_features, video_features: what `encode_videos` returned, in place of pixels.
            attention_mask, position_ids, inputs_embeds, use_cache, logits_to_keep: as in any decoder.
            past_key_values, cache: the cache of the tokens before, under its name of before or since transformers 5.24.
            labels: (B, length), -100 where not to learn; those of placeholders are not learnt either.
            skip_logits: with labels, compute logits for labelled tokens only and return none: the same loss and gradients
                for a fraction of the memory. Trainer passes it under this name where liger-kernel is used.
            mm_encoder_outputs: visual tokens computed before, by modality; `generate` uses it.
            prompt_length: where the answer begins, if it is read again without a cache; `generate` uses it.
            mm_token_type_ids: taken because the processor can return it (`return_mm_token_type_ids`); not used.
            output_compressor_attentions: also return where the compressor looked.

        Returns:
            `logits` (B, length, vocabulary) or None with `skip_logits`, `loss` with labels, and the compressor's attention
            if asked for.

        Raises:
            ValueError: if placeholders and visual tokens do not match, or instructions are missing.
        """
        outputs = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            pixel_values_videos=pixel_values_videos,
            video_num_frames=video_num_frames,
            image_instruction_ids=image_instruction_ids,
            video_instruction_ids=video_instruction_ids,
            image_features=image_features,
            video_features=video_features,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=one_cache(cache, past_key_values),
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            mm_encoder_outputs=mm_encoder_outputs,
            prompt_length=prompt_length,
            output_compressor_attentions=output_compressor_attentions,
            return_dict=True,
            **kwargs,
        )
        logits, loss = None, None
        if labels is not None and input_ids is not None:  # what stands there is never a token of the answer
            placeholders = (input_ids == self.config.image_token_id) | (input_ids == self.config.video_token_id)
            labels = labels.masked_fill(placeholders.to(labels.device), IGNORED_LABEL)
        if skip_logits and labels is not None:
            loss = self._loss_of_labelled_tokens(outputs.last_hidden_state, labels, **kwargs)
        else:
            keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            logits = self.lm_head(outputs.last_hidden_state[:, keep])
        if labels is not None and loss is None:
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.text_config.vocab_size, **kwargs
            )
        return HiComCausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            **{CACHE: outputs.get(CACHE)},
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_compressor_attentions=outputs.image_compressor_attentions,
            video_compressor_attentions=outputs.video_compressor_attentions,
        )

    def _loss_of_labelled_tokens(self, hidden_states: torch.Tensor, labels: torch.Tensor, **kwargs) -> torch.Tensor:
        """The loss, with logits for the tokens that have a label only: the others have no part in it.

        Args:
            hidden_states: (B, length, C).
            labels: (B, length).
        """
        targets = nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED_LABEL).to(
            hidden_states.device
        )  # the next token
        labelled = targets != IGNORED_LABEL
        return self.loss_function(
            logits=self.lm_head(hidden_states[labelled]),  # (labelled tokens, vocabulary)
            labels=labels,
            shift_labels=targets[labelled],
            vocab_size=self.config.text_config.vocab_size,
            **kwargs,
        )

    def generate(self, inputs: torch.Tensor | None = None, *args, **kwargs):
        """As in transformers; rows may be padded on either side, which `attention_mask` tells; the output is padded left.

        Args:
            inputs: (B, length), as `input_ids`.
            *args, **kwargs: as in transformers, and everything that `forward` takes.

        Raises:
            ValueError: if `assistant_model` is a HICom model; a text-only LLM with the same tokenizer drafts.
        """
        assistant = kwargs.get("assistant_model")
        if assistant is not None and assistant.config.model_type == self.config.model_type:
            raise ValueError(
                "assistant_model cannot be a HICom model: transformers hands no videos to a model that drafts; give a "
                "text-only LLM with the same tokenizer"
            )
        inputs = kwargs.pop("input_ids", None) if inputs is None else inputs
        mask, embeds = kwargs.get("attention_mask"), kwargs.get("inputs_embeds")
        prompt = embeds if inputs is None else inputs
        if mask is not None and mask.ndim == 2 and prompt is not None and mask.shape == prompt.shape[:2]:
            # transformers continues after the last column, padding or not: move what is padded right to the left.
            order = mask.bool().int().argsort(dim=1, stable=True)
            kwargs["attention_mask"] = mask.gather(1, order)
            if inputs is not None:
                inputs = inputs.gather(1, order.to(inputs.device))
            if embeds is not None:
                kwargs["inputs_embeds"] = embeds.gather(1, order[..., None].expand_as(embeds))
        if inputs is not None:
            return super().generate(inputs, *args, **kwargs)
        # transformers takes the number of rows from the first tensor among the arguments: it must not be packed frames.
        return super().generate(None, *args, **{"inputs_embeds": kwargs.pop("inputs_embeds", None), **kwargs})

    def _maybe_prepare_encoder_kwargs_for_generation(
        self, inputs_tensor, model_kwargs, model_input_name, generation_config
    ) -> dict:
        if not generation_config.use_cache:  # every step reads prompt and answer: which placeholders are the prompt's?
            model_kwargs["prompt_length"] = inputs_tensor.shape[1]
        return super()._maybe_prepare_encoder_kwargs_for_generation(
            inputs_tensor, model_kwargs, model_input_name, generation_config
        )

    def _prepare_multimodal_encoder_kwargs_for_generation(self, model_kwargs: dict) -> dict:
        """Let `generate` start from encoded features as well as from pixels: transformers looks for pixels only."""
        encoded = dict(model_kwargs.pop("mm_encoder_outputs", None) or {})
        for modality, encode in (("image", self.model.get_image_features), ("video", self.model.get_video_features)):
            features = model_kwargs.pop(f"{modality}_features", None)
            if features is not None:
                instruction_ids = model_kwargs.pop(f"{modality}_instruction_ids", None)
                arguments = {f"{modality}_features": features, f"{modality}_instruction_ids": instruction_ids}
                encoded[modality] = encode(**arguments, return_dict=True)
        model_kwargs = super()._prepare_multimodal_encoder_kwargs_for_generation(
            {**model_kwargs, "mm_encoder_outputs": encoded}
        )
        for modality, output in model_kwargs["mm_encoder_outputs"].items():  # frames need not be kept while it answers
            model_kwargs["mm_encoder_outputs"][modality] = HiComVisualOutput(
                pooler_output=output.pooler_output, compressor_attentions=output.compressor_attentions
            )
        return model_kwargs

    @classmethod
    def from_pretrained(cls, *args, quantization_config=None, **kwargs):
        """As in transformers; 4- and 8-bit quantization leaves SigLIP, the compressor and the LLM's head alone."""
        if quantization_config is not None:
            quantization_config = spare_from_quantization(quantization_config)
        return super().from_pretrained(*args, quantization_config=quantization_config, **kwargs)


def _whole_numbers(counts: torch.Tensor | list[int]) -> list[int]:
    """Frame counts on the host."""
    return counts.tolist() if isinstance(counts, torch.Tensor) else list(counts)


def _equally_long(features: torch.Tensor, lengths: list[int], length: int) -> torch.Tensor:
    """Of packed videos (sum T, H, W, D) those with `length` frames, (B, T, H, W, D); a view if all have."""
    if all(other == length for other in lengths):
        return features.unflatten(0, (-1, length))
    return torch.stack([video for video in features.split(lengths) if len(video) == length])


def _row(attentions: HiComCompressorAttentions, row: int) -> HiComCompressorAttentions:
    """One video's attention out of a batch's, with a batch of 1."""
    return HiComCompressorAttentions(
        local_weights=None if attentions.local_weights is None else attentions.local_weights[row : row + 1],
        local_positions=attentions.local_positions,
        global_weights=None if attentions.global_weights is None else attentions.global_weights[row : row + 1],
    )
