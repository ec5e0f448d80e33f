"""Several questions about one video in one batch, and what is not computed again for each of them."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hicom_hf.assembly.random_model import tiny_model
from hicom_hf.modeling import compressor_hicom, kept_video_hicom, local_hicom
from hicom_hf.modeling.positions_hicom import HiComPositions, HiComReleasePositions
from hicom_hf.processors.answering_hicom import Chat, answer_chats, answer_questions, encode_video, read_frames

NUM_FRAMES = 5
VARIANTS = [
    {},
    {"local_injection": "coarse", "global_injection": "fine"},
    {"local_injection": "fine", "global_injection": "none"},
    {"local_injection": "none", "global_injection": "coarse"},
    {"local_injection": "coarse", "grouping": False},
    {"formulation": "release", "local_injection": "fine", "global_injection": "direct"},
    {
        "local_branch": "average_pool",
        "local_injection": "none",
        "num_global_tokens": 0,
        "global_injection": "none",
    },
]


def features_and_instructions(model, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(NUM_FRAMES, 3, 56, 56, generator=generator)
    instructions = torch.randint(2, 200, (3, 64), generator=generator)
    return model.encode_videos(pixels, [NUM_FRAMES]), instructions


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("fields", VARIANTS)
@torch.no_grad()
def test_questions_of_one_video_equal_single_ones(fields, implementation):
    model = tiny_model(**fields)
    model.set_attn_implementation(implementation)
    features, instructions = features_and_instructions(model)
    together = model.model.compress(features, instructions, output_attentions=True)
    assert len(together.pooler_output) == len(together.compressor_attentions) == 3
    for row, tokens in enumerate(together.pooler_output):
        alone = model.model.compress(features, instructions[row : row + 1], output_attentions=True)
        torch.testing.assert_close(tokens, alone.pooler_output[0], atol=2e-5, rtol=0)  # float32, other order of sums
        for name, weights in alone.compressor_attentions[0].items():
            torch.testing.assert_close(together.compressor_attentions[row][name], weights, atol=2e-5, rtol=0)


@torch.no_grad()
def test_the_features_of_one_video_are_not_copied(model):
    features, instructions = features_and_instructions(model)
    seen = []
    hook = model.model.compressor.register_forward_pre_hook(lambda _, args: seen.extend(args[:2]))
    try:
        model.model.compress(features, instructions, output_attentions=False)
    finally:
        hook.remove()
    assert [tensor.data_ptr() for tensor in seen] == [features[n].data_ptr() for n in ("features", "aligned_features")]
    assert {tensor.shape[0] for tensor in seen} == {1}


class LargestResult(TorchDispatchMode):
    """The most numbers that the memory of an operator's result holds; a view's is that of what it shows."""

    num_numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in (result,) if isinstance(result, torch.Tensor) else ():
            self.num_numbers = max(self.num_numbers, tensor.untyped_storage().nbytes() // tensor.element_size())
        return result


@pytest.mark.parametrize("fields", VARIANTS)
@torch.no_grad()
def test_nothing_of_the_size_of_the_features_is_made_for_each_question(fields):
    model = tiny_model(**fields)
    features, _ = features_and_instructions(model)
    instructions = torch.randint(2, 200, (16, 64), generator=torch.Generator().manual_seed(0))
    with LargestResult() as largest:
        model.model.compress(features, instructions, output_attentions=False)
    assert largest.num_numbers < 16 * features["features"].numel()


def test_a_batch_of_questions_answers_as_one_by_one_and_copies_no_features(model, processor):
    frames = np.random.default_rng(0).integers(0, 255, (NUM_FRAMES, 40, 56, 3), dtype=np.uint8)
    video = encode_video(model, read_frames(processor, frames))
    questions = ["What moves?", "Which colour is the moon, and where does it go?", "Is there a star?"]
    alone = [
        answer_questions(model, processor, video, [question], max_new_tokens=4)[0].answer for question in questions
    ]
    seen = []
    hook = model.model.compressor.register_forward_pre_hook(lambda _, args: seen.extend(args[:2]))
    try:
        together = answer_questions(model, processor, video, questions, max_new_tokens=4)
    finally:
        hook.remove()
    assert [answer.answer for answer in together] == alone
    assert [len(tensor) for tensor in seen] == [1, 1]
    assert seen[0].data_ptr() == video.features["features"].data_ptr()


def tokens_of(model, features, instructions):
    return torch.stack(list(model.model.compress(features, instructions, output_attentions=False).pooler_output))


@pytest.fixture
def num_prepared(monkeypatch):
    """How often groups were collected and positions added."""
    counts = {"groups": 0, "positions": 0}

    def counted(name, function):
        def call(*arguments):
            counts[name] += 1
            return function(*arguments)

        return call

    for module in (local_hicom, compressor_hicom):
        monkeypatch.setattr(module, "group", counted("groups", module.group))
    monkeypatch.setattr(HiComPositions, "forward", counted("positions", HiComPositions.forward))
    return counts


@pytest.mark.parametrize("fields", [VARIANTS[1], VARIANTS[4], VARIANTS[5], VARIANTS[6]])
@torch.no_grad()
def test_a_third_question_prepares_nothing_of_the_video_again(fields, num_prepared):
    model = tiny_model(**fields)
    features, instructions = features_and_instructions(model)
    first, second = (tokens_of(model, features, instructions) for _ in range(2))
    before = dict(num_prepared)
    third = tokens_of(model, features, instructions)
    # Where each group has a query of its own, the aligned features are collected by group: that is not kept.
    num_aligned = fields["local_injection"] in ("coarse", "fine") and fields.get("grouping", True)
    assert num_prepared == {**before, "groups": before["groups"] + num_aligned}
    assert torch.equal(first, second) and torch.equal(first, third)


@torch.no_grad()
def test_what_is_kept_of_a_video_is_never_that_of_another(model):
    features, instructions = features_and_instructions(model)
    kept = model.model.kept_video
    for _ in range(2):
        before = tokens_of(model, features, instructions)
    assert kept._kept.parts is not None
    features["features"].mul_(-1)
    after = tokens_of(model, features, instructions)
    fresh = dict(features, features=features["features"].clone())
    assert not torch.equal(before, after) and torch.equal(after, tokens_of(model, fresh, instructions))
    tokens_of(model, fresh, instructions)
    assert kept._kept.features() is fresh["features"]
    del fresh
    assert kept._kept is None
    assert copy.deepcopy(model.model.kept_video)._kept is None and pickle.loads(pickle.dumps(kept))._kept is None


def test_nothing_is_kept_for_training_nor_of_long_videos(model, monkeypatch):
    with torch.no_grad():
        features, instructions = features_and_instructions(model)
    for _ in range(3):
        tokens_of(model, features, instructions)
    assert model.model.kept_video._kept is None
    monkeypatch.setattr(kept_video_hicom, "MAX_KEPT_BYTES", 2 * features["features"].nbytes - 1)
    with torch.no_grad():
        for _ in range(3):
            tokens_of(model, features, instructions)
    assert model.model.kept_video._kept is None


def test_a_batch_that_mixes_videos_copies_no_features_of_a_video_that_is_asked_twice(model, processor):
    rng = np.random.default_rng(0)
    sky, sea = (
        encode_video(
            model, read_frames(processor, rng.integers(0, 255, (number, 40, 56, 3), dtype=np.uint8), num_frames=number)
        )
        for number in (NUM_FRAMES, NUM_FRAMES)
    )
    asked = [(sky, "What moves?"), (sea, "Is there a star?"), (sky, "Which colour is the moon, and where does it go?")]
    alone = [answer_questions(model, processor, video, [text], max_new_tokens=4)[0].answer for video, text in asked]
    chats = [
        Chat([{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": text}]}], [video])
        for video, text in asked
    ]
    seen = []
    hook = model.model.compressor.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    try:
        together = answer_chats(model, processor, chats, max_new_tokens=4)
    finally:
        hook.remove()
    assert [answer.answer for answer in together] == alone
    assert [one.data_ptr() for one in seen] == [video.features["features"].data_ptr() for video in (sky, sea)]


@torch.no_grad()
def test_a_list_of_videos_needs_one_video_and_one_instruction_each(model):
    features, instructions = features_and_instructions(model)
    both = {name: torch.cat([value, value]) for name, value in features.items()}
    get = model.model.get_video_features
    with pytest.raises(ValueError, match="got 3 instructions for 2 videos"):
        get(video_features=[features] * 2, video_instruction_ids=instructions)
    with pytest.raises(ValueError, match="entry 1 of video_features holds 2 videos"):
        get(video_features=[features, both], video_instruction_ids=instructions[:2])
    with pytest.raises(ValueError, match="features hold no layers"):
        get(video_features=[features], video_instruction_ids=instructions[:1], output_attentions=True)
    rows = get(video_features=[features] * 3, video_instruction_ids=instructions, output_compressor_attentions=True)
    assert len(rows.pooler_output) == len(rows.compressor_attentions) == 3
    assert torch.equal(rows.pooler_output[2], tokens_of(model, features, instructions)[2])


@pytest.mark.parametrize("positions", [HiComPositions(), HiComReleasePositions()])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_positions_are_added_bit_for_bit(positions, dtype):
    features = torch.randn(2, 5, 4, 3, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = features + positions.embedding((5, 4, 3), 64).to(dtype)
    assert torch.equal(positions(features), expected)


def test_position_tables_are_kept_bounded_and_no_weights():
    branch = tiny_model().model.compressor.global_branch
    positions = branch.positions
    first = positions.tables_for(torch.zeros(1, 1, 7, 7, 64))
    assert positions.tables_for(torch.ones(1, 1, 7, 7, 64)) is first
    for frames in range(1, 40):
        tables = positions.tables_for(torch.zeros(1, frames, 7, 7, 64))
        assert tables[0].shape == (frames, 1, 1, 16)
    assert len(positions._tables) == 16
    assert not any("tables" in name for name in branch.state_dict())


@pytest.mark.parametrize(
    "fields", [{}, pytest.param({"local_injection": "coarse", "global_injection": "fine"}, marks=pytest.mark.slow)]
)
@torch.no_grad()
def test_the_compressor_is_exported_for_any_number_of_frames(fields):
    compressor = tiny_model(**fields).model.compressor

    def arguments(frames):
        video = torch.randn(1, frames, 7, 7, 64)
        return video, video.flip(0), (torch.randn(1, 64), torch.randn(1, 64, 64))

    frames = {1: torch.export.Dim.DYNAMIC}
    program = torch.export.export(compressor, arguments(10), dynamic_shapes=(frames, frames, (None, None)))
    for count in (5, 9, 16, 33):
        inputs = arguments(count)
        expected = compressor(*inputs)[0]
        torch.testing.assert_close(program.module()(*inputs)[0], expected, atol=2e-5, rtol=0)
