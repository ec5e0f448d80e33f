"""Instructions that are found in a prompt's tokens are those that the processor found in its text."""

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image

from hicom_hf.assembly.random_model import tiny_model, tiny_processor
from hicom_hf.training.prompt_instructions import find_instructions_in_prompts

QUESTIONS = ("What is left of the red cup?\n(A) a cat\n(B) a dog", "Is it night? Answer with yes or no.")


@pytest.fixture(scope="module")
def batch():
    """Two chats about an image each, the first one with a turn before; the processor, its inputs, and answers behind them."""
    processor = tiny_processor()
    earlier = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hello!"}]
    chats = []
    for number, question in enumerate(QUESTIONS):
        picture = Image.new("RGB", (40, 30), (200 * number, 90, 30))
        content = [{"type": "image", "image": picture}, {"type": "text", "text": question}]
        chats.append([*(earlier if number == 0 else []), {"role": "user", "content": content}])
    inputs = processor.apply_chat_template(
        chats,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        padding=True,
        padding_side="left",
        add_generation_prompt=True,
    )
    answers = processor.tokenizer(["a cat<|im_end|>", "yes<|im_end|>"], padding=True, return_tensors="pt")
    whole = {
        **inputs,
        "input_ids": torch.cat([inputs["input_ids"], answers["input_ids"]], dim=1),
        "attention_mask": torch.cat([inputs["attention_mask"], answers["attention_mask"]], dim=1),
    }
    return processor, whole


@pytest.mark.parametrize("with_adapters", [False, True])
def test_a_call_without_instructions_gives_what_it_gives_with_them(batch, with_adapters):
    processor, inputs = batch
    model = tiny_model().eval()
    if with_adapters:
        model = get_peft_model(model, LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    without = {name: value for name, value in inputs.items() if name != "image_instruction_ids"}
    expected = model(**inputs).logits
    with pytest.raises(ValueError, match="image_instruction_ids"):
        model(**without)
    handle = find_instructions_in_prompts(model, processor)
    assert torch.equal(model(**without).logits, expected)
    assert torch.equal(model(**inputs).logits, expected)  # those that are given stay
    handle.remove()
    with pytest.raises(ValueError, match="image_instruction_ids"):
        model(**without)


def test_videos_of_different_lengths_are_told_apart(batch):
    processor, _ = batch
    frames = [np.zeros((count, 30, 40, 3), dtype=np.uint8) for count in (4, 9, 2)]
    text = f"{processor.video_token}{processor.video_token} Which is longer?", f"{processor.video_token} How long?"
    inputs = processor(text=list(text), videos=frames, return_tensors="pt", padding=True, do_sample_frames=False)
    model = tiny_model().eval()
    expected = model(**inputs).logits
    del inputs["video_instruction_ids"]
    find_instructions_in_prompts(model, processor)
    assert torch.equal(model(**inputs).logits, expected)


def test_a_training_batch_without_videos_is_noted_once_and_not_where_it_is_meant(batch, monkeypatch):
    processor, inputs = batch
    said = []
    monkeypatch.setattr("hicom_hf.modeling.visual_tokens_hicom.logger.warning_once", said.append)
    model = tiny_model()
    text = processor(text="hello", return_tensors="pt")
    model.eval()(**text)
    model.train()(**inputs)
    with torch.no_grad():
        model(**text)
    assert not said
    model(**text)
    assert len(said) == 1 and "columns that they do not know" in said[0]
    model.model.expects_text_only = True
    model(**text)
    assert len(said) == 1
