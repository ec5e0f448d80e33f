"""How a HICom model generates: rows padded on either side, and videos that are encoded already.

Letters: B batch rows, C LLM width.
"""

import torch
from transformers import GenerationMixin

from .outputs_hicom import HiComVisualOutput


class HiComGenerationMixin(GenerationMixin):
    """What transformers' `generate` does not know of a model whose videos may be encoded before."""

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
