"""Readers of published files, prompts exact to the character, conditions, and the defects of the authors' scripts."""

import json
import re
import shutil
from pathlib import Path

import pytest

from hicom_hf.assets import example_videos
from hicom_hf.cli.main import main
from hicom_hf.evaluation.lmms_requests import instruction_of
from hicom_hf.evaluation.paper import as_markdown, evaluate_paper
from hicom_hf.evaluation.parsing import parse_choice
from hicom_hf.evaluation.questions import Question
from hicom_hf.evaluation.results import read_answers
from hicom_hf.evaluation.runner import Asking
from hicom_hf.evaluation.subtitles import SubtitleRule, read_subtitles
from hicom_hf.evaluation.tasks import TASKS, activitynet_qa, egoschema, mlvu, mvbench, videomme
from hicom_hf.evaluation.tasks.choices import mark_choice
from hicom_hf.evaluation.tasks.mvbench import PARTS
from hicom_hf.evaluation.tasks.open_answers import mark_open
from hicom_hf.evaluation.tasks.protocol_marks import official_mark
from hicom_hf.inference import HiComSession
from hicom_hf.processors.instruction_hicom import extract_instruction

QUESTION = "What colour is the car that passes first?"
OPTIONS = ["Red.", "Blue.", "Green.", "Black."]
SUBTITLES = """1
00:00:01,000 --> 00:00:03,000
<font color="white" size=".72c">hello there</font>

2
00:00:03,000 --> 00:00:05,500
<font color="white" size=".72c">what a
nice day</font>
"""


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.fixture
def data(tmp_path):
    """A handful of rows of each benchmark in its published field names."""
    rows = [
        {
            "video_id": "001",
            "duration": "short",
            "domain": "Knowledge",
            "sub_category": "Humanity & History",
            "url": "https://www.youtube.com/watch?v=fFjv93ACGo8",
            "videoID": "fFjv93ACGo8",
            "question_id": f"001-{number}",
            "task_type": "Counting Problem",
            "question": QUESTION,
            "options": [f"{letter}. {option}" for letter, option in zip("ABCD", OPTIONS, strict=True)],
            "answer": "B",
        }
        for number in (1, 2, 3)
    ]
    write_json(tmp_path / "videomme" / "test-00000-of-00001.json", rows)
    (tmp_path / "videomme" / "subtitle").mkdir()
    (tmp_path / "videomme" / "subtitle" / "fFjv93ACGo8.srt").write_text(SUBTITLES)
    for part, (_, _, has_range) in PARTS.items():
        row = {"video": "ZS9XR.mp4", "question": QUESTION, "candidates": ["Red", "Blue", "Green"], "answer": "Blue"}
        times = {"start": 11.1, "end": 19.6, "accurate_start": 11.1, "accurate_end": 19.6} if has_range else {}
        write_json(tmp_path / "mvbench" / "json" / f"{part}.json", [row | times])
    options = {f"option {number}": f"C does {number}" for number in range(5)}
    asked = [
        {"q_uid": uid, "google_drive_id": "x", "question": QUESTION, **options} for uid in ("0074f737", "00b9a0de")
    ]
    write_json(tmp_path / "egoschema" / "questions.json", asked)
    write_json(tmp_path / "egoschema" / "subset_answers.json", {"00b9a0de": 3})
    (tmp_path / "egoschema_subset").symlink_to(tmp_path / "egoschema")
    (tmp_path / "videomme_subtitles").symlink_to(tmp_path / "videomme")
    for part in mlvu.PARTS:
        row = {"video": "movie101_66.mp4", "duration": 480.0, "question": QUESTION, "question_type": "plotQA"}
        write_json(
            tmp_path / "mlvu_dev" / "json" / f"{part}.json", [row | {"candidates": ["Red", "Blue"], "answer": "Red"}]
        )
    q = [
        {"video_name": "1QIUV7WYKXg", "question": "is the athlete wearing trousers", "question_id": "v_1QIUV7WYKXg_3"}
    ]
    write_json(tmp_path / "activitynet_qa" / "test_q.json", q)
    write_json(
        tmp_path / "activitynet_qa" / "test_a.json", [{"answer": "yes", "type": 3, "question_id": "v_1QIUV7WYKXg_3"}]
    )
    asked = {"uid": "12", "question": f"{QUESTION}\n(A) Red\n(B) Blue\n(C) Green\n(D) None of (A)", "answer": "B"}
    asked |= {"question_type": ["entity recognition", "reasoning"], "time_reference": "00:10-01:20"}
    other = {**asked, "uid": "13", "question_type": ["reasoning"]}
    write_json(
        tmp_path / "lvbench" / "video_info.meta.jsonl", {"key": "Cm73ma6Ibcs", "type": "sport", "qa": [asked, other]}
    )
    for part in ("generic", "temporal"):
        write_json(
            tmp_path / "videochatgpt" / f"{part}_qa.json",
            [{"video_name": "v_p1QGn0IzfW0", "Q": QUESTION, "A": "Blue."}],
        )
    write_json(
        tmp_path / "videochatgpt" / "consistency_qa.json",
        [{"video_name": "v_p1QGn0IzfW0", "Q1": QUESTION, "Q2": "Which colour has it?", "A": "Blue."}],
    )
    return tmp_path


BENCHMARKS = sorted(set(TASKS) - {"shapes", "shapes_choice", "needle"})


@pytest.mark.parametrize("protocol", ["ours", "official", "lmms"])
@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_condition_of_every_question_is_the_bare_question(data, name, protocol):
    questions = TASKS[name].read(data / name, protocol)
    assert questions and len({question.id for question in questions}) == len(questions)
    for question in questions:
        assert question.instruction in (
            QUESTION,
            "Which colour has it?",
            "is the athlete wearing trousers",
            "Is the athlete wearing trousers?",
        )
        assert question.instruction in question.prompt
        assert Path(question.video).parts[-1].endswith(".mp4") and str(data / name) in question.video


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_folder_of_something_else_is_refused_with_the_source_of_the_data(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=r"this is no folder of .* data: .*(huggingface|github)\.co"):
        TASKS[name].read(tmp_path, "ours")


def test_a_file_with_other_fields_is_refused_and_the_field_named(data):
    write_json(data / "mlvu_dev" / "json" / "2_needle.json", [{"video": "a.mp4", "query": "?"}])
    with pytest.raises(ValueError, match=r"2_needle\.json: row 0 has no 'question'"):
        TASKS["mlvu_dev"].read(data / "mlvu_dev", "ours")
    write_json(data / "mlvu_dev" / "json" / "2_needle.json", {})
    with pytest.raises(ValueError, match="expected a list of rows, got dict"):
        TASKS["mlvu_dev"].read(data / "mlvu_dev", "ours")


def test_parquet_is_read_as_json_is(data):
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pytest.importorskip("pyarrow").Table
    before = TASKS["videomme"].read(data / "videomme", "ours")
    path = data / "videomme" / "test-00000-of-00001.json"
    parquet.write_table(table.from_pylist(json.loads(path.read_text())), path.with_suffix(".parquet"))
    path.unlink()
    assert TASKS["videomme"].read(data / "videomme", "ours") == before


def test_mvbench_keeps_to_the_clip_but_in_lmms_evals_protocol(data):
    clips = {q.categories["task"]: (q.start, q.end) for q in TASKS["mvbench"].read(data / "mvbench", "official")}
    assert clips["action_sequence"] == (11.1, 19.6) and clips["scene_transition"] == (None, None)
    assert sum(start is not None for start, _ in clips.values()) == 5
    assert all(q.start is None for q in TASKS["mvbench"].read(data / "mvbench", "lmms"))


def test_egoschema_scores_the_subset_and_writes_a_submission_for_all(data, tmp_path):
    [question] = TASKS["egoschema_subset"].read(data / "egoschema", "ours")
    assert (question.id, question.gold) == ("00b9a0de", "D")
    questions = TASKS["egoschema"].read(data / "egoschema", "ours")
    assert [question.gold for question in questions] == [None, None]
    lines = {questions[0].id: {"parsed": "E"}, questions[1].id: {"parsed": None}}
    egoschema.write_submission(tmp_path, questions, lines)
    assert (tmp_path / "submission.csv").read_text() == "q_uid,answer\n0074f737,4\n00b9a0de,-1\n"


# Prompts ----------------------------------------------------------------------------------------------------------------

LETTERED = [f"{letter}. {option}" for letter, option in zip("ABCD", OPTIONS, strict=True)]
COLOURS = ["red", "blue", "green"]
PROMPTS = {
    "lmms-eval videomme": videomme.prompt(QUESTION, LETTERED, "lmms"),
    "lmms-eval mvbench": mvbench.prompt(QUESTION, COLOURS, "lmms"),
    "lmms-eval egoschema": egoschema.prompt(QUESTION, [*COLOURS, "x", "y"], "lmms"),
    "lmms-eval mlvu_dev": mlvu.prompt(QUESTION, [*COLOURS, "black"], "lmms"),
    "lmms-eval activitynetqa": activitynet_qa.prompt("what is the person doing", "lmms"),
    "official videomme": videomme.prompt(QUESTION, LETTERED, "official"),
    "official mvbench": mvbench.prompt(QUESTION, COLOURS[:2], "official"),
}
STORED = {
    row["form"]: row
    for row in map(json.loads, Path(__file__).with_name("instruction_prompts.jsonl").read_text().splitlines())
    if row["set"] == "tuned"
}


@pytest.mark.parametrize("form", PROMPTS)
def test_prompts_are_those_of_the_harnesses_to_the_character(form):
    assert PROMPTS[form] == STORED[form]["prompt"]


def test_the_scripts_prompts_of_egoschema_and_mlvu_are_kept_to_the_character():
    suffix = "Answer with the option's letter from the given choices directly and only give the best option."
    assert egoschema.prompt("Why?", ["a", "b", "c", "d", "e"], "official") == (
        "Select the best answer to the following multiple-choice question based on the video.\nWhy?\nOptions:\n"
        f"(A) a\n(B) b\n(C) c\n(D) d\n(E) e\n{suffix} The best answer is: "
    )
    assert mlvu.prompt("Why?", ["a", "b"], "official") == f"Question: Why?\nOptions: \n(A) a\n(B) b\n\n{suffix}"


def test_the_prompt_with_subtitles_is_that_of_lmms_eval(tmp_path):
    (tmp_path / "a.srt").write_text(SUBTITLES)
    rule = SubtitleRule(str(tmp_path / "a.srt"), "This video's subtitles are listed below: \n", moments=32)
    question = Question("1", "a.mp4", videomme.prompt(QUESTION, LETTERED, "lmms", True), QUESTION, subtitles=rule)
    assert question.prompt_at([0.0], 6.0) == STORED["lmms-eval videomme_w_subtitle"]["prompt"]


HARNESSES = [form for form in STORED if form.startswith(("lmms-eval", "official"))]
OPTION_LINE = re.compile(r"^\(?([A-E])[.)] (.+)$", re.MULTILINE)
# Documents of tasks that have no bare question in `question`.
DOCUMENTS = {
    "lmms-eval mlvu_dev": {"question": f"{QUESTION}\n(A) red\n(B) blue\n(C) green\n(D) black\n"},
    "lmms-eval tempcompass multi-choice": {"question": f"{QUESTION}\nA. red\nB. blue"},
    "lmms-eval temporalbench": {"question": STORED["lmms-eval temporalbench"]["prompt"]},
}


def test_there_are_19_prompts():
    assert len(HARNESSES) == 19


@pytest.mark.parametrize("form", HARNESSES)
def test_who_has_only_the_prompt_gets_the_condition_from_it(form):
    assert extract_instruction(STORED[form]["prompt"]) == STORED[form]["instruction"]


@pytest.mark.parametrize("form", HARNESSES)
def test_the_condition_of_a_document_is_its_bare_question(form):
    row, task = STORED[form], form.split()[1]
    document = DOCUMENTS.get(form, {"question": row["instruction"]})
    assert instruction_of(task, document, row["prompt"], extract_instruction) == row["instruction"]


@pytest.mark.parametrize("form", HARNESSES)
def test_the_answer_to_each_prompt_is_parsed(form):
    texts = [text for _, text in OPTION_LINE.findall(STORED[form]["prompt"])]
    if not texts:  # an open question: the words are the answer
        question = Question("1", "a.mp4", "?", "?", "yes")
        assert mark_open(question, " Yes. ").parsed == "Yes." and mark_open(question, " ").value == 0
        return
    question = Question("1", "a.mp4", "?", "?", "B", tuple(texts))
    for answer in (
        "B",
        "(B)",
        "B.",
        f"B. {texts[1]}",
        f"(B) {texts[1]}",
        texts[1],
        "The answer is B.",
        "Best option: (B)",
    ):
        assert mark_choice(question, answer).value == 1, answer
    for answer in ("A", "I cannot tell", "", "Both of them", "Definitely", f"{texts[0]} or {texts[1]}", "A or B"):
        assert mark_choice(question, answer).value == 0, answer
        assert mark_choice(question, answer).parsed in ("A" if answer == "A" else None, None)


def test_subtitles_are_those_of_the_sampled_frames(data):
    [question, *_] = TASKS["videomme_subtitles"].read(data / "videomme", "official")
    spoken = question.prompt_at([0.5, 1.5, 2.5, 4.0, 9.0], 10.0)
    assert spoken.startswith(
        "This video's subtitles are listed below:\nhello there\nhello there\nwhat a nice day\nSelect"
    )
    assert question.instruction == QUESTION
    [ours, *_] = TASKS["videomme_subtitles"].read(data / "videomme", "ours")
    assert ours.prompt_at([1.5, 2.5], 10.0).startswith("This video's subtitles are listed below:\nhello there\nWhat")
    assert ours.prompt_at([9.0], 10.0) == ours.prompt


def test_subtitles_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "a.srt").write_bytes(b"\xff\xfe\x00\x41")
    with pytest.raises(ValueError, match=r"a\.srt: the subtitles are not text in UTF-8"):
        read_subtitles(tmp_path / "a.srt")


# Defects of the authors' scripts that the headline does not have ------------------------------------------------------------

CARS = Question("1", "a.mp4", "?", "?", "C", ("Red", "A blue car", "Green", "Black"))


@pytest.mark.parametrize(
    ("answer", "official", "strict"),
    [
        ("I cannot tell.", "C", None),  # what is not understood is right a quarter of the time
        ("", "C", None),
        ("Definitely B.", "D", "B"),  # letters inside words
        ("ANSWER: D", "A", "D"),
        ("Both cars are red", "B", None),
        ("a blue car", "B", "B"),
        ("C", "C", "C"),
    ],
)
def test_the_headline_never_guesses_and_the_second_column_explains_what_the_scripts_do(answer, official, strict):
    assert official_mark(CARS, answer).parsed == official and mark_choice(CARS, answer).parsed == strict
    assert mark_choice(CARS, answer).value == float(strict == "C")


def test_the_texts_of_options_keep_their_last_character(data):
    assert TASKS["videomme"].read(data / "videomme", "official")[0].options == tuple(OPTIONS)
    assert parse_choice("Blue", OPTIONS) == "B"


def test_an_answer_that_is_no_option_is_refused(data):
    row = {"video": "a.mp4", "question": "?", "candidates": ["x", "y"], "answer": "z"}
    write_json(data / "mvbench" / "json" / "action_count.json", [row])
    with pytest.raises(ValueError, match="'z' is not exactly one of the options"):
        TASKS["mvbench"].read(data / "mvbench", "ours")


def test_a_letter_of_no_option_is_refused(data):
    path = data / "videomme" / "test-00000-of-00001.json"
    rows = json.loads(path.read_text())
    write_json(path, [rows[0] | {"answer": "F"}])
    with pytest.raises(ValueError, match="question 001-1 has the answer 'F', which is no option's letter"):
        TASKS["videomme"].read(data / "videomme", "ours")


def test_the_papers_table_shows_what_judges_said():
    summary = {"task": "videochatgpt", "score": None, "paper": 3.12, "settings": {"sampling": {"num_frames": 32}}}
    judged = [{"judge": "gpt", "aspects": {"detail": {}}, "mean_score": 3.0456}]
    assert "| videochatgpt | 3.05 of 5, judge gpt | 3.12 |" in as_markdown([summary | {"judged": judged}])
    match = {"accuracy": {"mean": 57.94}, "score": {}}
    told = as_markdown([summary | {"judged": [{"judge": "gpt", "aspects": {"match": match}}]}])
    assert "57.9 %, judge gpt" in told and "not scored here" in as_markdown([summary | {"judged": []}])


def test_the_list_shows_sources_and_the_papers_numbers(capsys):
    assert main(["eval", "--list"]) == 0
    shown = capsys.readouterr().out
    for name in TASKS:
        assert f"{name}\t" in shown
    assert "58.1 at 32 frames, 58.9 at 64 frames, 60.3 at 128 frames (table 2)" in shown
    assert "64.0 at 128 frames" in shown and "3.20 at 64 frames" in shown  # as the paper prints them


# The paper's tables -----------------------------------------------------------------------------------------------------


def test_the_papers_tasks_run_at_each_number_of_frames_beside_its_numbers(data):
    session = HiComSession.load(dtype="float32", device="cpu")
    for name in ("videomme/data/fFjv93ACGo8.mp4", "egoschema/videos/0074f737.mp4"):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(example_videos()[0], data / name)
    shutil.rmtree(data / "mvbench")
    tasks = [TASKS[name] for name in ("videomme", "videomme_subtitles", "mvbench", "egoschema")]
    summaries, missing = evaluate_paper(
        session, data / "out", data, tasks=tasks, frames=(32, 64), protocol="lmms", asking=Asking()
    )
    assert list(missing) == ["mvbench"] and "data: huggingface.co" in missing["mvbench"]
    table = as_markdown(summaries).splitlines()
    assert table[0] == "| task | 32 frames | paper | 64 frames | paper |"
    assert [line.split(" | ")[-1] for line in table[2:]] == ["58.9 |", "63.3 |", "62.2 |"]
    lines = read_answers(data / "out" / "32-frames" / "videomme_subtitles")
    assert lines["001-1"]["prompt"].startswith("This video's subtitles") and lines["001-1"]["instruction"] == QUESTION
    assert "0074f737,-1\n" in (data / "out" / "64-frames" / "egoschema" / "submission.csv").read_text()
    assert "not scored here" in table[-1]
    with pytest.raises(FileNotFoundError, match="no task has its data"):
        evaluate_paper(session, data / "out", data / "none", tasks=tasks, asking=Asking())


def test_choices_of_the_built_in_world_are_those_of_its_training_files(tmp_path, monkeypatch):
    from hicom_hf.evaluation.tasks import shapes
    from hicom_hf.shapes import write_dataset

    monkeypatch.setattr(shapes, "NUM_VIDEOS", 2)  # of 200, whose scenes take seconds
    shapes._stored.cache_clear()
    write_dataset(tmp_path / "made", 1, shapes.SEED, stage="tuning", split="test")
    records = json.loads((tmp_path / "made" / "multiple_choice.json").read_text())
    asked = TASKS["shapes_choice"].read(tmp_path, "ours")[: len(records)]
    assert [(q.id, q.prompt, q.gold) for q in asked] == [
        (r["id"], r["conversations"][0]["value"].removeprefix("<video>\n"), r["conversations"][1]["value"])
        for r in records
    ]
    assert all(question.prompt.splitlines()[0] == question.instruction for question in asked)
    shapes._stored.cache_clear()
    right = [question.options["ABCD".index(question.gold)] for question in asked]
    assert all(TASKS["shapes_choice"].mark(q, words).value == 1 for q, words in zip(asked, right, strict=True))


# LVBench -----------------------------------------------------------------------------------------------------------------


def test_lvbench_gives_each_question_its_options_and_all_of_its_kinds(data):
    first, second = TASKS["lvbench"].read(data / "lvbench", "ours")
    assert first.options == ("Red", "Blue", "Green", "None of (A)")
    assert (first.gold, first.video) == ("B", str(data / "lvbench" / "videos" / "Cm73ma6Ibcs.mp4"))
    assert first.prompt.startswith(f"{QUESTION}\n(A) Red\n(B) Blue\n(C) Green\n(D) None of (A)\n")
    assert list(first.categories) == ["entity recognition", "reasoning"] and list(second.categories) == ["reasoning"]
    assert first.details == {"time_reference": "00:10-01:20"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"question": "Who wins?"}, r"question 12 has the options \[\] in its text"),
        ({"question": "Who wins?\n(A) Ann\n(C) Bob"}, r"question 12 has the options \[\] in its text"),
        ({"answer": "E"}, "the answer 'E', which is no letter of theirs"),
    ],
)
def test_questions_of_lvbench_without_options_or_answer_are_refused(data, changes, message):
    path = data / "lvbench" / "video_info.meta.jsonl"
    row = json.loads(path.read_text())
    row["qa"][0] |= changes
    write_json(path, row)
    with pytest.raises(ValueError, match=message):
        TASKS["lvbench"].read(data / "lvbench", "ours")
    del row["qa"][0]["answer"]
    write_json(path, row)
    with pytest.raises(ValueError, match="a question about Cm73ma6Ibcs has no 'answer'"):
        TASKS["lvbench"].read(data / "lvbench", "ours")
