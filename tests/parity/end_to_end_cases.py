"""The official program from pixels to answers: a converted checkpoint on the reference prompts and frames.

Letters: B rows, V videos and images of the whole batch, T frames, S image side, L instruction tokens, N visual tokens.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from hicom_hf.conversion.converting import convert_official_checkpoint
from hicom_hf.modeling.modeling_hicom import HiComForConditionalGeneration
from hicom_hf.processors.processing_hicom import HiComProcessor

from .checks import TOLERANCE, CaseResult, Comparison, LeftOut, different_entries, largest

IMAGE, VIDEO = -200, -201  # official placeholder ids
NOT_SUPERVISED = -100


@dataclass
class Converted:
    """A converted checkpoint, loaded in float32, and the size of its original vocabulary."""

    model: HiComForConditionalGeneration
    processor: HiComProcessor
    vocab_size: int


def convert_and_load(folder: Path, case: dict, destination: Path) -> Converted:
    """Convert the checkpoint of a case and load it from its new folder alone."""
    checkpoint = folder / case["checkpoint"]
    convert_official_checkpoint(checkpoint, destination, vision_tower=folder / case["siglip_tower"], dtype="fp32")
    model = HiComForConditionalGeneration.from_pretrained(destination, dtype=torch.float32).eval()
    processor = HiComProcessor.from_pretrained(destination)
    return Converted(model, processor, json.loads((checkpoint / "config.json").read_text())["vocab_size"])


@torch.no_grad()
def run_end_to_end_case(folder: Path, case: dict, converted: Converted) -> CaseResult:
    """Compare all that the reference file holds, from instruction ids to greedy tokens."""
    described = json.loads((folder / case["description"]).read_text())
    name = Path(case["file"]).name
    details = next(entry for entry in described["cases"] if entry["file"] == name)
    reference = load_file(folder / case["file"])
    run = _Run(converted, details, reference)
    left_out: list[LeftOut] = []
    comparisons = [*run.prompts(left_out), *run.pixels(), *run.towers(), *run.visual_tokens(), *run.answers(left_out)]
    return CaseResult(case["id"], case["kind"], tuple(comparisons), tuple(left_out))


class _Run:
    """One case: our inputs made from the reference's, and what our model makes of them."""

    def __init__(self, converted: Converted, details: dict, reference: dict[str, torch.Tensor]):
        self.model, self.processor, self.vocab_size = converted.model, converted.processor, converted.vocab_size
        self.details, self.reference, self.samples = details, reference, details["samples"]
        self.instruction_ids = self.processor.encode_instructions(
            [sample["guide_text"] or "" for sample in self.samples]
        )
        self.frames = [self._frames(number) for number in range(len(self.samples))]
        self.inputs = self._inputs()

    def _frames(self, number: int) -> torch.Tensor:
        """(T, 3, S, S): the reference's own pixels where it has them, so that resizing is compared apart."""
        pixels = self.reference.get(f"pixel_u8_{number}")
        if pixels is None:
            pixels = self.reference[f"rgb_{number}"].movedim(-1, 1)
        return (pixels.float() / 255 - 0.5) / 0.5

    def _lengths(self) -> list[int]:
        return [self.processor.num_visual_tokens(len(frames)) for frames in self.frames]

    def _inputs(self) -> dict[str, torch.Tensor]:
        """What our forward takes: placeholders as long as their visual tokens, rows padded on the right."""
        token_ids = {IMAGE: self.model.config.image_token_id, VIDEO: self.model.config.video_token_id}
        lengths = iter(self._lengths())
        rows = []
        masks = self.reference["attention_mask"].bool()
        labels = self.reference.get("labels", torch.full_like(self.reference["input_ids"], NOT_SUPERVISED))
        for ids, mask, row_labels in zip(self.reference["input_ids"], masks, labels, strict=True):
            row = []
            for token, label in zip(ids[mask].tolist(), row_labels[mask].tolist(), strict=True):
                if token in token_ids:
                    row += [(token_ids[token], NOT_SUPERVISED)] * next(lengths)
                else:
                    row.append((token, label))
            rows.append(row)
        width = max(map(len, rows))
        filler = (self.processor.tokenizer.pad_token_id, NOT_SUPERVISED)
        table = torch.tensor([row + [filler] * (width - len(row)) for row in rows])  # (B, length, 2)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        return {"input_ids": table[..., 0], "labels": table[..., 1], "attention_mask": mask, **self._visual_inputs()}

    def _visual_inputs(self) -> dict[str, torch.Tensor]:
        inputs = {}
        for kind, pixels in (("image", "pixel_values"), ("video", "pixel_values_videos")):
            numbers = [number for number, sample in enumerate(self.samples) if sample["modality"] == kind]
            if numbers:
                inputs[pixels] = torch.cat([self.frames[number] for number in numbers])
                inputs[f"{kind}_instruction_ids"] = self.instruction_ids[numbers]
                if kind == "video":
                    inputs["video_num_frames"] = torch.tensor([len(self.frames[number]) for number in numbers])
        return inputs

    def prompts(self, left_out: list[LeftOut]) -> list[Comparison]:
        """Chat layout and tokenizers: the reference's ids from its texts."""
        comparisons = []
        if "guided_input_ids" in self.reference:
            pairs = zip(self.instruction_ids.tolist(), self.reference["guided_input_ids"].tolist(), strict=True)
            comparisons.append(different_entries("instruction ids", pairs))
        pairs = []
        for row, sample in enumerate(self.samples):
            chat = _as_chat(sample)
            if chat is None or len(self.samples) != len(self.reference["input_ids"]):
                left_out.append(LeftOut(f"prompt {row}", "the case does not hold its text"))
                continue
            supervised = sample["conversations"] is not None
            text = self.processor.apply_chat_template(chat, add_generation_prompt=not supervised)
            ids = self.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
            official = {self.model.config.image_token_id: IMAGE, self.model.config.video_token_id: VIDEO}
            mask = self.reference["attention_mask"][row].bool()
            pairs.append(
                ([official.get(token, token) for token in ids], self.reference["input_ids"][row][mask].tolist())
            )
        return [*comparisons, *([different_entries("prompt ids", pairs)] if pairs else [])]

    def pixels(self) -> list[Comparison]:
        """Padding and resizing of the raw frames, in grey levels."""
        comparisons = []
        for number in range(len(self.samples)):
            raw = self.reference[f"rgb_{number}"].numpy()
            ours = torch.stack([torch.from_numpy(self.processor.video_processor.square_frame(f).copy()) for f in raw])
            expected = self.reference.get(f"pixel_u8_{number}", self.reference[f"rgb_{number}"].movedim(-1, 1))
            comparisons.append(largest(f"pixels {number}, grey levels", ours.movedim(-1, 1), expected, tolerance=1.0))
        return comparisons

    def towers(self) -> list[Comparison]:
        """SigLIP: pooled instruction, features, aligned features."""
        inner, comparisons = self.model.model, []
        if "guide_embed" in self.reference:
            pooled, tokens = inner.instruction_encoder(self.instruction_ids)
            expected = self.reference["guide_embed"]
            ours = pooled if expected.ndim == 2 else tokens
            comparisons.append(largest("instruction embedding", ours, expected))
        if "frames_feature" in self.reference:
            features, aligned = inner.vision_tower(torch.cat(self.frames))
            comparisons.append(largest("features", features, self.reference["frames_feature"]))
            if "frames_embed" in self.reference:
                comparisons.append(largest("aligned features", aligned, self.reference["frames_embed"]))
        return comparisons

    def visual_tokens(self) -> list[Comparison]:
        """What the compressor makes of every sample."""
        inner, comparisons = self.model.model, []
        for number, frames in enumerate(self.frames):
            output = inner.get_video_features(frames, torch.tensor([len(frames)]), self.instruction_ids[number][None])
            expected = self.reference[f"visual_tokens_{number}"]
            comparisons.append(largest(f"visual tokens {number}", output.pooler_output[0], expected))
        return comparisons

    def answers(self, left_out: list[LeftOut]) -> list[Comparison]:
        """Merged prompt, logits, loss and greedy tokens."""
        inputs, reference = dict(self.inputs), self.reference
        mask = inputs["attention_mask"].bool()
        pairs = zip(mask.long().tolist(), reference["merged_attention_mask"].tolist(), strict=True)
        comparisons = [different_entries("merged attention mask", pairs)]
        merged = []
        hook = self.model.model.language_model.register_forward_pre_hook(
            lambda module, args, kwargs: merged.append(kwargs["inputs_embeds"]), with_kwargs=True
        )
        labels = inputs.pop("labels")
        output = self.model(**inputs, labels=labels if "loss" in reference else None)
        hook.remove()
        expected = reference["merged_inputs_embeds"]
        comparisons.append(largest("merged embeddings", merged[0][mask], expected[mask]))
        start = self.details["logits_from_position"]
        logits = output.logits[:, start:, : self.vocab_size][mask[:, start:]]
        comparisons.append(largest("logits", logits, reference["logits"][mask[:, start:]]))
        if "merged_labels" in reference:
            pairs = zip(labels.tolist(), reference["merged_labels"].tolist(), strict=True)
            comparisons.append(different_entries("merged labels", pairs))
        if "loss" in reference:
            comparisons.append(largest("loss", output.loss.reshape(1), reference["loss"].reshape(1)))
        if "generated_ids" in reference:
            comparisons.append(self._greedy(inputs, left_out))
        return comparisons

    def _greedy(self, inputs: dict[str, torch.Tensor], left_out: list[LeftOut]) -> Comparison:
        """Greedy tokens of the rows that the official program did not pad."""
        expected = self.reference["generated_ids"]
        ours = self.model.generate(
            **inputs,
            max_new_tokens=expected.shape[1],
            min_new_tokens=expected.shape[1],
            do_sample=False,
            suppress_tokens=list(range(self.vocab_size, self.model.config.text_config.vocab_size)) or None,
        )[:, -expected.shape[1] :]
        pairs = []
        ends = self.model.generation_config.eos_token_id
        ends = set(ends) if isinstance(ends, list) else {ends}
        for row, mask in enumerate(inputs["attention_mask"]):
            if not mask.all():
                left_out.append(
                    LeftOut(f"greedy tokens of row {row}", "the official program continues after its padding")
                )
                continue
            reference = expected[row].tolist()
            margins = [step[row] for step in self.details.get("generated_margins", [])]
            ties = (step for step, margin in enumerate(margins) if margin < 2 * TOLERANCE)
            stop = min(
                next((i for i, token in enumerate(reference) if token in ends), len(reference)), *ties, len(reference)
            )
            pairs.append((ours[row].tolist()[:stop], reference[:stop]))
        return different_entries("greedy tokens", pairs)


def _as_chat(sample: dict) -> list[dict] | None:
    """A sample as a chat in our format; its placeholder at the head of its turn, as the official program puts it."""
    visual = {"type": sample["modality"]}
    if sample["conversations"] is None:
        if sample["instruct"] is None:
            return None
        return [{"role": "user", "content": [visual, {"type": "text", "text": sample["instruct"]}]}]
    chat = []
    for turn in sample["conversations"]:
        text = turn["value"]
        parts = []
        for placeholder in ("<video>", "<image>"):
            if placeholder in text:
                text = text.replace(placeholder, "").strip()
                parts = [visual]
        role = {"human": "user", "gpt": "assistant"}[turn["from"]]
        chat.append({"role": role, "content": [*parts, {"type": "text", "text": text}]})
    return chat
