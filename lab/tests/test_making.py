"""How hicom-tiny is made: labels of patches and phrases, contexts of packed words, scores, and all steps at minuscule size."""

import json
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from hicom_hf.assembly.from_parts import assemble
from hicom_hf.hub.loading import load_model, load_processor
from hicom_hf.shapes import (
    VOCABULARY,
    Name,
    Question,
    Scene,
    padded_boxes,
    patch_cover,
    questions,
    render,
    split_words,
    write_dataset,
)
from hicom_hf.shapes.dice import Dice
from hicom_hf.shapes.objects import SceneObject
from hicom_hf.shapes.words import COLOURS
from lab.hicom_tiny import attention_figures, evaluating, optimizing, packed_contexts, record, towers
from lab.hicom_tiny.data_sets import FILES, STAGES, TRAINING, Dataset, write_datasets
from lab.hicom_tiny.evaluating import CONDITIONS, MORE_UNSEEN, Condition, as_markdown, evaluate
from lab.hicom_tiny.language_model import (
    LanguageTraining,
    PackedReader,
    encode_texts,
    save_language_model,
    train_language_model,
)
from lab.hicom_tiny.making import Budget, make_tiny, stage_recipe
from lab.hicom_tiny.packed_contexts import (
    CONDITIONAL,
    UNCONDITIONAL,
    ContextSettings,
    draw_packed,
    drawn_as,
    names_of,
    pack,
)
from lab.hicom_tiny.phrases import draw_name, draw_phrase
from lab.hicom_tiny.scoring import score, table
from lab.hicom_tiny.seen_scenes import GRID, read_seen_scenes
from lab.hicom_tiny.shipping import ship
from lab.hicom_tiny.sizes import INSTRUCTION_LENGTH
from lab.hicom_tiny.towers import (
    SURE_COVER,
    Towers,
    TowerTraining,
    draw_batch,
    save_siglip,
    scale_features,
    shifted,
    shifted_cover,
    varied,
)
from lab.hicom_tiny.word_tokenizers import instruction_tokenizer, llm_tokenizer

EXAMPLE = Path(__file__).parents[1] / "hicom_tiny" / "__main__.py"


def quiet(iterable, total, name):
    return iterable


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world") / "train"
    write_dataset(folder, 4, 3)
    return folder


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Untrained towers and LLM in their usual formats."""
    folder = tmp_path_factory.mktemp("parts")
    torch.manual_seed(0)
    save_siglip(Towers(), folder / "siglip")
    save_language_model(PackedReader(), folder / "llm")
    return folder


# Tokenizers ----------------------------------------------------------------------------------------------------------------


def test_every_word_of_the_world_is_one_token_and_comes_back():
    tokenizer = llm_tokenizer()
    text = "a striped red circle at the top left, early."
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    for word in VOCABULARY:
        assert tokenizer.tokenize(word) == [word]
    assert tokenizer("a robot")["input_ids"][-1] == tokenizer.unk_token_id


def test_instructions_lose_case_and_punctuation_and_are_padded_with_their_end():
    tokenizer = instruction_tokenizer(INSTRUCTION_LENGTH)
    ids = tokenizer("Where is the RED circle?", padding="max_length", truncation=True)["input_ids"]
    assert len(ids) == INSTRUCTION_LENGTH and tokenizer.convert_ids_to_tokens(ids[:5]) == split_words(
        "where is the red circle"
    )
    assert set(ids[5:]) == {tokenizer.eos_token_id}


def test_an_assembled_model_keeps_the_llms_own_tokenizer(parts):
    # AutoTokenizer alone would make a byte-pair tokenizer of it, because the LLM is a qwen2.
    _, processor = assemble(parts / "siglip", parts / "llm", {"num_global_tokens": 8})
    assert processor.tokenizer.tokenize("Where is the red circle?") == ["where", "is", "the", "red", "circle", "?"]


# Towers --------------------------------------------------------------------------------------------------------------------


def test_labels_say_whether_the_object_in_a_patch_fits_the_phrase(world, monkeypatch):
    monkeypatch.setattr(towers, "PALE", 0.0)
    scenes = read_seen_scenes(world, 2, quiet)
    batch = draw_batch(scenes[:1], TowerTraining(videos=1, frames=2, phrases=6), Dice(4))
    dice = Dice(4)  # drawn again, to know which frames were taken, and by how much they were shifted
    dice.choose(scenes[:1])
    times = dice.shuffled(range(8))[:2]
    shifts = [(dice.below(13) - 6, dice.below(13) - 6) for _ in times]
    assert all(shift != (0, 0) for shift in shifts)
    covers = shifted_cover(scenes[0].boxes[:, times], shifts)
    for frame in range(2):
        for patch in range(0, GRID[0] * GRID[1], 7):
            cover = covers[:, frame, patch]
            for column, phrase in enumerate(batch.phrases):
                fits = [
                    any(name.fits(*found.attributes) for name in phrase.names) for found in scenes[0].scene.objects
                ]
                sure = any(fit and share >= SURE_COVER for fit, share in zip(fits, cover, strict=True))
                touched = any(fit and share > 0 for fit, share in zip(fits, cover, strict=True))
                row = frame * GRID[0] * GRID[1] + patch
                assert batch.labels[row, column] == sure
                assert batch.judged[row, column] == (sure or not touched)
    labels, judged = (values.unflatten(0, (2, -1)) for values in (batch.labels, batch.judged))
    assert torch.equal(batch.frame_labels, labels.amax(1))
    # A frame counts if an object surely fits, or if none that fits touches any patch.
    assert torch.equal(batch.frame_judged, ((labels.amax(1) > 0) | (judged.amin(1) > 0)).float())


def test_a_shifted_frame_has_its_objects_where_its_labels_say():
    found = SceneObject("red", "square", "solid", 0.3, 0.6)
    scene = Scene(0, "train", 0.0, 0.0, (found,), None, (), ((40, 40, 40), 0, 0))
    frame = torch.from_numpy(render(scene, 1, noise=False)[0][0]).permute(2, 0, 1)
    boxes = padded_boxes([found], 1)
    for shift in (
        (0, 0),
        (6, -5),
        (-40, 0),
    ):  # to the right and down; the last one moves a part of it out of the frame
        moved, cover = shifted(frame, shift), shifted_cover(boxes, [shift])[0, 0].unflatten(0, GRID)
        red = (moved[0] > moved[1] + 40).unflatten(0, (GRID[0], -1)).unflatten(2, (GRID[1], -1)).float().mean((1, 3))
        assert red.any() and (cover[red > 0] > 0).all()
        assert (red - cover).abs().max() < 0.35  # a square fills 0.82 of its box along each axis


def test_the_loss_on_frames_counts_two_neighbouring_patches(world):
    scenes = read_seen_scenes(world, 1, quiet)
    batch = draw_batch(scenes, TowerTraining(videos=1, frames=1, phrases=1), Dice(4))
    batch.frame_labels, batch.frame_judged = torch.tensor([[1.0]]), torch.tensor([[1.0]])
    logits = torch.full((GRID[0] * GRID[1], 1), -9.0)
    logits[[5, 50]] = 9.0  # apart from each other
    apart = towers.frame_loss(logits, batch)
    logits[6] = 9.0
    assert towers.frame_loss(logits, batch) < 0.01 < 8 < apart


def test_phrases_are_words_of_the_world_and_fit_what_they_were_drawn_from():
    dice = Dice(1)
    tokenizer = instruction_tokenizer(INSTRUCTION_LENGTH)
    for _ in range(300):
        attributes = ("red", "moon", "dotted")
        names = [draw_name(attributes, dice), draw_name(("blue", "cross", "solid"), dice)]
        phrase = draw_phrase(names, dice)
        assert any(name.fits(*attributes) for name in phrase.names)
        ids = tokenizer(phrase.text)["input_ids"]
        assert tokenizer.unk_token_id not in ids and len(ids) <= INSTRUCTION_LENGTH


@torch.no_grad()
def test_scaling_features_leaves_the_aligned_ones_as_they_are():
    torch.manual_seed(0)
    vision = Towers().eval().vision
    pixels = torch.randn(2, 3, 144, 144)
    features, aligned = vision(pixels)
    scale_features(vision, 0.2)
    scaled, same = vision(pixels)
    torch.testing.assert_close(scaled, 0.2 * features, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(same, aligned, atol=2e-3, rtol=2e-3)  # layer norms have an epsilon


def test_varied_frames_keep_their_hues_and_texts_with_colours_are_not_judged_on_pale_ones(world, monkeypatch):
    frame = torch.tensor([[200, 10], [20, 120], [40, 30]], dtype=torch.uint8)[..., None].expand(3, 2, 4)
    grey = varied(frame, 0.0, 1.0, 0.0)
    assert (grey[0] == grey[1]).all() and (grey[1] == grey[2]).all() and grey[0, 0, 0] != grey[0, 1, 0]
    assert (varied(frame, 1.0, 1.0, 0.0) == frame).all()
    pale = varied(frame, 0.5, 1.1, 5.0)
    assert (pale.argmax(0) == frame.argmax(0)).all() and (pale.argmin(0) == frame.argmin(0)).all()

    scenes = read_seen_scenes(world, 2, quiet)
    for share_pale, least in ((0.0, 0.5), (1.0, 2.0)):  # none is pale, all are
        monkeypatch.setattr(towers, "PALE", share_pale)
        monkeypatch.setattr(towers, "LEAST_COLOUR", least)
        batch = draw_batch(scenes, TowerTraining(videos=2, frames=2, phrases=6), Dice(4))
        names_colour = torch.tensor([any(name.colour for name in phrase.names) for phrase in batch.phrases])
        assert 0 < names_colour.sum() < len(names_colour)
        assert batch.judged[:, ~names_colour].any()
        assert bool(batch.judged[:, names_colour].any()) == (share_pale == 0)


# Contexts ------------------------------------------------------------------------------------------------------------------


def one_sample(monkeypatch, sharpness):
    monkeypatch.setattr(packed_contexts, "LEAST_AMPLIFIED", 1.0)
    packed, raster = pack(Scene.from_seed(3, "dense")), (8, (2, 4, 4))
    draws = (
        packed_contexts._draw_sample(
            [packed], "question", *raster, ContextSettings(sharpness=(sharpness, sharpness)), Dice(seed)
        )
        for seed in range(9)
    )
    sample = next(sample for sample in draws if sample.question.referents)
    cover = torch.from_numpy(patch_cover(packed.scene.objects, 64)[:, 4::8]).float()  # 8 of 64 frames
    return packed, sample, cover


def test_a_group_without_sharpness_holds_objects_by_their_cover(monkeypatch):
    _, sample, cover = one_sample(monkeypatch, 0.0)  # cover (O, T, H, W)
    first = cover[:, :4, :3, :3].sum((1, 2, 3))
    expected = first / max(36.0, float(first.sum()) + 0.5)
    gain = 1 / packed_contexts.OBJECT_SHARE  # an object that one can see well comes to 1
    torch.testing.assert_close(sample.weights[0, :-1], gain * expected, atol=2e-2, rtol=1e-2)
    torch.testing.assert_close(
        sample.weights[:, :-1].sum(-1) / gain + sample.weights[:, -1], torch.ones(len(sample.weights))
    )


def test_a_sharp_context_shows_what_is_asked_for_wherever_it_is(monkeypatch):
    packed, sample, cover = one_sample(monkeypatch, 7.0)
    asked = torch.tensor([found in sample.question.referents for found in packed.scene.objects])
    cover = cover[asked].reshape(-1, 2, 4, 4, 3, 4, 3).sum((0, 2, 4, 6)).reshape(-1)
    on_it = sample.weights[:32, :-1][:, asked].sum(-1)
    assert on_it[cover > 1].min() > 0.9
    assert on_it[cover == 0].max() == 0


def test_what_a_question_names_is_known_also_when_it_is_not_there():
    scene = Scene.from_seed(11, "normal")
    for question in questions(scene):
        names = names_of(question, scene)
        if question.kind == "vague":
            assert names == (Name(None, None, None),)
        else:
            assert all(name.phrase in question.text or name.plural in question.text for name in names)


def test_prompts_have_a_place_for_every_token_of_their_context():
    scenes, pictures = [pack(Scene.from_seed(seed)) for seed in range(3)], [pack(Scene.still(1), (1,))]
    tokenizer, dice = llm_tokenizer(), Dice(5)
    reader = PackedReader()
    for raster, size in (((8, (2, 4, 4)), 6), ((32, (8, 4, 4)), 3), ((1, (1, 4, 4)), 6), ((8, (1, 2, 2)), 6)):
        for sharpness, fill in ((CONDITIONAL, 1.0), (UNCONDITIONAL, 0.5)):
            batch = draw_packed(scenes, pictures, 6, ContextSettings(fill, sharpness), dice, raster)
            assert len(batch.questions) == size  # fewer of long ones
            encoded = encode_texts(batch, tokenizer)
            video = tokenizer.convert_tokens_to_ids("<|video_pad|>")
            assert ((encoded.input_ids == video).sum(1) == batch.present.sum(1)).all()
            assert tokenizer.unk_token_id not in encoded.input_ids
            answer = tokenizer.decode(encoded.labels[0][encoded.labels[0] >= 0], skip_special_tokens=True)
            assert split_words(answer) == split_words(batch.questions[0].answer)
            loss, right = reader(batch, encoded, 1.0)
            assert torch.isfinite(loss) and right.shape == (size,)


def test_without_variety_contexts_have_one_raster_and_are_fully_amplified():
    scenes, pictures = [pack(Scene.from_seed(seed, "sparse")) for seed in range(4)], [pack(Scene.still(1), (1,))]
    for variety, same in ((0.0, True), (1.0, False)):
        dice = Dice(7)
        batches = [draw_packed(scenes, pictures, 4, ContextSettings(variety=variety), dice) for _ in range(20)]
        assert ({batch.weights.shape[1] for batch in batches} == {32 + packed_contexts.NUM_QUERIES}) == same
        assert (torch.cat([batch.strengths for batch in batches]).min() == 1) == same


def test_the_llm_reads_fewer_unconditional_contexts_and_fuller_scenes_in_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(optimizing, "LOG_EVERY", 1)
    scenes, pictures = [pack(Scene.from_seed(seed, "sparse")) for seed in range(3)], [pack(Scene.still(1), (1,))]
    log = optimizing.TrainingLog(tmp_path / "log.jsonl", "LLM")
    train_language_model(scenes, scenes, pictures, LanguageTraining(steps=120, batch_size=1), 0, log)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    unconditional = ["unconditional/right" in line for line in lines]
    assert sum(unconditional[:50]) > 28 > sum(unconditional[-40:]) + 4 > 10  # 70 % and 40 %
    fills = [line["fill"] for line in lines]
    assert fills[50] < 0.1 and fills[-1] == 1 and fills == sorted(fills)


def test_the_rate_rises_is_held_and_falls():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.0)
    for held, highest in ((0.0, 1), (0.6, 12)):  # steps at the highest rate, of 20 of which the first is the rise
        rates = []
        for step in range(20):
            optimizing.rate_at([optimizer], 2.0, step, 20, held)
            rates.append(optimizer.param_groups[0]["lr"])
        assert max(rates) == 2.0 and rates.count(2.0) == highest + 1
        assert rates[highest:] == sorted(rates[highest:], reverse=True) and 0 < rates[-1] < 0.3


def test_kinds_of_questions_are_drawn_as_often_as_their_weights_say():
    scenes, dice = [pack(Scene.from_seed(seed)) for seed in range(6)], Dice(3)
    settings = ContextSettings(0.5, kind_weights={"where": 50.0, "exist": 0.0})
    batches = [draw_packed(scenes, [], 32, settings, dice, (8, (2, 4, 4))) for _ in range(8)]
    kinds = [question.kind for batch in batches for question in batch.questions]
    kinds = [kind for kind in kinds if kind != "description"]
    assert kinds.count("where") > 0.7 * len(kinds) and "exist" not in kinds


def test_orders_are_drawn_apart_where_a_word_for_one_object_fits_the_other_too():
    names = (Name("red", "circle", None), Name(None, "moon", "dotted"))
    for texture, colour, expected in (
        ("solid", "blue", "order"),
        ("dotted", "blue", "order of alike objects"),
        ("solid", "red", "order of alike objects"),
    ):
        first = SceneObject("red", "circle", texture, 0.3, 0.3, name=names[0])
        last = SceneObject(colour, "moon", "dotted", 0.7, 0.7, name=names[1])
        for referents in ((first, last), (last, first)):
            assert drawn_as(Question("order", "?", "the red circle", referents=referents)) == expected
    assert drawn_as(Question("where", "?", "top left", referents=(first,))) == "where"


def test_themes_are_asked_of_parts_of_a_scene_and_are_those_of_the_part():
    packed, colours = pack(Scene.from_seed(5, "dense")), list(COLOURS)
    assert packed.scene.theme
    means = []
    for fill in (0.2, 1.0):
        settings = ContextSettings(fill, variety=0.0, kind_weights={"vague": 100.0})
        batch = draw_packed([packed], [], 200, settings, Dice(4), (8, (2, 4, 4)))
        sizes = []
        for question, weights, attributes in zip(batch.questions, batch.weights, batch.attributes, strict=True):
            if question.kind != "vague":
                continue
            seen = attributes[(weights[:, :-1] > 0).any(0), 0].bincount(minlength=len(colours))
            most, second = seen.topk(2).values
            assert question.answer == f"mostly {colours[seen.argmax()]} objects" and most > second
            sizes.append(int(seen.sum()))
        assert len(set(sizes)) > 5
        means.append(sum(sizes) / len(sizes))
    assert means[0] < 0.5 * means[1] < 0.5 * 0.8 * len(packed.scene.objects)


def test_what_a_text_names_stands_out_in_conditional_contexts_alone(monkeypatch):
    monkeypatch.setattr(packed_contexts, "LEAST_AMPLIFIED", 1.0)
    scenes, dice = [pack(Scene.from_seed(seed, "dense")) for seed in range(6)], Dice(4)
    ratios = {}
    for name, sharpness in (("conditional", CONDITIONAL), ("unconditional", (0.0, 0.0))):
        batches = [
            draw_packed(scenes, [], 32, ContextSettings(0.9, sharpness), dice, (8, (2, 4, 4))) for _ in range(3)
        ]
        # the two largest objects of each sample
        largest = [batch.weights[:, :32, :-1].amax(1).topk(2).values for batch in batches]
        first, second = torch.cat(largest).median(0).values
        assert 0.7 < first < 3  # amplified alike
        ratios[name] = second / first
    assert ratios["conditional"] < 0.6 < ratios["unconditional"]


def test_what_is_not_fully_amplified_has_as_much_less_noise():
    torch.manual_seed(0)
    scenes, raster = [pack(Scene.from_seed(1))], (8, (2, 4, 4))
    assert (
        draw_packed(scenes, [], 32, ContextSettings(), Dice(4), raster).strengths.min() > 0.8
    )  # sharp contexts need little
    batch = draw_packed(scenes, [], 32, ContextSettings(sharpness=(0.0, 0.0)), Dice(4), raster)
    reader = PackedReader().eval()
    with torch.no_grad():
        spread = torch.stack([reader.embed(batch, 1.0) for _ in range(40)]).std(0).mean((1, 2))
    faint = batch.strengths < 0.55
    assert 4 < faint.sum() < 28
    assert spread[faint].mean() < 0.7 * spread[~faint].mean()


def test_scenes_hold_all_that_is_asked_about_and_clutter_as_the_dial_says():
    scene = Scene.from_seed(1, "dense")
    named = sum(found.name is not None for found in scene.objects)
    for fill in (0.05, 0.6, 1.0):
        settings = ContextSettings(fill, kind_weights={"vague": 0.0})
        batch = draw_packed([pack(scene)], [], 32, settings, Dice(4), (8, (2, 4, 4)))
        objects = (batch.weights[..., :-1] > 0).any(1).sum(1)
        clutter = (objects - named) / (len(scene.objects) - named)
        assert clutter.min() >= 0
        assert abs(clutter.float().mean() - fill) < 0.1


def test_objects_are_in_the_same_places_at_every_number_of_frames():
    packed = pack(Scene.from_seed(4, "dense"))
    assert {count: cover.shape[1] for count, cover in packed.cover.items()} == {8: 8, 16: 16, 32: 32, 64: 64}
    per_frame = [cover.float().mean(1) for cover in packed.cover.values()]
    for other in per_frame[:-1]:
        assert (other - per_frame[-1]).abs().max() < 1.5  # patches; what comes and goes is sampled more or less finely


def test_more_and_longer_videos_are_for_instruction_tuning_alone(tmp_path):
    datasets = Budget().datasets
    for stage in STAGES:
        files = stage_recipe(stage, tmp_path, tmp_path / "data", datasets, 0).data.files
        names = {Path(file).parent.name for file in files}
        assert names == {dataset.name for dataset in (TRAINING if stage != STAGES[-1] else datasets)}
        assert {Path(file).name for file in files} == set(FILES[stage])


def test_no_training_has_seen_the_scenes_of_evaluation():
    assert "train" not in {one.dataset.settings["split"] for one in (*CONDITIONS, MORE_UNSEEN)}
    assert all("split" not in dataset.settings for dataset in Budget().datasets)  # these are of "train"
    assert MORE_UNSEEN.dataset.seed not in {one.dataset.seed for one in CONDITIONS}


@pytest.mark.slow
def test_data_that_were_made_in_another_way_are_refused(tmp_path):
    dataset = Dataset("few", 1, 3, {"stage": "tuning", "clutter": "sparse"})
    write_datasets(tmp_path, [dataset])
    write_datasets(tmp_path, [dataset])
    with pytest.raises(ValueError, match=r"few holds another world \(clutter 'sparse' there and 'dense' asked for"):
        write_datasets(tmp_path, [replace(dataset, settings={"stage": "tuning", "clutter": "dense"})])


@pytest.mark.slow
def test_scoring_needs_no_trainer():
    code = "import sys; sys.modules['accelerate'] = None; import lab.hicom_tiny.evaluating"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_condition_that_there_is_not_is_named(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["evaluating", "model", "data", "--only", "no such row"])
    with pytest.raises(SystemExit):
        evaluating.main()
    assert "argument --only: invalid choice: 'no such row'" in capsys.readouterr().err


@pytest.mark.parametrize(("module", "others"), [(evaluating, ["data"]), (attention_figures, [])])
def test_a_model_that_there_is_not_is_named(module, others, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["command", "nowhere/model", *others])
    with pytest.raises(SystemExit):
        module.main()
    assert "error: nowhere/model" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_without_git_or_in_another_repository_there_is_no_commit(tmp_path, monkeypatch):
    assert record.commit() is None or len(record.commit().rstrip("+")) == 40
    copy = tmp_path / "site" / "lab" / "hicom_tiny" / "record.py"
    copy.parent.mkdir(parents=True)
    copy.write_text("")
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "-C", str(tmp_path), *author, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    monkeypatch.setattr(record, "__file__", str(copy))
    assert record.commit() is None


# All of it -----------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_everything_runs_at_minuscule_size_and_is_not_repeated(tmp_path):
    datasets = (Dataset("train", 2, 0, {}), Dataset("wide", 2, 1, {"size": (144, 192)}))
    budget = Budget(
        datasets=datasets,
        tower_datasets=datasets,
        tower_videos=2,
        packed_scenes=3,
        towers=TowerTraining(steps=2, videos=2),
        language=LanguageTraining(steps=2, batch_size=4),
        stages=(("max_steps=2", "batch_size=4", "batch_size_per_device=4", "logging.every=1"),) * 3,
    )
    model_folder = make_tiny(tmp_path, 0, budget, threads=1)
    made_with = json.loads((tmp_path / "made_with.json").read_text())
    assert made_with["seed"] == 0 and {"data", "towers and LLM", "alignment"} <= set(made_with["seconds"])
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    assert make_tiny(tmp_path, 0, budget, threads=1) == model_folder
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    assert made_with == json.loads((tmp_path / "made_with.json").read_text())
    assert {step["command"] for step in made_with["steps"].values()} == {" ".join(sys.argv)}
    with pytest.raises(ValueError, match=r"holds a run with another seed \(0 there, 1 now\)"):
        make_tiny(tmp_path, 1, budget, threads=1)
    with pytest.raises(ValueError, match="holds a run with another budget"):
        make_tiny(tmp_path, 0, replace(budget, packed_scenes=4), threads=1)

    model, processor = load_model(model_folder, "cpu", "float32"), load_processor(model_folder)
    assert not model.config.untrained_parts
    scored = score(model, processor, tmp_path / "data" / "train" / "tuning.json", limit=20)
    assert len(scored) == 20 and len({one.id for one in scored}) == 20
    rows = table(scored)
    assert rows["all"]["questions"] == 20 and rows["all"]["right"] == 5.0 * sum(one.is_right for one in scored)

    losses = runpy.run_path(str(EXAMPLE))["draw_losses"](tmp_path)
    with Image.open(losses) as picture:
        assert picture.size[0] > 1000
    few = Condition("two videos", Dataset("test", 2, 9, {"split": "test", "stage": "tuning"}))
    results = evaluate(model_folder, tmp_path / "data", [few])
    assert "| two videos | " in as_markdown(results) and "| chance | 12.5 |" in as_markdown(results)

    with pytest.raises(FileNotFoundError, match=r"scores\.json: it is missing"):
        ship(tmp_path, tmp_path / "shipped")
    (tmp_path / "scores.json").write_text(json.dumps(results))
    shipped = ship(tmp_path, tmp_path / "shipped")
    assert not list(shipped.rglob("*.py")) and "--seed 0" in (shipped / "README.md").read_text()
    assert len(json.loads((shipped / "made_with.json").read_text())["sha256"]) == 64
    assert load_model(shipped, "cpu").num_parameters() == model.num_parameters()
