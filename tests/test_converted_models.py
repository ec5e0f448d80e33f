"""A converted model passes the tests of native ones: the same functions, on other weights, and loading without the package."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from official_checkpoints import COARSE
from safetensors.torch import load_file
from test_hub import files_in, run_without_package
from test_modeling import (  # noqa: F401  (collected here once more, with the fixtures of this file)
    batch,
    prepare,
    singles,
    test_beams_of_a_batch_equal_its_singles,
    test_greedy_generation_of_a_batch_equals_its_singles,
    test_logits_depend_on_pixels_and_on_the_instruction,
    test_logits_of_a_mixed_batch_equal_those_of_its_rows,
    test_right_padded_logits_equal_left_padded_ones,
    test_right_padding_generates_the_same,
)
from transformers import AutoModelForImageTextToText, AutoProcessor
from without_package import QUESTION, frames, logits_of, prompt

from hicom_hf.conversion import convert_official_checkpoint
from hicom_hf.processors.video_text_to_text import VideoTextToTextPipeline


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    destination = tmp_path_factory.mktemp("converted") / "hicom"
    convert_official_checkpoint(COARSE / "checkpoint", destination, vision_tower=COARSE / "siglip_tower", dtype="fp32")
    return destination


@pytest.fixture(scope="module")
def model(folder):
    loaded = AutoModelForImageTextToText.from_pretrained(folder).eval()
    loaded.generation_config.eos_token_id = None  # random weights end early, and a batch is padded from there
    return loaded


@pytest.fixture(scope="module")
def processor(folder):
    return AutoProcessor.from_pretrained(folder)


def test_a_cached_run_equals_an_uncached_one(model, singles):  # noqa: F811
    for inputs in singles:
        cached, uncached = (
            model.generate(**inputs, max_new_tokens=6, use_cache=use_cache) for use_cache in (True, False)
        )
        assert torch.equal(cached, uncached)


def test_the_pipeline_answers_as_model_and_processor_do(model, processor):
    pipe = VideoTextToTextPipeline(model=model, processor=processor)
    questions = [QUESTION, "Who throws the ball, and where?"]
    alone = [pipe(frames(), text=question, max_new_tokens=6)[0]["generated_text"] for question in questions]
    together = pipe([frames()] * 2, text=questions, max_new_tokens=6, batch_size=2)
    assert [answers[0]["generated_text"] for answers in together] == alone
    inputs = prompt(processor)
    output = model.generate(**inputs, max_new_tokens=6)[0, inputs["input_ids"].shape[1] :]
    assert processor.tokenizer.decode(output, skip_special_tokens=True).strip() == alone[0].strip()


def test_each_question_chooses_its_frames(model, processor):
    pipe = VideoTextToTextPipeline(model=model, processor=processor)
    video, selection = np.concatenate([frames()] * 4), {"num_frames": 4, "max_p_value": 1.0}
    [record] = pipe(
        video, text=QUESTION, num_frames="all", selection=selection, max_new_tokens=6, return_metadata=True
    )
    [chosen] = record["selection"]
    assert chosen["used"] == "question" and len(chosen["frames"]) == 4
    by_hand = pipe(video[list(chosen["frames"])], text=QUESTION, num_frames="all", max_new_tokens=6)
    assert by_hand[0]["generated_text"] == record["generated_text"]


@pytest.mark.slow
def test_the_folder_loads_without_the_package_with_the_same_logits(folder, model, processor, tmp_path):
    [output] = run_without_package(tmp_path / "out", tmp_path, folder)
    expected = logits_of(model, prompt(processor))
    for name, logits in load_file(output / "logits.safetensors").items():
        assert torch.equal(logits, expected), name
    results = json.loads((output / "results.json").read_text())
    assert all(not module.startswith("hicom_hf") for module, _ in results["classes"].values())
    assert results["answer"] == results["batched_answer"] == results["answer_again"]
    assert files_in(output / "pipeline_again") == files_in(Path(folder))
