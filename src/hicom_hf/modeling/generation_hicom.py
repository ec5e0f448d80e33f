"""How a HICom model generates: rows padded on either side, and videos that are encoded already.

Letters: B batch rows, C LLM width.
"""

# transformers types the `self` of GenerationMixin by a protocol that only the whole model fulfils.
# pyright: reportAttributeAccessIssue=false

from typing import Any

import torch
from transformers import CompileConfig, PreTrainedTokenizerBase
from transformers.generation.stopping_criteria import StoppingCriteria
from transformers.generation.utils import GenerationMixin

from .answer_caches_hicom import AnswerCaches
from .backbone_hicom import HiComModel
from .compiling_hicom import CompileWhenItPays, compiled_answer
from .configuration_hicom import HiComConfig
from .outputs_hicom import HiComVisualOutput

PROBE = "abcdef"  # a text by which transformers learns what a tokenizer puts around its tokens
NUM_TOKENS_LOOKED_AT = 64  # of an answer's end, for stop strings


class StopTexts(StoppingCriteria):
    """Ends a row whose answer holds one of some texts. For tokenizers of whole words, which transformers' own criterion, which
    is exact within tokens, cannot take apart.

    Args:
        tokenizer: of the LLM.
        texts: one or several.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, texts: str | list[str]):
        self.tokenizer = tokenizer
        self.texts = [texts] if isinstance(texts, str) else list(texts)
        self.prompt_length: int | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor | None, **kwargs) -> torch.Tensor:
        if self.prompt_length is None:  # called for the first time behind the first new token
            self.prompt_length = input_ids.shape[1] - 1
        ends = input_ids[:, max(self.prompt_length, input_ids.shape[1] - NUM_TOKENS_LOOKED_AT) :]
        answers = self.tokenizer.batch_decode(ends, skip_special_tokens=True)
        is_done = [any(text in answer for text in self.texts) for answer in answers]
        return torch.tensor(is_done, device=input_ids.device)


def _spells(tokenizer: PreTrainedTokenizerBase, text: str) -> bool:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    tokens: Any = tokenizer.convert_ids_to_tokens(ids)  # a list, of a list
    return text in tokenizer.convert_tokens_to_string(tokens)


class HiComGenerationMixin(GenerationMixin):
    """What transformers' `generate` does not know of a model whose videos may be encoded before."""

    config: HiComConfig
    model: HiComModel
    answer_caches: AnswerCaches | None = None
    compile_rule: CompileWhenItPays | None = None
    compile_settings: CompileConfig | None = None

    def generate(self, inputs: torch.Tensor | None = None, *args, **kwargs):
        """As in transformers; rows may be padded on either side, as `attention_mask` shows; the output is padded left.

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
        stop_strings, tokenizer = kwargs.get("stop_strings"), kwargs.get("tokenizer")
        if stop_strings and tokenizer is not None and not _spells(tokenizer, PROBE):
            del kwargs["stop_strings"], kwargs["tokenizer"]
            kwargs["stopping_criteria"] = [
                *(kwargs.get("stopping_criteria") or ()),
                StopTexts(tokenizer, stop_strings),
            ]
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
        if inputs is None:
            # transformers takes the number of rows from the first tensor among the arguments: it must not be packed frames.
            kwargs = {"inputs_embeds": kwargs.pop("inputs_embeds", None), **kwargs}
        named = {"generation_config": args[0], **kwargs} if args else kwargs
        with compiled_answer(self, prompt, named) as step:
            output = super().generate(inputs, *args, **kwargs, **step)
        if self.compile_rule is not None:
            sequences = output if isinstance(output, torch.Tensor) else output.sequences
            self.compile_rule.count(self, sequences.shape[1] - (0 if inputs is None else inputs.shape[1]))
        return output

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
