"""The adapter for lmms-eval: conditions from the document, one encoding per video, odd requests refused by name.

lmms-eval itself is not installed here: a stand-in has the two names that are imported of it.
"""

import configparser
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from hicom_hf.assets import example_videos
from hicom_hf.evaluation.lmms_requests import cut, instruction_of, question_of
from hicom_hf.processors.instruction_hicom import extract_instruction

QUESTION = "What colour is the car?"


@pytest.fixture
def harness(monkeypatch):
    """`lmms_eval.api.model.lmms` and `lmms_eval.models.registry_v2.ModelManifest`."""

    class Lmms:
        def __init__(self):
            self.task_dict = {}

    @dataclass
    class Manifest:
        model_id: str
        chat_class_path: str

    for name, content in {
        "lmms_eval": {},
        "lmms_eval.api": {},
        "lmms_eval.api.model": {"lmms": Lmms},
        "lmms_eval.models": {},
        "lmms_eval.models.registry_v2": {"ModelManifest": Manifest},
    }.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    yield
    sys.modules.pop("hicom_hf.evaluation.lmms_model", None)


def messages(video, prompt):
    return [{"role": "user", "content": [{"type": "video", "url": str(video)}, {"type": "text", "text": prompt}]}]


def test_the_entry_point_names_a_class_of_a_chat_model(harness):
    config = configparser.ConfigParser()
    config.read(Path(__file__).parents[1] / "setup.cfg")
    name, _, target = config["options.entry_points"]["lmms_eval.models"].strip().partition(" = ")
    module, _, function = target.partition(":")
    manifest = getattr(import_module(module), function)()
    assert name == manifest.model_id == "hicom"
    path, _, class_name = manifest.chat_class_path.rpartition(".")
    assert getattr(import_module(path), class_name).is_simple is False


def test_answers_come_in_order_on_one_encoding_conditioned_on_the_document(harness, monkeypatch):
    model = import_module("hicom_hf.evaluation.lmms_model").HiComLmms(device="cpu", dtype="float32")
    calls, encode = [], model.session.model.encode_videos
    monkeypatch.setattr(model.session.model, "encode_videos", lambda *a, **k: calls.append(1) or encode(*a, **k))
    asked = "Which way does the cyan moon move?"
    documents = [{"question": asked}, {"question": "Where is it?"}, {"question": asked}]
    model.task_dict = {"videomme": {"test": documents}}
    videos = [example_videos()[0], example_videos()[1], example_videos()[0]]
    settings = {"max_new_tokens": 8, "until": ["\n"]}
    requests = [
        SimpleNamespace(args=("", lambda doc, v=v: messages(v, doc["question"]), settings, n, "videomme", "test"))
        for n, v in enumerate(videos)
    ]
    answers = model.generate_until(requests)
    assert answers[0] == answers[2] == "left" and len(answers) == 3 and len(calls) == 2
    with pytest.raises(ValueError, match="not one of likelihoods"):
        model.loglikelihood([])


@pytest.mark.parametrize(
    ("task", "document", "prompt"),
    [
        (
            "videomme_w_subtitle",
            {"question": QUESTION},
            f"This video's subtitles are listed below: \nhello\n{QUESTION}",
        ),
        ("mlvu_dev", {"question": f"{QUESTION}\n(A) red\n(B) blue"}, f"{QUESTION}\n(A) red\n(B) blue\nBest option: ("),
        ("temporalbench", {"question": f"{QUESTION}\nA. red\nB. blue\nAnswer with the option's letter."}, ""),
        ("videochatgpt_consistency", {"question_1": QUESTION, "question_2": "None"}, QUESTION),
        ("videochatgpt_gen", {"question": None}, QUESTION),
    ],
)
def test_the_condition_is_the_bare_question(task, document, prompt):
    assert instruction_of(task, document, prompt, extract_instruction) == QUESTION


def ask(task, content, **settings):
    return question_of(
        "1", task, {"question": QUESTION}, [{"role": "user", "content": content}], settings, extract_instruction
    )


def test_a_path_that_comes_letter_by_letter_is_put_together():
    parts = [*({"type": "video", "url": letter} for letter in "/a.mp4"), {"type": "text", "text": QUESTION}]
    assert ask("temporalbench", parts).video == "/a.mp4"


def test_what_is_no_single_video_is_refused_by_the_name_of_the_task():
    text = {"type": "text", "text": QUESTION}
    with pytest.raises(
        ValueError, match=r"longvideobench_val_i: hands over 2 parts of image.*use longvideobench_val_v"
    ):
        ask("longvideobench_val_i", [{"type": "image", "url": 1}, {"type": "image", "url": 2}, text])
    with pytest.raises(ValueError, match="mmmu: hands over 0 parts of no medium"):
        ask("mmmu", [text])
    with pytest.raises(ValueError, match="asks for drawn answers"):
        ask("x", [{"type": "video", "url": "a.mp4"}, text], temperature=0.7)


def test_answers_end_at_the_strings_of_the_task():
    assert cut("B\nbecause", ["\n"]) == "B" and cut("B", None) == "B" and cut("B. x", ".") == "B"
