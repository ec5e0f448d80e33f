"""The HICom model: backbone, head and loss, what `from_pretrained` gives.

Letters: B batch rows, V videos (or images) of the whole batch, T frames of one, C LLM width, L = 64 instruction tokens,
S image side in pixels.
"""

from typing import Any, Self

import torch
from torch import nn
from transformers import Cache
from transformers.utils.generic import can_return_tuple

from .backbone_hicom import HiComModel, HiComPreTrainedModel
from .cache_hicom import CACHE, one_cache
from .configuration_hicom import HiComConfig
from .frame_scores_hicom import FrameScoringMixin
from .generation_hicom import HiComGenerationMixin
from .outputs_hicom import HiComCausalLMOutputWithPast, HiComVideoFeatures
from .quantization_hicom import spare_from_quantization
from .saving_hicom import HubFolderMixin

IGNORED_LABEL = -100  # transformers' and PyTorch's


class HiComForConditionalGeneration(HubFolderMixin, FrameScoringMixin, HiComPreTrainedModel, HiComGenerationMixin):
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

    def encode_videos(
        self, pixel_values_videos: torch.Tensor, video_num_frames: torch.Tensor | list[int]
    ) -> HiComVideoFeatures:
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
        past_key_values: Cache | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        mm_encoder_outputs: dict | None = None,
        prompt_length: int | None = None,
        mm_token_type_ids: torch.Tensor | None = None,
        skip_logits: bool = False,
        output_compressor_attentions: bool = False,
        **kwargs: Any,
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
            output_compressor_attentions: also return the weights of the compressor's attention.

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

    @classmethod
    def from_pretrained(cls, *args: Any, quantization_config: Any = None, **kwargs: Any) -> Self:
        """As in transformers; 4- and 8-bit quantization leaves SigLIP, the compressor and the LLM's head alone."""
        if quantization_config is not None:
            quantization_config = spare_from_quantization(quantization_config)
        return super().from_pretrained(*args, quantization_config=quantization_config, **kwargs)
