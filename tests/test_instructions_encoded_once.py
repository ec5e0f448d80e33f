"""A question that chooses its frames is encoded once, for the choice and for the compression."""

import numpy as np
import pytest
import torch

from hicom_hf import FrameSelection, FrameTiles, HiComSession
from hicom_hf.assembly.random_model import tiny_model, tiny_processor
from hicom_hf.modeling.vision_hicom import HiComInstructionEncoder, instructions_encoded_once

QUESTIONS = ["Where is the red circle?", "What shape is it?"]


@pytest.fixture
def encoded(monkeypatch):
    """The instruction ids that the encoder ran on, call by call."""
    calls, encode = [], HiComInstructionEncoder._encode
    monkeypatch.setattr(
        HiComInstructionEncoder, "_encode", lambda self, ids: calls.append(ids.tolist()) or encode(self, ids)
    )
    return calls


@pytest.fixture
def session():
    return HiComSession(tiny_model(), tiny_processor(), cache_bytes=0)


@pytest.mark.parametrize(
    "how", [{"selection": FrameSelection(num_frames=4, max_p_value=1.0)}, {"tiles": FrameTiles(zooms=(1, 2))}]
)
def test_a_question_is_encoded_once_and_again_when_it_is_asked_again(session, encoded, how):
    noise = np.random.default_rng(0).integers(0, 256, (12, 56, 84, 3), dtype=np.uint8)
    video = session.open(noise, num_frames="all", **how)
    del encoded[:]
    video.ask(QUESTIONS[0], max_new_tokens=2)
    assert len(encoded) == 1
    video.ask(QUESTIONS[0], max_new_tokens=2)  # the weights may have changed in between
    assert len(encoded) == 2


def test_other_words_other_batches_and_gradients_are_encoded_anew(session, encoded):
    encoder, processor = session.model.model.instruction_encoder, session.processor
    one, two = (processor.encode_instructions([text], report=False) for text in QUESTIONS)
    with instructions_encoded_once():
        with torch.no_grad():
            first = encoder(one)
            assert all(a is b for a, b in zip(first, encoder(one.clone()), strict=True))
            assert not torch.equal(encoder(two)[0], first[0])
            encoder(torch.cat([one, two]))
        assert encoder(one)[0].requires_grad
    with torch.no_grad():
        encoder(one)
    assert [len(ids) for ids in encoded] == [1, 1, 2, 1, 1]
