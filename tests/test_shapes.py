"""The shapes world: the same everywhere, every answer right, nothing to guess from, and readable by the trainer."""

import hashlib
import itertools
import json
import re
from collections import Counter, defaultdict
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from training_runs import encoder_of

from hicom_hf import shapes
from hicom_hf.cli import shapes as shapes_command
from hicom_hf.cli.main import main
from hicom_hf.processors.frame_sampling_hicom import FrameSampling
from hicom_hf.processors.instruction_hicom import extract_instruction
from hicom_hf.processors.video_processing_hicom import HiComVideoProcessor
from hicom_hf.processors.video_reading_hicom import read_video
from hicom_hf.shapes import (
    COLOURS,
    HELD_OUT_APPEARANCES,
    HELD_OUT_PAIRS,
    SHAPES,
    TEXTURES,
    Scene,
    SceneObject,
    questions,
    render,
)
from hicom_hf.shapes.dice import Dice
from hicom_hf.shapes.questions import ANSWERS, MAX_PER_KIND, MAX_RARE_PAIRS, TEMPLATES, order_pairs, rare_questions
from hicom_hf.shapes.rendering import scene_times
from hicom_hf.shapes.scenes import Split
from hicom_hf.shapes.sprites import sprite_cover
from hicom_hf.shapes.writing import CODECS

NUM_TIMES = 64
# sha256 of the frames of `render(Scene.from_seed(5, "dense"), 3, (96, 128))`; a new one needs a new WORLD_VERSION
FRAMES_HASH = "9b023fe56fd4cc3fc4b36c7f5beef2dd20291b37048b483da16a97cce6aaec3f"


@pytest.fixture(scope="module")
def scenes():
    """Scenes of every split and level."""
    levels = ("sparse", "normal", "dense")
    found = [Scene.from_seed(seed, level, split) for split in shapes.SPLITS for level in levels for seed in range(12)]
    return [*found, *(Scene.from_seed(seed, "crowded") for seed in range(6))]


@pytest.fixture(scope="module")
def training_questions():
    return [question for seed in range(500) for question in questions(Scene.from_seed(1000 + seed, "normal"))]


def appearances_of(scene):
    return {found.attributes for found in scene.objects}


def all_appearances():
    return set(itertools.product(COLOURS, SHAPES, TEXTURES))


def training_appearances():
    return {
        appearance
        for appearance in all_appearances()
        if appearance not in HELD_OUT_APPEARANCES and appearance[:2] not in HELD_OUT_PAIRS
    }


# Frames --------------------------------------------------------------------------------------------------------------------


def test_a_seed_gives_the_same_bytes_on_every_machine():
    frames, times = render(Scene.from_seed(5, "dense"), 3, (96, 128))
    assert frames.shape == (3, 96, 128, 3) and frames.dtype == np.uint8
    assert times.tolist() == [0.0, 0.25, 0.5]
    assert hashlib.sha256(frames.tobytes()).hexdigest() == FRAMES_HASH


def test_seeds_splits_and_levels_give_different_scenes():
    chosen = [Scene.from_seed(1), Scene.from_seed(2), Scene.from_seed(1, split="test"), Scene.from_seed(1, "dense")]
    assert len({scene.objects for scene in chosen}) == len(chosen)
    assert Scene.from_seed(1) == Scene.from_seed(1)


def test_dice_choose_every_value_about_equally_often():
    dice = Dice(1)
    assert all(abs(count - 1000) < 150 for count in Counter(dice.below(6) for _ in range(6000)).values())
    assert sorted(dice.shuffled(range(9))) == list(range(9))


@pytest.mark.parametrize("level", ["sparse", "crowded"])
def test_the_same_events_are_seen_at_every_number_of_frames(level):
    scene = Scene.from_seed(11, level)
    asked = [*scene.subjects, *scene.counted]
    for num_frames in (4, 8, 16, 64):
        boxes = shapes.referent_boxes(asked, num_frames, 96)
        seen = ~np.isnan(boxes[..., 0])
        for found, row in zip(asked, seen, strict=True):
            halves = row[: num_frames // 2].any(), row[num_frames // 2 :].any()
            assert halves == {"early": (True, False), "late": (False, True), "always": (True, True)}[found.phase]
    common = [np.nanmean(shapes.referent_boxes(asked, n, 96), axis=1) for n in (32, 64)]
    np.testing.assert_allclose(*common, atol=2.0)  # pixels; early objects may gain or lose half a frame


@pytest.mark.parametrize("size", [(96, 96), (96, 160), (176, 96)])
def test_no_object_ever_covers_another_or_leaves_the_picture(size):
    scene = Scene.from_seed(4, "crowded")
    boxes = shapes.referent_boxes(scene.objects, NUM_TIMES, size)
    assert np.nanmin(boxes) >= 0
    assert np.nanmax(boxes[..., 2]) <= size[1] and np.nanmax(boxes[..., 3]) <= size[0]
    centres, radii = (boxes[..., :2] + boxes[..., 2:]) / 2, (boxes[..., 2] - boxes[..., 0]) / 2
    for one, other in itertools.combinations(range(len(boxes)), 2):
        apart = np.linalg.norm(centres[one] - centres[other], axis=-1)
        assert not (apart < radii[one] + radii[other]).any()


def test_every_object_shows_its_colour_where_its_box_is_and_nowhere_else():
    scene = Scene.from_seed(8, "dense")
    frames, _ = render(scene, 8, noise=False)
    nobody = render(replace(scene, objects=()), 8, noise=False)[0]
    boxes = shapes.referent_boxes(scene.objects, 8)
    outside = np.ones(frames.shape[:3], dtype=bool)
    for found, row in zip(scene.objects, boxes, strict=True):
        for index in np.flatnonzero(~np.isnan(row[:, 0])):
            left, top = np.floor(row[index, :2]).astype(int)
            right, bottom = np.ceil(row[index, 2:]).astype(int)
            inside = frames[index, top:bottom, left:right]
            assert (inside == COLOURS[found.colour]).all(axis=-1).sum() >= 5, found
            outside[index, max(top - 1, 0) : bottom + 1, max(left - 1, 0) : right + 1] = False
    np.testing.assert_array_equal(frames[outside], nobody[outside])


def test_every_shape_and_texture_looks_different():
    kinds = list(itertools.product(SHAPES, TEXTURES))
    masks = [sprite_cover(shape, texture, 34, 0, 0) / 16 for shape, texture in kinds]
    for (one, mask), (other, another) in itertools.combinations(zip(kinds, masks, strict=True), 2):
        assert np.abs(mask - another).sum() > 0.1 * min(mask.sum(), another.sum()), (one, other)


def test_patch_cover_adds_up_to_the_boxes_of_the_padded_frame():
    scene = Scene.from_seed(2)
    cover = shapes.patch_cover(scene.objects, 4, (96, 144), (12, 12))
    boxes = shapes.referent_boxes(scene.objects, 4, (96, 144))
    areas = np.nan_to_num((boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1]))
    np.testing.assert_allclose(cover.sum(axis=(2, 3)) * 12 * 12, areas, atol=1e-6)
    assert not cover[:, :, :2].any() and not cover[:, :, -2:].any()  # 24 grey rows above and below


# Answers -------------------------------------------------------------------------------------------------------------------


def named(scene, phrase):
    """Objects that words such as "striped red objects" fit, by what they look like."""
    singular = {plural: shape for shape, plural in SHAPES.items()}
    words = [singular.get(word, word) for word in phrase.split() if word not in ("object", "objects")]
    return [found for found in scene.objects if set(words) <= set(found.attributes)]


def pattern(template):
    escaped = re.escape(template).replace(r"\{", "{").replace(r"\}", "}")
    return re.compile(re.sub(r"\{(\w+)\}", lambda match: f"(?P<{match[1]}>[a-z ]+?)", escaped))


def watched(found):
    """Places (times, 2) of an object while it is seen, and when that is, looked up frame by frame."""
    times = np.array(scene_times(NUM_TIMES))
    box = shapes.referent_boxes([found], NUM_TIMES, 100)[0]
    is_seen = ~np.isnan(box[:, 0])
    return (box[is_seen, :2] + box[is_seen, 2:]) / 200, times[is_seen]


def seen_in(found):
    halves = {"early" if time < 0.5 else "late" for time in watched(found)[1]}
    return halves.pop() if len(halves) == 1 else "always"


def way_of(found):
    places, _ = watched(found)
    across, down = places[-1] - places[0]
    if abs(across) > abs(down):
        return "right" if across > 0 else "left"
    return "down" if down > 0 else "up"


def quarter_of(found):
    (x, y), *_ = watched(found)[0]
    return f"{'top' if y < 0.5 else 'bottom'} {'left' if x < 0.5 else 'right'}"


def first_time(found):
    return watched(found)[1][0]


def recomputed(scene, question):
    """The answer, found from the words of the question and from what is seen, and the objects that it is about."""
    matches = (pattern(template).fullmatch(question.text) for template in TEMPLATES[question.kind])
    words = next(match.groupdict() for match in matches if match)
    if question.kind == "vague":
        counts = Counter(found.colour for found in scene.objects).most_common(2)
        assert counts[0][1] >= counts[1][1] + 2
        return f"mostly {counts[0][0]} objects", ()
    if question.kind == "exist":
        there = named(scene, words["a_name"].split(" ", 1)[1])
        assert len(there) <= 1
        return "yes" if there else "no", tuple(there)
    if question.kind == "count":
        there = named(scene, words["names"])
        return ["none", "one", "two", "three", "four"][len(there)], tuple(there)
    (found,) = named(scene, words["name"])  # exactly one
    if question.kind == "order":
        (other,) = named(scene, words["other"])
        earlier, later = sorted((found, other), key=first_time)
        assert first_time(later) - first_time(earlier) > 0.25
        chosen = earlier if words["end"] == "first" else later
        return words["name"] if chosen is found else words["other"], (earlier, later)
    appearance = {"colour": found.colour, "shape": found.shape, "texture": found.texture}
    what = {"where": quarter_of, "when": seen_in, "motion": way_of}
    return appearance.get(question.kind) or what[question.kind](found), (found,)


def test_every_answer_is_right_and_every_referent_unique(scenes):
    kinds = Counter()
    for scene in scenes:
        for question in [*questions(scene), *questions(scene, max_per_kind=6)]:
            answer, referents = recomputed(scene, question)
            assert (question.answer, set(question.referents)) == (answer, set(referents)), question
            assert question.answer in question.options
            kinds[question.kind] += 1
    assert set(kinds) == set(shapes.KINDS)


def test_questions_are_the_same_every_time():
    assert questions(Scene.from_seed(9)) == questions(Scene.from_seed(9))


@pytest.mark.parametrize(
    "split",
    ["train", *(pytest.param(name, marks=pytest.mark.slow) for name in ("held_out", "held_out_pairs", "text"))],
)
def test_every_answer_of_a_kind_is_equally_likely(split, training_questions):
    asked = training_questions
    if split != "train":
        asked = [question for seed in range(500) for question in questions(Scene.from_seed(seed, "normal", split))]
    counts = defaultdict(Counter)
    for question in asked:
        is_order = question.kind == "order"
        counts[question.kind][question.options.index(question.answer) if is_order else question.answer] += 1
    assert set(counts) == set(shapes.KINDS)
    for kind, answers in counts.items():
        total, chance = sum(answers.values()), shapes.CHANCE[kind]
        if (split, kind) == ("held_out_pairs", "colour"):
            chance = 1 / len(HELD_OUT_PAIRS)  # each colour of one pair at most
        assert len(answers) == round(1 / chance)
        spread = (chance * (1 - chance) / total) ** 0.5
        assert max(answers.values()) / total < chance + 4 * spread, (kind, answers)


def test_chance_is_one_over_the_number_of_answers():
    expected = [1 / 8, 1 / 6, 1 / 4, 1 / 4, 1 / 3, 1 / 4, 1 / 2, 1 / 4, 1 / 2, 1 / 8]
    assert list(shapes.CHANCE.values()) == expected and list(shapes.CHANCE) == list(ANSWERS)


def test_only_the_naming_pair_is_reserved(scenes):
    """What is asked about is not missing elsewhere: other objects share each single attribute of the subjects."""
    shared = Counter()
    for scene in scenes:
        for found in scene.subjects if scene.density >= 0.5 else ():
            others = [other for other in scene.objects if other is not found]
            assert not any(found.name.fits(*other.attributes) for other in others)
            for key in ("colour", "shape", "texture"):
                shared[key] += any(getattr(other, key) == getattr(found, key) for other in others)
            shared["all"] += 1
    assert all(count >= 0.9 * shared["all"] for count in shared.values())


def test_a_scene_has_at_most_so_many_questions_of_a_kind(scenes):
    for scene in scenes:
        usual, more = (Counter(found.kind for found in questions(scene, most)) for most in (MAX_PER_KIND, 6))
        assert usual == {kind: min(number, MAX_PER_KIND) for kind, number in more.items()}


def test_a_theme_is_twice_as_common_as_any_other_colour_and_two_objects_more():
    scene = Scene.from_seed(0)
    for red, blue, theme in ((4, 2, "red"), (5, 3, ""), (2, 1, ""), (3, 0, "red"), (3, 8, "blue")):
        colours = ["red"] * red + ["blue"] * blue + ["green"]
        objects = tuple(SceneObject(colour, "circle", "solid", 0.5, 0.5) for colour in colours)
        assert replace(scene, objects=objects).theme == theme, (red, blue)


def test_more_questions_of_rare_kinds_are_right_and_ask_for_both_ends_of_an_order_and_in_all_words_for_the_theme(
    scenes,
):
    kinds = Counter()
    for scene in scenes:
        asked = rare_questions(scene)
        vague = [question.text for question in asked if question.kind == "vague"]
        assert vague == (list(TEMPLATES["vague"]) if scene.theme else [])
        for question in asked:
            answer, referents = recomputed(scene, question)
            assert (question.answer, set(question.referents)) == (answer, set(referents)), question
            kinds[question.kind] += 1
        order = [question for question in asked if question.kind == "order"]
        assert len(order) == 2 * min(MAX_RARE_PAIRS, len(order_pairs(scene.subjects)))
        for one, other in zip(order[::2], order[1::2], strict=True):
            assert set(one.options) == set(other.options) == {one.answer, other.answer}
    assert set(kinds) == {"order", "count", "vague"}


def still_object(number, start, end):
    return SceneObject("red", "circle", "solid", number / 100, 0.5, start=start, end=end)


@pytest.mark.parametrize(("num_first", "num_late"), list(itertools.product(range(4), range(4))))
def test_each_early_or_lasting_object_is_paired_once_with_each_late_one_new_ones_first(num_first, num_late):
    first = [still_object(number, 0.0, (0.4, 1.0)[number % 2]) for number in range(num_first)]
    late = [still_object(50 + number, 0.6, 1.0) for number in range(num_late)]
    moving = SceneObject("red", "circle", "solid", 0.2, 0.9, travel=(0.5, 0.0))
    pairs = order_pairs([moving, *late, *first])
    assert len(pairs) == num_first * num_late
    assert set(pairs) == set(itertools.product(first, late))
    fresh = [found for pair in pairs[: min(num_first, num_late)] for found in pair]
    assert len(set(fresh)) == len(fresh) == 2 * min(num_first, num_late)


# Splits --------------------------------------------------------------------------------------------------------------------


def test_the_splits_have_the_same_names_everywhere():
    assert get_args(Split) == shapes.SPLITS == shapes_command.SPLITS
    assert tuple(CODECS) == shapes_command.CODECS


def test_held_out_pairs_and_appearances_are_balanced_and_disjoint():
    for values in zip(*HELD_OUT_PAIRS, strict=True):
        assert len(set(values)) == len(values) == len(SHAPES)
    assert len(set(HELD_OUT_APPEARANCES)) == len(HELD_OUT_APPEARANCES) == 16
    assert set(HELD_OUT_APPEARANCES) <= all_appearances()
    for position, (values, each) in enumerate([(COLOURS, {2}), (SHAPES, {2, 3}), (TEXTURES, {4})]):
        counts = Counter(appearance[position] for appearance in HELD_OUT_APPEARANCES)
        assert set(counts) == set(values) and set(counts.values()) == each
    assert not {appearance[:2] for appearance in HELD_OUT_APPEARANCES} & set(HELD_OUT_PAIRS)


def test_training_shows_every_other_appearance_and_so_every_two_attributes_of_a_held_out_one():
    shown = set().union(*(appearances_of(Scene.from_seed(seed, "dense")) for seed in range(60)))
    assert shown == training_appearances() and len(shown) == 152
    for one, other in itertools.combinations(range(3), 2):
        together = {(appearance[one], appearance[other]) for appearance in shown}
        assert {(appearance[one], appearance[other]) for appearance in HELD_OUT_APPEARANCES} <= together


def test_held_out_pairs_and_appearances_are_neither_shown_nor_named_in_training(scenes, training_questions):
    phrases = [f"{colour} {name}" for colour, shape in HELD_OUT_PAIRS for name in (shape, SHAPES[shape])]
    phrases += [f"{texture} {colour} {shape}" for colour, shape, texture in HELD_OUT_APPEARANCES]
    named = [f"{question.text} {question.answer}" for question in training_questions]
    for split in ("train", "validation", "test"):
        for scene in (scene for scene in scenes if scene.split == split):
            assert appearances_of(scene) <= training_appearances()
            told = [*questions(scene, max_per_kind=6), *shapes.descriptions(scene)]
            named += [f"{question.text} {question.answer} {' '.join(question.options)}" for question in told]
        for seed in range(200):
            still = Scene.still(seed, split)
            assert appearances_of(still) <= training_appearances()
            named.append(shapes.caption(still))
    assert not [text for text in named if any(phrase in text.lower() for phrase in phrases)]


@pytest.mark.parametrize(
    ("split", "appearances"),
    [
        ("held_out", set(HELD_OUT_APPEARANCES)),
        ("held_out_pairs", {appearance for appearance in all_appearances() if appearance[:2] in HELD_OUT_PAIRS}),
    ],
)
def test_held_out_questions_are_about_what_training_never_shows(scenes, split, appearances):
    for scene in (scene for scene in scenes if scene.split == split):
        subjects = scene.subjects
        assert {found.attributes for found in subjects} <= appearances
        names = [scene.count_name, *scene.absent]
        assert all(any(name.fits(*appearance) for appearance in appearances) for name in names)
        for question in questions(scene, max_per_kind=6):
            assert question.kind == "count" or set(question.referents) <= set(subjects)
        if split == "held_out_pairs":
            assert all(name[:2] in HELD_OUT_PAIRS for name in names if name.texture is None)
        if scene.clutter == "dense":
            assert appearances_of(scene) & training_appearances()  # the clutter is of every kind
    assert all(appearances_of(Scene.still(seed, split)) <= appearances for seed in range(50))


def test_texts_may_be_about_every_appearance():
    shown = set().union(*(appearances_of(Scene.from_seed(seed, "dense", "text")) for seed in range(60)))
    asked = {found.attributes for seed in range(400) for found in Scene.from_seed(seed, "sparse", "text").subjects}
    pictured = set().union(*(appearances_of(Scene.still(seed, "text")) for seed in range(800)))
    assert shown == pictured == all_appearances()
    assert asked - training_appearances() and len(asked) > 0.95 * len(all_appearances())


# Texts ---------------------------------------------------------------------------------------------------------------------


def test_every_text_is_made_of_the_vocabulary(scenes):
    vocabulary = set(shapes.VOCABULARY)
    assert len(vocabulary) == len(shapes.VOCABULARY) < 128
    for scene in scenes:
        told = [*questions(scene), *shapes.descriptions(scene)]
        told += [shapes.multiple_choice(question) for question in questions(scene)]
        for question in told:
            assert set(shapes.split_words(f"{question.text} {question.answer}")) <= vocabulary
            assert " a orange" not in f" {question.text} {question.answer}".lower()
    for seed in range(50):
        assert set(shapes.split_words(shapes.caption(Scene.still(seed)))) <= vocabulary


def test_descriptions_tell_what_the_named_object_is():
    for seed in range(20):
        scene = Scene.from_seed(seed, split="test")
        for told in shapes.descriptions(scene):
            if len(told.referents) == 1 and told.referents[0] in scene.subjects:
                (found,) = told.referents
                assert found.name.phrase in told.text
                assert f"{found.texture} {found.colour} {found.shape}" in told.answer
                end = f"moves {way_of(found)}." if found.moves else f"at the {quarter_of(found)}, {seen_in(found)}."
                assert told.answer.endswith(end)


def test_a_caption_names_every_object_of_a_picture_in_reading_order():
    for seed in range(20):
        scene = Scene.still(seed)
        parts = shapes.caption(scene).rstrip(".").split(", ")
        assert len(parts) == len(scene.objects) <= 4
        places = [part.split(" at the ")[1] for part in parts]
        assert places == sorted(places, key=ANSWERS["where"].index)
        assert {part.split(" at the ")[1] for part in parts} == {quarter_of(found) for found in scene.objects}


def test_multiple_choice_keeps_the_instruction_and_puts_the_answer_anywhere(training_questions):
    letters = Counter()
    for key, question in enumerate(training_questions[:800]):
        choice = shapes.multiple_choice(question, key)
        for rules in ("general", "official"):
            assert extract_instruction(f"<video>\n{choice.text}", rules=rules).strip() == question.text
        assert f"\n{choice.answer}. {question.answer}\n" in choice.text
        letters[choice.answer] += len(choice.options) == 4
    assert max(letters.values()) < 0.3 * sum(letters.values())


# Files ---------------------------------------------------------------------------------------------------------------------


def decoded(path, side):
    transform = HiComVideoProcessor(size={"height": side, "width": side}).square_frame
    return read_video(str(path), FrameSampling(num_frames="all"), transform=transform)[0]


def looks_like(scene, found, frame, index, num_frames, size, side):
    """Attributes of the sprite that comes nearest to what a decoded, padded, resized frame shows in an object's box."""
    processor = HiComVideoProcessor(size={"height": side, "width": side})
    longer = max(size)
    margins = np.array([(longer - size[1]) // 2, (longer - size[0]) // 2] * 2)
    box = (shapes.referent_boxes([found], num_frames, size)[0, index] + margins) * side / longer
    (left, top), (right, bottom) = np.floor(box[:2]).astype(int), np.ceil(box[2:]).astype(int)
    window = (slice(top, bottom), slice(left, right))
    distances = {}
    for values in itertools.product(COLOURS, SHAPES, TEXTURES):
        alone = replace(found, colour=values[0], shape=values[1], texture=values[2], start=0.0, end=1.0)
        x, y = found.position((index + 0.5) / num_frames)
        only = replace(scene, objects=(replace(alone, x=x, y=y, travel=(0.0, 0.0)),))
        ideal = processor.square_frame(render(only, 1, size, noise=False)[0][0])
        distances[values] = ((ideal[window].astype(int) - frame[window]) ** 2).sum()
    return min(distances, key=distances.get)


@pytest.mark.parametrize(
    ("codec", "suffix", "size", "side"),
    [
        ("libx264", "mp4", (144, 144), 144),
        pytest.param("libx264", "mp4", (192, 192), 144, marks=pytest.mark.slow),
        pytest.param("libx264", "mp4", (144, 192), 192, marks=pytest.mark.slow),
        pytest.param("mpeg4", "avi", (144, 144), 144, marks=pytest.mark.slow),
        ("libvpx-vp9", "webm", (144, 144), 144),
    ],
)
def test_objects_can_be_told_apart_after_encoding_padding_and_resizing(tmp_path, codec, suffix, size, side):
    scene = Scene.from_seed(6, "dense", "held_out")
    frames, _ = render(scene, 8, size)
    path = shapes.write_video(tmp_path / f"scene.{suffix}", frames, codec=codec)
    read = np.asarray(decoded(path, side))
    assert len(read) == 8
    seen = [found for found in scene.objects if found.is_seen(5.5 / 8)][:8]
    right = [looks_like(scene, found, read[5], 5, 8, size, side) == found.attributes for found in seen]
    assert sum(right) >= len(seen) - 1


def test_a_data_set_passes_the_check_and_trains(tmp_path, processor):
    from hicom_hf.data.checking import check_data
    from hicom_hf.data.datasets import HiComDataset

    counts = shapes.write_dataset(tmp_path, 2, seed=3, clutter="sparse", num_frames=4, size=96)

    files = {"alignment.json", "pretraining.json", "tuning.json", "rare_kinds.json", "multiple_choice.json"}
    assert set(counts) == files
    for name, count in counts.items():
        report = check_data(tmp_path / name)
        assert (report.num_records, report.problems) == (count, [])
    item = HiComDataset(tmp_path / "tuning.json", encoder_of(processor, 4)).item(0)
    record = json.loads((tmp_path / "tuning.json").read_text())[0]
    scene = Scene.from_seed(**record["scene"])
    assert item.question == f"<video>\n{questions(scene)[0].text}"
    assert record["conversations"][1]["value"] == questions(scene)[0].answer
    sample = HiComDataset(tmp_path / "multiple_choice.json", encoder_of(processor, 4))[0]
    assert sample["pixel_values_videos"].shape[0] == 4


def test_a_data_set_may_say_how_many_frames_are_sampled_video_by_video(tmp_path, processor):
    from hicom_hf.data.datasets import HiComDataset

    settings = {"stage": "tuning", "clutter": "sparse", "num_frames": 8, "size": 64}
    shapes.write_dataset(tmp_path, 3, **settings, sampled_frames=(2, 4))
    records = json.loads((tmp_path / "tuning.json").read_text())
    asked = {record["video"]: record["num_frames"] for record in records}
    assert list(asked.values()) == [2, 4, 2]
    dataset = HiComDataset(tmp_path / "tuning.json", encoder_of(processor))
    for record, sample in zip(records[::9], [dataset[place] for place in range(0, len(records), 9)], strict=True):
        assert len(sample["pixel_values_videos"]) == record["num_frames"]
    with pytest.raises(ValueError, match=r"sampled_frames must be from 1 to the 8 frames of a video, got \(2, 9\)"):
        shapes.write_dataset(tmp_path / "more", 1, **settings, sampled_frames=(2, 9))


def test_an_interrupted_data_set_is_completed_and_the_rest_is_kept(tmp_path):
    settings = {"seed": 1, "stage": "tuning", "clutter": "sparse", "num_frames": 4, "size": 64}
    shapes.write_dataset(tmp_path, 2, **settings)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    kept, lost = (tmp_path / f"videos/{number:06d}.mp4" for number in range(2))
    stamp = kept.stat().st_mtime_ns
    lost.unlink()

    shapes.write_dataset(tmp_path, 2, **settings)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert kept.stat().st_mtime_ns == stamp
    shapes.write_dataset(tmp_path, 3, **settings)
    assert len(list(tmp_path.glob("videos/*.mp4"))) == 3
    with pytest.raises(ValueError, match=r"another world \(clutter 'sparse' there and 'dense' now\)"):
        shapes.write_dataset(tmp_path, 2, **{**settings, "clutter": "dense"})
    (tmp_path / "world.json").write_text("{")
    with pytest.raises(ValueError, match=r"world\.json: this note of how the folder was made is broken"):
        shapes.write_dataset(tmp_path, 2, **settings)


def test_a_folder_with_files_of_the_user_is_refused_and_left_as_it_is(tmp_path, capsys):
    for name in ("tuning.json", "alignment.json", "notes", "papers"):
        (tmp_path / name).write_text("mine")
    (tmp_path / ".hidden").touch()
    message = r"holds files that this command did not make \(alignment\.json, notes, papers, \.\.\.; there is no world"
    with pytest.raises(FileExistsError, match=message):
        shapes.write_dataset(tmp_path, 1)
    assert main(["shapes", "make", str(tmp_path), "--videos", "1"]) == 1
    assert "choose a new folder" in capsys.readouterr().err
    assert len(list(tmp_path.iterdir())) == 5 and (tmp_path / "tuning.json").read_text() == "mine"


def test_a_video_that_cannot_be_encoded_leaves_nothing_behind(tmp_path):
    with pytest.raises(ValueError, match="even height and width"):
        shapes.write_video(tmp_path / "odd.mp4", np.zeros((2, 51, 64, 3), dtype=np.uint8))
    with pytest.raises(ValueError, match="codec must be one of libx264"):
        shapes.write_video(tmp_path / "a.mp4", np.zeros((2, 64, 64, 3), dtype=np.uint8), codec="gif")
    with pytest.raises(ValueError, match="frames must be uint8"):
        shapes.write_video(tmp_path / "a.mp4", np.zeros((2, 64, 64, 3)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stage": "play"}, "stage must be one of alignment"),
        ({"num_videos": 0}, "num_videos must be from 1"),
        ({"size": 65}, "size must be even"),
        ({"size": 20}, "size must be at least 48"),
        ({"codec": "gif"}, "codec must be one of"),
        ({"split": "dev"}, "split must be one of train"),
        ({"seed": -1}, "seed must be 0 or above, got -1$"),
        ({"clutter": "full"}, "clutter must be one of sparse"),
        ({"num_frames": 0}, "num_frames must be at least 1"),
        ({"fps": 0}, "fps must be above 0"),
        ({"fps": 1e-4}, "fps must be at least 1/1000, a frame in 1000 seconds; got 0.0001"),
        ({"clutter": 1.5}, "clutter as a number must be from 0 to 1"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_written(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        shapes.write_dataset(tmp_path / "new", **{"num_videos": 1, **change})
    assert not (tmp_path / "new").exists()


def test_frames_that_cannot_be_drawn_are_refused():
    with pytest.raises(ValueError, match="num_frames must be at least 1"):
        render(Scene.from_seed(0), 0)
    with pytest.raises(ValueError, match="fps must be above 0"):
        render(Scene.from_seed(0), 2, fps=0)
    with pytest.raises(ValueError, match="no options to choose from"):
        shapes.multiple_choice(shapes.descriptions(Scene.from_seed(0))[0])
    with pytest.raises(ValueError, match="unknown shape 'star'"):
        sprite_cover("star", "solid", 34, 0, 0)
    with pytest.raises(ValueError, match="unknown texture 'plaid'"):
        sprite_cover("circle", "plaid", 34, 0, 0)


def test_the_command_makes_a_data_set_and_shows_a_scene(tmp_path, capsys):
    from hicom_hf.cli.main import main

    folder, picture = tmp_path / "made", tmp_path / "scene.png"
    arguments = ["--videos", "1", "--clutter", "0.02", "--frames", "4", "--size", "64", "96", "--stage", "pretraining"]
    assert main(["shapes", "make", str(folder), *arguments]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith(f"{folder}/pretraining.json\t")
    assert np.asarray(decoded(folder / "videos/000000.mp4", 96)).shape == (4, 96, 96, 3)

    assert main(["shapes", "show", str(picture), "--clutter", "normal", "--frames", "2", "--size", "64"]) == 0
    assert "normal\tmotion\t" in capsys.readouterr().out
    assert picture.stat().st_size > 0
    assert main(["shapes", "show", str(picture), "--size", "64", "64", "64"]) == 2
    assert "takes one or two numbers" in capsys.readouterr().err
    assert main(["shapes", "show", str(tmp_path / "nowhere" / "scene.png")]) == 1
    assert "nowhere/scene.png: the picture cannot be written there" in capsys.readouterr().err
    assert main(["shapes", "make", str(folder), "--videos", "1", "--seed", "-1"]) == 2
    assert "argument --seed: must be from 0 to 9223372036854775807, got -1" in capsys.readouterr().err
    assert main(["shapes", "make", str(folder), "--videos", "1", "--codec", "gif"]) == 2
    assert "argument --codec: invalid choice: 'gif'" in capsys.readouterr().err
