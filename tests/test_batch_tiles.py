"""Tiles in training: a sample sees the patches that its question chooses in a session with the same weights."""

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image
from training_runs import encoder_of, recipe_values, result_of, write_model

from hicom_hf import (
    FrameSampling,
    FrameSelection,
    FrameTiles,
    HiComForConditionalGeneration,
    HiComProcessor,
    HiComSession,
)
from hicom_hf.assembly.random_model import tiny_model, tiny_processor
from hicom_hf.data import batch_tiles as module
from hicom_hf.data.bad_samples import SampleError
from hicom_hf.data.batch_tiles import with_chosen_patches
from hicom_hf.data.checking import check_data
from hicom_hf.data.collating import HiComDataCollator
from hicom_hf.data.conversations import training_items
from hicom_hf.data.datasets import HiComDataset
from hicom_hf.data.feature_cache import FeatureCache
from hicom_hf.data.media_reader import MediaReader
from hicom_hf.data.record_media import Medium, Record
from hicom_hf.data.row_collating import HiComPreferenceCollator, HiComRowCollator
from hicom_hf.data.selected_frames import SelectedFrames
from hicom_hf.data.streaming import HiComStreamingDataset
from hicom_hf.shapes import Scene, render, write_video
from hicom_hf.training.checkpoints import last_checkpoint
from hicom_hf.training.recipe_reading import recipe_from_dict, recipe_text
from hicom_hf.training.run import check_run, run_recipe
from hicom_hf.training.typed_yaml import load_yaml

pytestmark = pytest.mark.usefixtures("no_curves")

STAGE = "conditional_pretraining"
NUM_FRAMES = 4
TWO_ZOOMS = FrameTiles((1, 2))
ASKED = {"wide.mp4": ["Where is the red circle?", "What shape is it?"], "tall.mp4": ["Who runs?"]}


def record(question, answer="Ann.", kind="video", **more):
    turns = [{"from": "human", "value": f"<{kind}>\n{question}"}, {"from": "gpt", "value": answer}]
    return {**more, "conversations": turns}


def film(seed, size, num_frames=NUM_FRAMES):
    return render(Scene.from_seed(seed, split="test"), num_frames=num_frames, size=size)[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    write_video(folder / "wide.mp4", film(1, (56, 100)), fps=4)
    write_video(folder / "tall.mp4", film(2, (100, 56)), fps=4)
    write_video(folder / "long.mp4", film(10, (56, 100), 24), fps=4)
    Image.fromarray(film(3, (56, 100), 1)[0]).save(folder / "wide.png")
    return folder


@pytest.fixture
def records():
    found = [record(text, video=name) for name, texts in ASKED.items() for text in texts]
    return [*found, record("What is it?", kind="image", image="wide.png")]


@pytest.fixture(scope="module")
def frozen():
    """The tiny model with frozen towers, as `HiComTrainer` has it. Do not change it."""
    return frozen_model()


def frozen_model(**compressor):
    model = tiny_model(**compressor)
    model.model.vision_tower.requires_grad_(False)
    return model


def dataset_of(records, processor, folder, tiles=TWO_ZOOMS, **options):
    return HiComDataset(records, encoder_of(processor, NUM_FRAMES, tiles=tiles, **options), folder)


def batch_of(dataset, *numbers, **options):
    return HiComDataCollator(dataset.encoder.processor, **options)(dataset.__getitems__(numbers))


def of_session(model, processor, path, question, tiles=TWO_ZOOMS, **sampling):
    """Features of the patches that a question sees in a session, and the record of the choice."""
    video = HiComSession(model, processor).open(path, tiles=tiles, **(sampling or {"num_frames": NUM_FRAMES}))
    [(chosen, seen)] = video._choose_all([question])
    return seen.features, chosen


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert torch.equal(found[name], values), name


def joined(parts):
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


# As at inference ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "compressor", [{}, {"local_injection": "coarse"}, {"formulation": "release", "global_injection": "fine"}]
)
def test_a_batch_has_the_bits_that_its_questions_see_in_a_session(compressor, folder, records):
    model, processor = frozen_model(**compressor), tiny_processor()
    batch = batch_of(dataset_of(records, processor, folder), 0, 1, 2, 3)
    assert "pixel_values_videos" not in batch and "pixel_values" not in batch
    seen = with_chosen_patches(model, processor, batch)
    expected = [of_session(model, processor, folder / name, text) for name in ASKED for text in ASKED[name]]
    assert len({str(chosen.tiles) for _, chosen in expected}) == 3  # no two of them see the same
    assert_same(seen["video_features"], joined([features for features, _ in expected]))
    image, _ = of_session(model, processor, folder / "wide.png", "What is it?", num_frames="all")
    assert_same(seen["image_features"], image)
    assert batch["labels"].shape == model(**seen).logits.shape[:2]


def test_a_sample_has_the_tokens_and_the_answer_of_a_session(frozen, processor, folder, records):
    seen = with_chosen_patches(frozen, processor, batch_of(dataset_of(records, processor, folder), 0))
    film, text = (
        HiComSession(frozen, processor).open(folder / "wide.mp4", tiles=TWO_ZOOMS, num_frames=NUM_FRAMES),
        ASKED["wide.mp4"][0],
    )
    prompt = int((seen["labels"][0] == -100).sum())
    inputs = {name: seen[name] for name in ("video_features", "video_instruction_ids")}
    ids = frozen.generate(
        seen["input_ids"][:, :prompt], **inputs, max_new_tokens=6, do_sample=False, output_scores=True
    )
    answer = film.ask(text, max_new_tokens=6)
    assert answer.num_prompt_tokens == prompt
    assert processor.tokenizer.decode(ids[0, prompt:], skip_special_tokens=True).strip() == answer.answer
    [tokens] = frozen.model.get_video_features(**inputs).pooler_output
    [expected] = frozen.model.get_video_features(
        video_features=film._choose_all([text])[0][1].features, video_instruction_ids=seen["video_instruction_ids"]
    ).pooler_output
    assert torch.equal(tokens, expected)


def test_questions_choose_by_the_weights_of_the_moment(folder, records):
    model, processor = frozen_model(), tiny_processor()
    batch = batch_of(dataset_of(records, processor, folder), 0)
    before = with_chosen_patches(model, processor, batch)["video_features"]
    with torch.no_grad():
        model.model.compressor.local_branch.injection.mlp.linear_2.weight.neg_()
    after = with_chosen_patches(model, processor, batch)["video_features"]
    assert not torch.equal(after["features"], before["features"])
    assert_same(after, of_session(model, processor, folder / "wide.mp4", ASKED["wide.mp4"][0])[0])


def test_a_model_that_is_called_with_tiles_has_the_gradients_of_one_whose_patches_were_chosen_before(folder, records):
    losses, gradients = [], []
    for inside in (False, True):
        model, processor = frozen_model(), tiny_processor()
        batch = batch_of(dataset_of(records, processor, folder), 0, 3, 2)
        if inside:
            module.choose_when_called(model, processor)
        with torch.autocast("cpu", torch.bfloat16):
            seen = batch if inside else with_chosen_patches(model, processor, batch)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(**seen).loss
        loss.backward()
        losses.append(loss)
        gradients.append({name: one.grad for name, one in model.named_parameters() if one.grad is not None})
    assert losses[0] == losses[1] and gradients[0].keys() == gradients[1].keys()


def test_records_ask_for_themselves_beside_others(frozen, processor, folder, records):
    entries = [records[0], {**records[2], "tiles": {"zooms": [1]}}, records[3], {**records[3], "tiles": {}}]
    entries += [record("Hello")]
    entries[-1]["conversations"][0]["value"] = "Hello"
    dataset = dataset_of(entries, processor, folder, tiles=None)
    assert dataset.num_tiled == 2
    seen = with_chosen_patches(frozen, processor, batch_of(dataset, 4, 1, 3, 0, 2))
    tiled, _ = of_session(frozen, processor, folder / "tall.mp4", "Who runs?", FrameTiles())
    session = HiComSession(frozen, processor)
    padded = session.open(folder / "wide.mp4", num_frames=NUM_FRAMES).encoded.features
    assert_same(seen["video_features"], joined([tiled, padded]))
    image, _ = of_session(frozen, processor, folder / "wide.png", "What is it?", FrameTiles(), num_frames="all")
    assert_same(seen["image_features"], joined([image, session.open(folder / "wide.png").encoded.features]))
    assert "video_num_frames" not in seen
    assert frozen(**seen).loss.isfinite()


def test_scores_are_compared_in_float32_where_training_computes_in_half_precision(frozen, processor, folder, records):
    [tiles] = batch_of(dataset_of(records, processor, folder), 0)["video_tiles"]
    ids = processor.encode_instructions(["Where is the red circle?"])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        video = module.encoded_tiles(frozen, processor, tiles)
        found = module.chosen_features(frozen, video, ids[0])
        scorer = frozen.frame_scorer(ids)
        rounded = module.choose_by_scores(frozen, video, scorer)[1].features["features"]
    expected = module.choose_by_scores(frozen, video, scorer)[1].features["features"]
    assert torch.equal(found["features"], expected) and not torch.equal(rounded, expected)


def test_tokens_are_those_of_padded_frames(processor, folder, records):
    tiled, padded = dataset_of(records, processor, folder), dataset_of(records, processor, folder, tiles=None)
    for number in range(4):
        assert torch.equal(tiled[number]["input_ids"], padded[number]["input_ids"])
    assert tiled.visual_tokens.tolist() == padded.visual_tokens.tolist()
    assert (tiled.num_tiled, padded.num_tiled) == (4, 0)


def test_frames_that_a_question_has_chosen_are_seen_as_tiles(frozen, processor, folder, tmp_path):
    selection, question = FrameSelection(num_frames=NUM_FRAMES, max_p_value=1.0), "Where is the red circle?"
    encoder = encoder_of(processor, 12, selection=selection, tiles=TWO_ZOOMS)
    dataset = HiComDataset([record(question, video="long.mp4")], encoder, folder)
    encoder.selected_frames = SelectedFrames(tmp_path, frozen, processor, encoder.reader)
    encoder.selected_frames.fill(frozen, dataset.items())
    seen = with_chosen_patches(frozen, processor, batch_of(dataset, 0))
    film = HiComSession(frozen, processor).open(
        str(folder / "long.mp4"), num_frames=12, selection=selection, tiles=TWO_ZOOMS
    )
    answer = film.ask(question, max_new_tokens=1)
    numbers = tuple(film.candidates.sampling.indices[frame] for frame in answer.selection.frames)
    expected, chosen = of_session(
        frozen, processor, folder / "long.mp4", question, sampling=FrameSampling(indices=numbers)
    )
    assert chosen == answer.tiles
    assert_same(seen["video_features"], expected)
    # With tiles of a recipe or of a record, the choice is one.
    own = HiComDataset(
        [record(question, video="long.mp4", tiles={"zooms": [1, 2]})],
        encoder_of(processor, 12, selection=selection),
        folder,
    )
    found = SelectedFrames(tmp_path, frozen, processor, own.encoder.reader)
    assert len(found) == 1 and found.fill(frozen, own.items()) == [] and len(found) == 1


def test_squares_choose_frames_unless_tiles_say_otherwise(frozen, processor, folder, tmp_path):
    selection, padded = (
        FrameSelection(num_frames=NUM_FRAMES, max_p_value=1.0),
        replace(TWO_ZOOMS, score_candidates=False),
    )
    question = "What shape is it?"
    chosen = {}
    for name, one in (("padded", padded), ("squares", TWO_ZOOMS)):
        encoder = encoder_of(processor, 12, selection=selection, tiles=one)
        dataset = HiComDataset([record(question, video="long.mp4")], encoder, folder)
        encoder.selected_frames = SelectedFrames(tmp_path, frozen, processor, encoder.reader)
        encoder.selected_frames.fill(frozen, dataset.items())
        [medium] = encoder.media(dataset.item(0))
        chosen[name] = medium.indices
        film = HiComSession(frozen, processor).open(
            str(folder / "long.mp4"), num_frames=12, selection=selection, tiles=one
        )
        answer = film.ask(question, max_new_tokens=1)
        assert medium.indices == tuple(film.candidates.sampling.indices[frame] for frame in answer.selection.frames)
        seen = with_chosen_patches(frozen, processor, batch_of(dataset, 0))["video_features"]
        sampling = FrameSampling(indices=medium.indices)
        assert_same(seen, of_session(frozen, processor, folder / "long.mp4", question, sampling=sampling)[0])
    assert len(encoder.selected_frames) == 2  # each is kept
    assert chosen["padded"] != chosen["squares"]
    # Chosen padded, the choice is that without tiles.
    plain = HiComDataset([record(question, video="long.mp4")], encoder_of(processor, 12, selection=selection), folder)
    found = SelectedFrames(tmp_path, frozen, processor, plain.encoder.reader)
    assert len(found) == 2 and found.fill(frozen, plain.items()) == [] and len(found) == 2


def test_an_image_is_one_frame_whatever_is_sampled_of_videos(processor, folder):
    sampling = FrameSampling(num_frames=NUM_FRAMES, short_video="repeat")
    reader = MediaReader(processor.video_processor, sampling, tiles=FrameTiles())
    assert reader.squares(Medium("image", str(folder / "wide.png"))).pictures.shape[:2] == (1, 2)


def test_a_stream_is_seen_as_tiles(frozen, processor, folder, records, tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(json.dumps(one) for one in records))
    encoder = encoder_of(processor, NUM_FRAMES, tiles=TWO_ZOOMS)
    stream = list(HiComStreamingDataset(str(path), encoder, folder, shuffle_buffer=0))
    found = with_chosen_patches(frozen, processor, HiComDataCollator(processor)(stream))
    expected = with_chosen_patches(frozen, processor, batch_of(dataset_of(records, processor, folder), 0, 1, 2, 3))
    assert_same(found["video_features"], expected["video_features"])


# Once per video ------------------------------------------------------------------------------------------------------------


def test_a_video_is_read_and_encoded_once_for_all_its_questions_in_a_batch(
    frozen, processor, folder, records, monkeypatch
):
    read, encoded = [], []
    squares, encode = MediaReader.squares, module.encode_tiles
    monkeypatch.setattr(MediaReader, "squares", lambda self, medium: read.append(medium) or squares(self, medium))
    monkeypatch.setattr(module, "encode_tiles", lambda *args: encoded.append(args[2]) or encode(*args))
    dataset = dataset_of(records, processor, folder)
    with_chosen_patches(frozen, processor, batch_of(dataset, 0, 1, 2))
    assert len(read) == len(encoded) == 2
    numbers = dataset.media_numbers
    assert numbers[0] == numbers[1] != numbers[2]  # so they share a batch, too, and a group that is held out


def test_a_packed_row_has_the_loss_of_padded_rows(frozen, processor, folder, records):
    dataset = dataset_of(records, processor, folder)
    losses = [
        frozen(**with_chosen_patches(frozen, processor, batch_of(dataset, 0, 3, 2, packing=packing)), use_cache=False)
        for packing in (False, True)
    ]
    torch.testing.assert_close(losses[1].loss, losses[0].loss, rtol=0, atol=1e-5)  # float32, other sums


def test_features_from_the_disk_are_those_that_were_encoded(frozen, processor, folder, records, tmp_path):
    records[1]["tiles"] = {"zooms": [1]}  # of its own, of the same video
    plain, cached = dataset_of(records, processor, folder), dataset_of(records, processor, folder)
    cached.encoder.feature_cache = FeatureCache(tmp_path, frozen, cached.encoder.reader)
    reported = []
    cached.encoder.feature_cache.fill(frozen, cached.media(), report=reported.append)
    assert len(cached.encoder.feature_cache) == 4 and "4 to encode take at least 0.00 GiB" in reported[0]
    again = FeatureCache(tmp_path, frozen, cached.encoder.reader)
    again.refresh()
    assert len(again) == 4 and len(list(tmp_path.iterdir())) == 1
    cached.encoder.feature_cache = again
    found, expected = (with_chosen_patches(frozen, processor, batch_of(one, 0, 1, 2, 3)) for one in (cached, plain))
    for kind in ("video_features", "image_features"):
        assert_same(found[kind], expected[kind])
    other = FeatureCache(tmp_path, frozen, encoder_of(processor, NUM_FRAMES, tiles=FrameTiles()).reader)
    assert other.folder != again.folder
    records[1]["tiles"]["score_candidates"] = False  # no question chooses frames: nothing is encoded anew
    padded = dataset_of(records, processor, folder, tiles=replace(TWO_ZOOMS, score_candidates=False))
    known = FeatureCache(tmp_path, frozen, padded.encoder.reader)
    known.refresh()
    assert len(known) == 4 and all(medium in known for medium in padded.media())


def test_a_cache_of_half_the_type_keeps_numbers_of_patches(frozen, processor, folder, records, tmp_path):
    dataset = dataset_of(records, processor, folder)
    cache = FeatureCache(tmp_path, frozen, dataset.encoder.reader, dtype=torch.bfloat16)
    dataset.encoder.feature_cache = cache
    cache.fill(frozen, dataset.media(), report=lambda line: None)
    [level, _] = dataset[0]["video_tiles"][0].levels
    assert (level.features.dtype, level.members.dtype, level.inside.dtype) == (
        torch.bfloat16,
        torch.int64,
        torch.bool,
    )
    assert with_chosen_patches(frozen, processor, batch_of(dataset, 0))["video_features"]["features"].any()


def test_the_size_of_a_cache_is_that_of_square_frames_at_least(frozen, processor, folder):
    def size(tiles, **compressor):
        reader = MediaReader(processor.video_processor, FrameSampling(num_frames=NUM_FRAMES), tiles=tiles)
        model = frozen_model(**compressor) if compressor else frozen
        return FeatureCache(folder, model, reader).num_bytes([Medium("video", "a")])

    assert size(TWO_ZOOMS) == 5 * size(None)
    unused = {"local_branch": "average_pool", "local_injection": "none"}  # reads no aligned features
    assert size(FrameTiles(), **unused) == 2 * size(None, **unused)


# A run ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def start(tmp_path_factory, folder):
    path = folder / "train.json"
    path.write_text(json.dumps([record(text, video=name) for name, texts in ASKED.items() for text in texts]))
    return write_model(tmp_path_factory.mktemp("model") / "model"), path


def tiled(start, output_dir, stage=STAGE, /, **changes):
    data = {"num_frames": NUM_FRAMES, "tiles": {"zooms": [1, 2]}, **changes.pop("data", {})}
    return recipe_values(stage, *start, output_dir, data=data, **changes)


def test_an_evaluation_sees_the_chosen_patches(start, tmp_path):
    evaluation = {"files": [str(start[1])], "every": 1, "answers": "exact", "max_new_tokens": 2}
    values = tiled(start, tmp_path, "instruction_tuning", max_steps=1, checkpoints={"every": 1}, eval=evaluation)
    values["learning_rates"]["instruction_encoder"] = 1e-3
    model = HiComForConditionalGeneration.from_pretrained(run_recipe(recipe_from_dict(values)))
    state = json.loads((last_checkpoint(tmp_path) / "trainer_state.json").read_text())
    [found] = [entry["eval_loss"] for entry in state["log_history"] if "eval_loss" in entry]
    model.model.vision_tower.requires_grad_(False)
    processor = HiComProcessor.from_pretrained(start[0])
    dataset, sums, tokens = dataset_of(json.loads(start[1].read_text()), processor, start[1].parent), 0.0, 0
    for number in range(3):
        batch = with_chosen_patches(model, processor, batch_of(dataset, number))
        count = int((batch["labels"][:, 1:] != -100).sum())
        sums, tokens = sums + model(**batch).loss.item() * count, tokens + count
    assert found == pytest.approx(sums / tokens, abs=1e-5)  # float32, other sums


def test_a_run_on_kept_features_ends_with_the_same_weights(start, tmp_path):
    results = [
        result_of(
            run_recipe(recipe_from_dict(tiled(start, tmp_path / name, max_steps=2, precision="bf16", data=data)))
        )
        for name, data in (("read", {}), ("kept", {"feature_cache": str(tmp_path / "features")}))
    ]
    for name, weight in results[0].items():
        assert torch.equal(results[1][name], weight), name


def test_check_says_that_samples_see_tiles(start, tmp_path):
    table = check_run(recipe_from_dict(tiled(start, tmp_path))).table()
    assert "3 samples see frames as tiles. Counted is one square of each frame" in table


def test_a_recipe_with_tiles_is_written_as_it_is_read(start, tmp_path):
    run = recipe_from_dict(tiled(start, tmp_path))
    assert run.data.tiles == TWO_ZOOMS
    assert recipe_from_dict(load_yaml(recipe_text(run), "recipe")) == run


# Refused -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "changes", "message"),
    [
        ("alignment", {}, r"data\.tiles must be null in the stage alignment: no question chooses there"),
        (
            "instruction_tuning",
            {"learning_rates": {"vision_head": 1e-6}},
            r"data\.tiles must be null while learning_rates\.vision_head is set",
        ),
        (STAGE, {"data": {"tiles": {"zooms": [0]}}}, r"data\.tiles: zooms must be numbers of at least 1"),
        (STAGE, {"data": {"tiles": {"zooms": []}}}, r"data\.tiles: zooms must be numbers of at least 1"),
        (STAGE, {"data": {"tiles": {"zooms": [1.5]}}}, r"data\.tiles\.zooms must be a list of whole numbers"),
        (STAGE, {"data": {"tiles": {"zoom": [1]}}}, r"unknown key data\.tiles\.zoom; did you mean data\.tiles\.zooms"),
    ],
)
def test_recipes_in_which_tiles_would_be_wrong_are_refused(stage, changes, message, start, tmp_path):
    with pytest.raises(ValueError, match=message):
        recipe_from_dict(tiled(start, tmp_path, stage, **changes))


def test_records_with_tiles_are_refused_where_their_features_are_trained(start, folder, tmp_path):
    path = folder / "own.json"
    path.write_text(json.dumps([record("Who?", video="wide.mp4", tiles={})]))
    data = {"files": [str(path)], "tiles": None}
    run = tiled(start, tmp_path, "instruction_tuning", data=data, learning_rates={"vision_head": 1e-6})
    with pytest.raises(ValueError, match=r'records must have no "tiles" while learning_rates\.vision_head is set'):
        check_run(recipe_from_dict(run))
    with pytest.raises(SampleError, match='"tiles" needs a question for each answer'):
        check_run(recipe_from_dict(tiled(start, tmp_path, "alignment", data=data)))


def test_a_trained_tower_is_refused(processor, folder, records):
    batch = batch_of(dataset_of(records, processor, folder), 0)
    with pytest.raises(ValueError, match="tiles need a frozen vision tower"):
        with_chosen_patches(tiny_model(), processor, batch)


@pytest.mark.parametrize(
    ("tiles", "message"),
    [
        ([1], r'"tiles" \[1\]: it must be a dictionary such as {"zooms": \[1\]}'),
        ({"zooms": [0]}, "zooms must be numbers of at least 1"),
        ({"zooms": 1}, "zooms must be a tuple of whole numbers"),
        ({"zoom": [1]}, "FrameTiles has no field 'zoom'; its fields are zooms, overlap, "),
    ],
)
def test_a_record_whose_request_makes_no_sense_is_named(tiles, message):
    with pytest.raises(SampleError, match=f"here: bad record: .*{message}"):
        training_items(Record(record("Who?", video="a.mp4", tiles=tiles), "here"))


def test_a_video_with_too_many_squares_is_named_by_the_sample_and_the_check(processor, folder):
    entries = [record("Who?", video="wide.mp4", tiles={"zooms": [20]})]
    with pytest.raises(SampleError, match=r"wide\.mp4: unreadable media: .*squares"):
        dataset_of(entries, processor, folder)[0]
    [problem] = check_data(entries, processor, folder, num_frames=NUM_FRAMES).problems
    assert "wide.mp4" in problem.source and "squares" in problem.reason


def test_an_overview_of_a_model_that_does_not_pad_is_refused(processor, folder, monkeypatch):
    monkeypatch.setattr(processor.video_processor, "do_pad", False)
    with pytest.raises(ValueError, match="the overview is a padded frame"):
        encoder_of(processor, tiles=FrameTiles(overview=True))
    dataset = dataset_of([record("Who?", video="wide.mp4", tiles={"overview": True})], processor, folder, tiles=None)
    with pytest.raises(SampleError, match='"tiles": the overview is a padded frame'):
        dataset[0]


def test_other_trainers_have_no_tiles(processor, folder):
    row = record("Who?", video=str(folder / "wide.mp4"), tiles={})
    with pytest.raises(SampleError, match='"tiles": questions choose patches by the weights of the moment'):
        HiComRowCollator(encoder_of(processor, NUM_FRAMES))([row])
    preference = {"prompt": "Who?", "chosen": "A", "rejected": "B", "video": row["video"], "tiles": {}}
    with pytest.raises(SampleError, match='"tiles": questions choose patches'):
        HiComPreferenceCollator(encoder_of(processor, NUM_FRAMES))([preference])
    with pytest.raises(ValueError, match="the encoder must have tiles=None"):
        HiComRowCollator(encoder_of(processor, NUM_FRAMES, tiles=FrameTiles()))
