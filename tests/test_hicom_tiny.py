"""What only trained weights can show: hicom-tiny answers correctly, attends to what the question names, and is as accurate
after saving, as remote code, in 8 bits and with adapters."""

import json
import subprocess
import sys
from pathlib import Path
from statistics import mean

import pytest
import torch
from transformers import pipeline

from hicom_hf.assets import hicom_tiny
from hicom_hf.evaluation.evaluating import evaluate
from hicom_hf.evaluation.runner import Asking
from hicom_hf.hub.loading import load_model, load_processor
from hicom_hf.hub.saving import save_hub_folder
from hicom_hf.inference import HiComSession, attention_fraction, attention_maps
from hicom_hf.modeling.modeling_hicom import HiComForConditionalGeneration
from hicom_hf.processors.answering_hicom import encode_video, read_frames
from hicom_hf.shapes import Scene, patch_cover, questions, render, write_dataset, write_video
from hicom_hf.training.recipe_reading import read_recipe
from hicom_hf.training.run import run_recipe
from lab.hicom_tiny.attention_figures import RED_CIRCLE_SCENES, SCENES, times_even
from lab.hicom_tiny.scoring import BATCH_SIZE, score

TEST_SEED = 77
# docs/hicom_tiny.md has the accuracy on many more questions; a hundred scatter by 2 points.
LEAST_RIGHT = 0.92
LEAST_RIGHT_HELD_OUT = {"held_out": 0.88, "held_out_pairs": 0.7}  # chance is 28 %


@pytest.fixture(scope="module")
def tiny():
    return load_model(hicom_tiny(), "cpu", "float32")


@pytest.fixture(scope="module")
def tiny_processor():
    return load_processor(hicom_tiny())


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Ten unseen videos with about 140 questions."""
    folder = tmp_path_factory.mktemp("videos")
    write_dataset(folder, 10, TEST_SEED, split="test", stage="tuning")
    return folder


def share_right(scored):
    return sum(one.is_right for one in scored) / len(scored)


@pytest.fixture(scope="module")
def accuracy(tiny, tiny_processor, videos):
    return share_right(score(tiny, tiny_processor, videos / "tuning.json"))


def test_questions_about_unseen_videos_are_answered_rightly(accuracy):
    assert accuracy >= LEAST_RIGHT


@pytest.mark.slow
@pytest.mark.parametrize("split", LEAST_RIGHT_HELD_OUT)
def test_questions_about_what_training_never_showed_are_answered_rightly(tiny, tiny_processor, tmp_path, split):
    write_dataset(tmp_path, 10, TEST_SEED, split=split, stage="tuning")
    assert share_right(score(tiny, tiny_processor, tmp_path / "tuning.json")) >= LEAST_RIGHT_HELD_OUT[split]


@pytest.mark.slow
def test_all_questions_give_the_stored_scores_but_for_near_ties(tmp_path):
    asking = Asking(batch_size=BATCH_SIZE)
    [summary] = evaluate(["shapes"], HiComSession.load(dtype="float32", device="cpu"), tmp_path, asking=asking)
    stored = json.loads((hicom_tiny() / "scores.json").read_text())["unseen videos"]
    everything = stored.pop("all")
    assert summary["num_questions"] == everything["questions"] == 3050
    found = {kind: summary["categories"]["kind"][kind] for kind in stored}
    assert {kind: row["num_questions"] for kind, row in found.items()} == {
        kind: row["questions"] for kind, row in stored.items()
    }
    differing = {
        kind: round((row["mean"] - stored[kind]["right"]) / 100 * row["num_questions"]) for kind, row in found.items()
    }
    # Other CPUs, and other batch sizes, round otherwise: on AVX2 one near tie comes out otherwise than with AVX-512.
    assert sum(map(abs, differing.values())) <= 3


def test_a_batch_of_questions_about_several_videos_gets_the_right_answers(videos):
    records = json.loads((videos / "tuning.json").read_text())[::9]
    pipe = pipeline("video-text-to-text", model=str(hicom_tiny()))
    asked = [record["conversations"][0]["value"].removeprefix("<video>\n") for record in records]
    paths = [str(videos / record["video"]) for record in records]
    chats = [
        [{"role": "user", "content": [{"type": "video", "path": path}, {"type": "text", "text": question}]}]
        for path, question in zip(paths, asked, strict=True)
    ]
    outputs = pipe(text=chats, batch_size=8, max_new_tokens=16, return_full_text=False)
    told = [
        output[0]["generated_text"] if isinstance(output, list) else output["generated_text"] for output in outputs
    ]
    right = [
        answer == record["conversations"][1]["value"].lower() for answer, record in zip(told, records, strict=True)
    ]
    assert len(right) >= 10 and sum(right) >= len(right) - 1


@pytest.fixture(scope="module")
def shares(tiny, tiny_processor):
    # The global branch puts much on few places, so its mean takes many questions to settle.
    return times_even(tiny, tiny_processor, SCENES[:16])


@pytest.mark.slow
@pytest.mark.parametrize(
    "branch",
    [
        "local",
        pytest.param(
            "global",
            marks=pytest.mark.xfail(strict=True, reason='2.4 with these weights: docs/hicom_tiny.md, "Attention"'),
        ),
    ],
)
def test_attention_lies_on_what_the_question_names(shares, branch):
    assert len(shares[branch]) > 150
    assert mean(shares[branch]) >= 3


def test_the_attention_of_questions_about_the_red_circle_lies_on_the_red_circle(tiny, tiny_processor):
    # No training has ever shown a red circle.
    found = times_even(tiny, tiny_processor, RED_CIRCLE_SCENES[:30], "the red circle")["local"]
    assert len(found) >= 8
    assert mean(found) >= 3


def test_another_question_moves_the_attention(tiny, tiny_processor, tmp_path):
    scene = Scene.from_seed(1, "normal", "test")
    one, other = [question for question in questions(scene) if question.kind in ("where", "when")][:2]
    assert one.referents != other.referents
    path = write_video(tmp_path / "video.mp4", render(scene)[0])
    frames = read_frames(tiny_processor, path)
    video = encode_video(tiny, frames)
    for asked, rest in ((one, other), (other, one)):
        maps = attention_maps(tiny, tiny_processor, video, asked.text)
        named, unnamed = (
            patch_cover(question.referents, 16, grid=tiny.config.grid)[0, frames.sampling.indices]
            for question in (asked, rest)
        )
        assert (
            attention_fraction(maps.local_map, named).times_even
            > attention_fraction(maps.local_map, unnamed).times_even
        )


def test_saved_and_loaded_it_answers_the_same(tiny, tiny_processor, tmp_path):
    write_dataset(tmp_path, 2, TEST_SEED, split="test", stage="tuning")
    save_hub_folder(tiny, tiny_processor, tmp_path / "model")
    before, after = (
        score(model, processor, tmp_path / "tuning.json")
        for model, processor in (
            (tiny, tiny_processor),
            (load_model(tmp_path / "model", "cpu"), load_processor(tmp_path / "model")),
        )
    )
    assert after == before


REMOTE = """
import json, sys
for blocked in ("hicom_hf", "torchvision", "torchcodec"):
    sys.modules[blocked] = None
from transformers import pipeline
pipe = pipeline("video-text-to-text", model=sys.argv[1], trust_remote_code=True)
chats = json.loads(sys.argv[2])
print(json.dumps([pipe(text=chat, max_new_tokens=16, return_full_text=False)[0]["generated_text"] for chat in chats]))
"""


@pytest.mark.slow
def test_as_remote_code_without_the_package_it_answers_rightly(tiny, tiny_processor, videos, tmp_path):
    save_hub_folder(tiny, tiny_processor, tmp_path / "model")
    records = json.loads((videos / "tuning.json").read_text())[:12]
    chats = [
        [
            {
                "role": "user",
                "content": [
                    {"type": "video", "path": str(videos / record["video"])},
                    {"type": "text", "text": record["conversations"][0]["value"].removeprefix("<video>\n")},
                ],
            }
        ]
        for record in records
    ]
    done = subprocess.run(
        [sys.executable, "-c", REMOTE, str(tmp_path / "model"), json.dumps(chats)],
        capture_output=True,
        text=True,
        env={"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "PATH": str(Path(sys.executable).parent)},
    )
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout.splitlines()[-1])
    expected = [record["conversations"][1]["value"].lower() for record in records]
    assert sum(map(str.__eq__, answers, expected)) >= len(records) - 1


@pytest.mark.slow
def test_in_8_bits_it_answers_as_rightly(tiny_processor, videos, accuracy):
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    quantized = HiComForConditionalGeneration.from_pretrained(
        hicom_tiny(), quantization_config=BitsAndBytesConfig(load_in_8bit=True)
    )
    assert share_right(score(quantized, tiny_processor, videos / "tuning.json")) >= accuracy - 0.02


# A kind of question that it was never asked: does something move? ---------------------------------------------------------


def write_moving_questions(folder, num_videos, seed, split):
    """Videos, and for each subject whether it moves; as many that do as that do not."""
    write_dataset(folder, num_videos, seed, split=split, stage="tuning", clutter="normal")
    records = []
    for number in range(num_videos):
        scene = Scene.from_seed(seed * 1_000_000 + number, "normal", split)
        moving = [found for found in scene.subjects if found.moves]
        still = [found for found in scene.subjects if not found.moves][: len(moving)]
        for place, found in enumerate([*moving[: len(still)], *still]):
            records.append(
                {
                    "id": f"{number}-{place}",
                    "kind": "moves",
                    "video": f"videos/{number:06d}.mp4",
                    "conversations": [
                        {"from": "human", "value": f"<video>\nDoes the {found.name.phrase} move?"},
                        {"from": "gpt", "value": "yes" if found.moves else "no"},
                    ],
                }
            )
    (folder / "moves.json").write_text(json.dumps(records))
    known = json.loads((folder / "tuning.json").read_text())
    (folder / "known.json").write_text(json.dumps(known[:: max(1, len(known) // len(records))]))  # against forgetting
    return folder / "moves.json"


LORA_RECIPE = """
stage: instruction_tuning
model: {model}
output_dir: {output}
data:
  files: ["{folder}/moves.json", "{folder}/known.json"]
  num_frames: 8
  max_length: 512
  num_workers: 0
  feature_cache: "{output}/features"
learning_rates: {{compressor: 1e-4, injection: 1e-4, language_model: 2e-3}}
batch_size: 32
batch_size_per_device: 32
epochs: 100
max_steps: 240
precision: fp32
gradient_checkpointing: false
cpu: true
attn_implementation: eager
lora: {{rank: 16, alpha: 32, dropout: 0.0}}
logging: {{every: 60, progress_bar: false}}
"""


@pytest.mark.slow
def test_adapters_teach_it_a_new_kind_of_question(tiny, tiny_processor, videos, accuracy, tmp_path):
    from peft import PeftModel

    train = write_moving_questions(tmp_path / "train", 200, 5, "train")
    test = write_moving_questions(tmp_path / "test", 30, TEST_SEED, "test")
    before = share_right(score(tiny, tiny_processor, test))
    (tmp_path / "lora.yaml").write_text(
        LORA_RECIPE.format(model=hicom_tiny(), output=tmp_path / "lora", folder=train.parent)
    )
    torch.manual_seed(0)
    folder = run_recipe(read_recipe(tmp_path / "lora.yaml"))
    adapted = PeftModel.from_pretrained(load_model(hicom_tiny(), "cpu", "float32"), folder).merge_and_unload()
    after = share_right(score(adapted, tiny_processor, test))
    assert before < 0.5 and after >= 0.9  # of 82; with earlier weights 0 and 92.7 %
    assert share_right(score(adapted, tiny_processor, videos / "tuning.json")) >= accuracy - 0.04  # before: 3 lost
