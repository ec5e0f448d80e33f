"""Run by the Python of an environment that has lmms-eval 0.7.3: its prompts and parsers beside ours, as JSON.

Out: a list of [what, given, ours, theirs] where they differ, and how many were compared.
"""

import json
import os
import sys

os.environ.setdefault("HF_HOME", "/nowhere")

from lmms_eval.tasks.activitynetqa import utils as activitynetqa
from lmms_eval.tasks.egoschema import utils as egoschema
from lmms_eval.tasks.mlvu import utils as mlvu
from lmms_eval.tasks.mvbench import utils as mvbench
from lmms_eval.tasks.videomme import utils as videomme

from hicom_hf.evaluation.questions import Question
from hicom_hf.evaluation.tasks import activitynet_qa as our_activitynet_qa
from hicom_hf.evaluation.tasks import egoschema as our_egoschema
from hicom_hf.evaluation.tasks import mlvu as our_mlvu
from hicom_hf.evaluation.tasks import mvbench as our_mvbench
from hicom_hf.evaluation.tasks import videomme as our_videomme
from hicom_hf.evaluation.tasks.protocol_marks import lmms_egoschema_mark, lmms_mark, lmms_mvbench_mark

ASKED = "What colour is the car that passes first?"
OPTIONS = ("Red", "A blue car", "Green", "Black", "No car, 2,000 bikes")
ANSWERS = (
    *("B", "B.", "(B)", "**B**", "b", "B. A blue car", "B) a blue car.", "B: blue", "b. yes", "(b)", "[B]", "'B'"),
    *("The answer is B", "The correct answer is: (b).", "I choose D", "My answer is A. The answer is B", "Option C"),
    *("Because the car is blue, B", "Definitely B.", "A blue car", "a blue car", "A blue car.", "It is a red car"),
    *(
        "I cannot tell from the video.",
        "",
        " ",
        "Both cars are red",
        "ANSWER: D",
        "E",
        "F",
        "A or B",
        "B and C are wrong",
    ),
    *(
        "The best option is (D) because A is wrong",
        "<think>A or B?</think> D",
        "答案是C",
        "A\nB\nC",
        "A, B",
        "it's 2,000",
    ),
    *(
        "I think that the car which passes first is a blue car",
        "In the video, the car is c. green, I think it is so",
        ".",
    ),
    *(
        "D. Black\nbecause",
        "Best answer is A.B",
        "1.5 cars; D",
        "the choice is E",
        "no_e",
        "D!",
        "!D",
        "the A-team wins",
    ),
)


def compare_prompts(differences: list) -> int:
    lettered = [f"{letter}. {text}" for letter, text in zip("ABCD", OPTIONS, strict=False)]
    document = {"question": ASKED, "options": lettered}
    suffix = {"pre_prompt": "", "post_prompt": "\nAnswer with the option's letter from the given choices directly."}
    pairs = {
        "videomme": (our_videomme.prompt(ASKED, lettered, "lmms"), videomme.videomme_doc_to_text(document, suffix)),
        "mvbench": (
            our_mvbench.prompt(ASKED, list(OPTIONS[:3]), "lmms"),
            mvbench.mvbench_doc_to_text(
                {"question": ASKED, "candidates": list(OPTIONS[:3])}, {"post_prompt": "Only give the best option.\n"}
            ),
        ),
        "egoschema": (
            our_egoschema.prompt(ASKED, list(OPTIONS), "lmms"),
            egoschema.egoschema_doc_to_text(
                {"question": ASKED, "option": [f"{one}. {text}" for one, text in zip("ABCDE", OPTIONS, strict=True)]}
            ),
        ),
        "mlvu_dev": (
            our_mlvu.prompt(ASKED, list(OPTIONS[:4]), "lmms"),
            mlvu.mlvu_doc_to_text(
                {"question": f"{ASKED}\n(A) Red\n(B) A blue car\n(C) Green\n(D) Black\n"},
                {"post_prompt": "\nOnly give the best option.\nBest option: ("},
            ),
        ),
        "activitynet_qa": (
            our_activitynet_qa.prompt("is the man in New York", "lmms"),
            activitynetqa.activitynetqa_doc_to_text(
                {"question": "is the man in New York"},
                {"post_prompt": " Answer the question using a single word or phrase."},
            ),
        ),
    }
    differences += [["prompt", name, ours, theirs] for name, (ours, theirs) in pairs.items() if ours != theirs]
    return len(pairs)


def compare_marks(differences: list) -> int:
    four, five = Question("1", "a.mp4", "?", "?", "B", OPTIONS[:4]), Question("1", "a.mp4", "?", "?", "B", OPTIONS)
    choices = {letter: f"{letter}. {text}" for letter, text in zip("ABCDE", OPTIONS, strict=True)}
    for answer in ANSWERS:
        if "<think>" not in answer:  # taken off before, by the harness's pipeline
            theirs = videomme.extract_characters_regex(answer) or None
            differences += _if_other("videomme", answer, lmms_mark(four, answer).parsed, theirs)
            found = egoschema.parse_multi_choice_response(answer, list("ABCDE"), choices)
            theirs = found[0] if found[1] else None
            differences += _if_other("egoschema", answer, lmms_egoschema_mark(five, answer).parsed, theirs)
        right = mvbench.mcq_acc("B", answer)
        ours = lmms_mvbench_mark(five, answer).value
        differences += _if_other("mvbench", answer, ours if answer else None, float(right) if answer else None)
    return 3 * len(ANSWERS)


def _if_other(what: str, given: str, ours, theirs) -> list:
    return [] if ours == theirs else [[what, given, ours, theirs]]


if __name__ == "__main__":
    differences: list = []
    count = compare_prompts(differences) + compare_marks(differences)
    json.dump({"differences": differences, "compared": count}, sys.stdout)
