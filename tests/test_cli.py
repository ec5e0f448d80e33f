"""The `hicom` command: answers on stdout, the rest on stderr, bad input as one line that names it."""

import ast
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image
from shared_data import VIDEOS_DIR, needs_videos
from started import Started, hicom
from video_files import write_audio, write_corrupted_video, write_frame_folder, write_truncated_video, write_video

import hicom_command
import hicom_hf.cli
from hicom_hf import HiComForConditionalGeneration, HiComProcessor
from hicom_hf.cli.main import COMMANDS, main
from hicom_hf.hub.loading import check_fits, load_model, load_processor
from hicom_hf.hub.reading import Reading
from hicom_hf.modeling.vision_hicom import HiComVisionTower
from hicom_hf.processors.answering_hicom import answer_question, encode_video, read_frames

CLI_FOLDER = Path(hicom_hf.cli.__file__).parent
READABLE_VIDEOS = (
    "av1_video.mkv",
    "flipping_a_pancake.mkv",
    "h265_video.mp4",
    "nasa_13013.mp4",
    "unordered.mov",
    "video_0.mov",
    "video_90.mov",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny random model's folder. Do not change it."""
    path = tmp_path_factory.mktemp("models") / "tiny"
    assert main(["init", "--tiny", str(path)]) == 0
    return path


@pytest.fixture
def changed_folder(folder, tmp_path):
    """A copy of the folder to spoil."""
    return shutil.copytree(folder, tmp_path / "changed")


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """12 frames at 10 per second."""
    return write_video(tmp_path_factory.mktemp("videos") / "numbers.mp4", 12)


def change_config(folder: Path, change) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def ask(folder, video, *arguments, questions=("What is it?",)) -> int:
    return main(["ask", str(video), *questions, "--model", str(folder), "--max-new-tokens", "5", *map(str, arguments)])


def ask_json(capsys, folder, video, *arguments, **options) -> dict:
    capsys.readouterr()
    assert ask(folder, video, "--json", *arguments, **options) == 0
    return json.loads(capsys.readouterr().out)


# The command as such -------------------------------------------------------------------------------------------------


def test_help_shows_every_command_without_importing_torch():
    code = "import sys, hicom_command; code = hicom_command.main(); sys.exit(code or 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    for name in COMMANDS:
        assert re.search(rf"^ +{name}\b", done.stdout, re.MULTILINE)
        assert import_module(f"hicom_hf.cli.{name.replace('-', '_')}").HELP in " ".join(done.stdout.split())


def test_the_package_run_as_a_module_is_the_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["hicom", "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("hicom_hf", run_name="__main__")
    printed = capsys.readouterr().out
    assert not end.value.code and all(name in printed for name in ("ask", "train"))


def test_ctrl_c_while_the_command_is_imported_exits_with_130(monkeypatch):
    class Interrupt:
        def find_spec(self, *names):
            raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "hicom_hf.cli.main")
    monkeypatch.setattr(sys, "meta_path", [Interrupt()])
    assert hicom_command.main() == 130


@pytest.mark.parametrize("path", sorted(CLI_FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_the_command_imports_only_the_standard_library_at_its_top(path):
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [] if node.level == 1 else [node.module if node.level == 0 else "hicom_hf"]
        else:
            continue
        for name in names:
            assert name.split(".")[0] in sys.stdlib_module_names, f"{path.name} imports {name}"


def test_the_choices_of_arguments_are_those_of_the_library():
    """They are written twice, because the parser is built without importing the library."""
    from hicom_hf import shapes
    from hicom_hf.cli import arguments, build_data
    from hicom_hf.cli import eval as eval_command
    from hicom_hf.cli import shapes as shapes_command
    from hicom_hf.dataset_building import building, export
    from hicom_hf.evaluation.tasks import PROTOCOLS
    from hicom_hf.hub import loading
    from hicom_hf.processors.frame_selection_hicom import RULES

    assert arguments.DTYPES == loading.DTYPES
    assert get_args(loading.Quantization) == arguments.QUANTIZATIONS
    assert get_args(loading.Compile) == arguments.COMPILE
    assert sorted(arguments.SELECTION_RULES) == sorted(RULES)
    assert build_data.FORMATS == export.FORMATS
    assert build_data.STAGES == building.STAGES
    assert eval_command.PROTOCOLS == PROTOCOLS
    assert ("all", *shapes.STAGES) == shapes_command.STAGES


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_a_command_has_a_help_text(name, capsys):
    from hicom_hf.cli.main import build_parser

    assert main([name, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: hicom {name}")
    commands = next(action for action in build_parser()._actions if action.choices and name in action.choices)
    assert all(action.help or action.choices for action in commands.choices[name]._actions)


@pytest.mark.parametrize("arguments", [[], ["answer"], ["ask"], ["--verbose"]])
def test_bad_arguments_exit_with_2_and_say_where_help_is(arguments, capsys):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "--help explains the arguments" in captured.err


def test_the_version_is_printed(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"hicom_hf {hicom_hf.__version__}\n"


@pytest.mark.parametrize("arguments", [["--traceback", "inspect", "nowhere/"], ["inspect", "nowhere/", "--traceback"]])
def test_traceback_lets_the_error_through(arguments):
    with pytest.raises(FileNotFoundError, match="nowhere/: there is no such folder"):
        main(arguments)


@pytest.mark.parametrize(
    "error", [KeyError("missing"), RecursionError("too deep"), TypeError("no number"), Exception("from Rust")]
)
def test_an_error_that_nobody_foresaw_is_one_line_that_says_so(error, monkeypatch, capsys):
    def fail(args):
        with Reading("some/config.json"):
            raise error

    monkeypatch.setattr("hicom_hf.cli.inspect.run", fail)
    assert main(["inspect", "anything"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        f"hicom: error: some/config.json: {type(error).__name__}: {error} (this kind of error was not foreseen: a damaged file, "
        "or a fault of the program; HICOM_DEBUG=1 shows where)\n"
    )


def test_hicom_debug_opens_the_door(monkeypatch):
    monkeypatch.setattr("hicom_hf.cli.inspect.run", lambda args: {}["missing"])
    monkeypatch.setenv("HICOM_DEBUG", "1")
    with pytest.raises(KeyError, match="missing"):
        main(["inspect", "anything"])
    monkeypatch.setenv("HICOM_DEBUG", "0")
    assert main(["inspect", "anything"]) == 1


def test_an_error_without_words_names_the_command_and_what_it_was_given(monkeypatch, capsys):
    def fail(args):
        raise MemoryError

    monkeypatch.setattr("hicom_hf.cli.inspect.run", fail)
    assert main(["inspect", "a model\x1b[31m"]) == 1
    assert (
        capsys.readouterr().err
        == "hicom: error: there is not enough memory for this (hicom inspect 'a model\N{REPLACEMENT CHARACTER}[31m')\n"
    )


@pytest.mark.parametrize(
    ("arguments", "code", "kind", "message"),
    [
        (["inspect", "nowhere/", "--json"], 1, "FileNotFoundError", "nowhere/: there is no such folder"),
        (["inspect", "--json"], 2, "BadArguments", "the following arguments are required: MODEL"),
        (
            ["ask", "v.mp4", "What?", "--json", "--fps", "0"],
            2,
            "BadArguments",
            "argument --fps: must be above 0, got 0",
        ),
        (["data", "check", "nowhere.json", "--json"], 1, "FileNotFoundError", "nowhere.json"),
        (["convert", "nowhere/", "there", "--json"], 1, "FileNotFoundError", "nowhere/"),
    ],
)
def test_json_gets_an_error_object(arguments, code, kind, message, capsys):
    assert main(arguments) == code
    captured = capsys.readouterr()
    error = json.loads(captured.out)["error"]
    assert error["type"] == kind and message in error["message"] and error["message"] in captured.err


def test_an_interrupted_command_with_json_gives_an_error_object(monkeypatch, capsys):
    def interrupt(args):
        raise KeyboardInterrupt

    monkeypatch.setattr("hicom_hf.cli.inspect.run", interrupt)
    assert main(["inspect", "anything", "--json"]) == 130
    assert json.loads(capsys.readouterr().out) == {"error": {"type": "KeyboardInterrupt", "message": "interrupted"}}


@pytest.mark.slow
def test_closed_streams_and_names_that_are_not_utf_8(folder):
    name = os.fsdecode(b"caf\xe9.mp4")
    code = "import sys; from hicom_hf.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "inspect", str(folder)]
    closed = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", *command], stderr=subprocess.PIPE, text=True)
    assert (closed.returncode, closed.stderr) == (0, "")
    for question in (["What is it?"], [name]):
        done = subprocess.run([*command[:3], "ask", name, *question, "--json"], capture_output=True, text=True)
        assert done.returncode in (1, 2) and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
        message = json.loads(done.stdout)["error"]["message"]
        assert "caf\udce9" in message or r"caf\udce9" in message


def test_a_typo_in_the_path_of_a_model_is_an_error_at_once_and_says_what_is_near(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder.parent.parent)
    monkeypatch.setattr("hicom_hf.hub.places.HfApi", lambda: pytest.fail("the Hub was asked"))
    name = f"{folder.parent.name}/{folder.name}"
    assert main(["inspect", f"{name}y"]) == 1
    assert f"{name}y: there is no such folder; did you mean {name}?" in capsys.readouterr().err


def test_the_hub_is_asked_once_whether_a_repo_exists(monkeypatch, capsys):
    asked = []

    def answer(self, repo, **options):
        asked.append(repo)
        raise OSError("404")

    monkeypatch.setattr("hicom_hf.hub.places.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("hicom_hf.hub.places.HfApi.model_info", answer)
    assert main(["inspect", "somebody/nothing"]) == 1
    assert asked == ["somebody/nothing"]
    assert (
        "somebody/nothing: there is no such folder, and no such Hub repo could be read: 404" in capsys.readouterr().err
    )


def test_ctrl_c_exits_with_130(monkeypatch, capsys):
    def interrupt(args):
        raise KeyboardInterrupt

    monkeypatch.setattr("hicom_hf.cli.inspect.run", interrupt)
    assert main(["inspect", "anything"]) == 130
    assert capsys.readouterr().err == "hicom: interrupted\n"


def test_a_reader_that_has_gone_ends_the_command_quietly(folder):
    with Started(hicom, "inspect", folder) as process:
        process.out.close()
        errors = process.err.read()
        assert process.wait() == 1
    assert "Traceback" not in errors and "Broken" not in errors


# hicom ask -----------------------------------------------------------------------------------------------------------


def test_the_answer_goes_to_stdout_and_all_the_rest_to_stderr(folder, video, capsys):
    assert ask(folder, video) == 0
    captured = capsys.readouterr()
    assert len(captured.out.strip("\n")) > 0 and "hicom" not in captured.out
    assert f"{video}: 12 of 12 frames (32 were asked for), 64x48, 0.00 to 1.10 s of 1.20 s" in captured.err
    # 3 x 3 x 3 groups and 8 global tokens; 12 frames of 7 x 7 patches.
    assert "35 visual tokens for 588 patches (16.8 times fewer)" in captured.err
    assert "cut there, --max-new-tokens takes more" in captured.err


def test_a_model_with_random_weights_says_that_its_words_mean_nothing(folder, video, capsys):
    assert ask(folder, video) == 0
    assert (
        "untrained weights (vision tower, instruction encoder, compressor, language model)" in capsys.readouterr().err
    )
    report = ask_json(capsys, folder, video)
    assert report["untrained_parts"] == ["vision_tower", "instruction_encoder", "compressor", "language_model"]
    assert "mean nothing" in report["note"]


def test_a_trained_model_does_not(changed_folder, video, capsys):
    change_config(changed_folder, lambda config: config.update(untrained_parts=[]))
    report = ask_json(capsys, changed_folder, video)
    assert (report["untrained_parts"], report["note"]) == ([], None)


def test_without_a_model_hicom_tiny_answers_and_says_what_it_knows(video, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    reports = []
    for arguments in ([], ["--model", "hicom-tiny"]):
        assert main(["ask", str(video), "What is it?", "--json", *arguments]) == 0
        captured = capsys.readouterr()
        [line] = [line for line in captured.err.splitlines() if line.startswith("hicom: note: ")]
        assert "hicom-tiny knows only its synthetic world of coloured shapes" in line
        reports.append(json.loads(captured.out))
    for report in reports:
        assert report["model"] == "hicom-tiny"
        assert "knows only its synthetic world" in report["note"]
        assert report["num_visual_tokens"] == 40  # 2 x 4 x 4 groups of 8 frames and 8 global tokens
    assert reports[0]["answers"][0]["answer"] == reports[1]["answers"][0]["answer"]


def test_a_folder_of_the_name_hicom_tiny_goes_before_the_packaged_one(folder, video, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder, tmp_path / "hicom-tiny")
    report = ask_json(capsys, "hicom-tiny", video)
    assert report["num_visual_tokens"] == 35 and "synthetic world" not in report["note"]


def test_several_questions_run_siglip_once_and_get_the_answers_of_single_ones(folder, video, capsys, monkeypatch):
    questions = ("What is it?", "Where is the red car?", "Who?")
    singles = [ask_json(capsys, folder, video, questions=[question])["answers"][0] for question in questions]
    calls = []
    forward = HiComVisionTower.forward
    monkeypatch.setattr(
        HiComVisionTower, "forward", lambda self, *args, **kwargs: calls.append(1) or forward(self, *args, **kwargs)
    )
    together = ask_json(capsys, folder, video, questions=questions)["answers"]

    assert len(calls) == 1
    assert [answer["question"] for answer in together] == list(questions)
    assert [answer["answer"] for answer in together] == [answer["answer"] for answer in singles]
    assert len({answer["answer"] for answer in together}) > 1

    assert ask(folder, video, questions=questions) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.removeprefix("Q: ") for line in lines if line.startswith("Q: ")] == list(questions)
    assert sum(line.startswith("A: ") for line in lines) == 3


def test_json_tells_what_was_sampled_and_how_long_each_part_took(folder, video, capsys):
    report = ask_json(capsys, folder, video, "--num-frames", 8, questions=["What is it?\nOptions:\nA. cat\nB. dog"])
    assert report["video"]["indices"] == [1, 2, 3, 5, 6, 8, 9, 10]
    assert report["video"]["times"] == pytest.approx([0.1, 0.2, 0.3, 0.5, 0.6, 0.8, 0.9, 1.0])
    assert (report["num_frames"], report["num_visual_tokens"], report["num_uncompressed_patches"]) == (8, 26, 392)
    assert set(report["seconds"]) == {"load", "decode", "encode"}
    (answer,) = report["answers"]
    assert answer["instruction"] == "What is it?"
    assert answer["num_new_tokens"] == 5 and not answer["finished"]
    assert 0 < answer["seconds"]["first_token"] < answer["seconds"]["generate"]


def test_the_answer_is_that_of_generate_from_pixels(folder, video, capsys):
    model, processor = load_model(folder, "cpu"), load_processor(folder)
    content = [{"type": "video", "path": str(video)}, {"type": "text", "text": "What is it?"}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    output = model.generate(**inputs, do_sample=False, max_new_tokens=5)[0, inputs["input_ids"].shape[1] :]
    expected = processor.tokenizer.decode(output, skip_special_tokens=True).strip()
    assert ask_json(capsys, folder, video)["answers"][0]["answer"] == expected


@pytest.mark.parametrize(
    ("arguments", "indices"),
    [
        (["--num-frames", 2], [3, 8]),
        (["--num-frames", "all"], list(range(12))),
        (["--fps", 2], [2, 7]),
        (["--start", 0.4, "--end", 0.7], [4, 5, 6]),
        (["--max-video-tokens", 26], [1, 2, 3, 5, 6, 8, 9, 10]),
        (["--end", 0.2, "--num-frames", 4, "--short-video", "repeat"], [0, 0, 1, 1]),
    ],
)
def test_frame_options_choose_the_frames(folder, video, capsys, arguments, indices):
    assert ask_json(capsys, folder, video, *arguments)["video"]["indices"] == indices


def test_an_image_and_a_folder_of_frames_are_asked_about_like_a_video(folder, tmp_path, capsys):
    Image.fromarray(np.full((30, 40, 3), 200, np.uint8)).save(tmp_path / "picture.jpg")
    assert ask(folder, tmp_path / "picture.jpg") == 0
    assert "one picture, 40x30; 17 visual tokens for 49 patches" in capsys.readouterr().err
    frames = write_frame_folder(tmp_path / "frames", 5)
    assert ask_json(capsys, folder, frames)["video"]["indices"] == [0, 1, 2, 3, 4]


def test_a_photo_with_a_preview_in_its_file_is_one_picture(folder, tmp_path, capsys):
    photo, preview = (Image.fromarray(np.full((*size, 3), 90, np.uint8)) for size in ((60, 80), (15, 20)))
    photo.save(tmp_path / "phone.jpg", format="MPO", save_all=True, append_images=[preview])
    assert ask(folder, tmp_path / "phone.jpg") == 0
    assert "one picture, 80x60" in capsys.readouterr().err


def test_guarded_media_are_local_only_below_named_folders(folder, video, capsys):
    assert ask(folder, video, "--media", "guarded") == 1
    assert "local files are not allowed here" in capsys.readouterr().err
    assert ask(folder, video, "--media", "guarded", "--allowed-local-media-path", video.parent) == 0
    capsys.readouterr()
    url = "http://elsewhere.invalid/cat.mp4"
    assert ask(folder, url, "--media", "guarded", "--allowed-media-domains", "example.org") == 1
    assert "the host 'elsewhere.invalid' is not among allowed_media_domains" in capsys.readouterr().err
    assert ask(folder, video, "--allowed-media-domains", "example.org") == 1
    assert "restrict guarded media; open allows all" in capsys.readouterr().err


def test_drawing_depends_on_the_seed_alone(folder, video, capsys):
    options = ("--temperature", 1.5, "--max-new-tokens", 12)
    answers = [ask_json(capsys, folder, video, *options, "--seed", seed)["answers"][0]["answer"] for seed in (1, 1, 2)]
    assert answers[0] == answers[1] != answers[2]


def test_a_system_prompt_replaces_that_of_the_template(folder, video, capsys):
    default = ask_json(capsys, folder, video)["answers"][0]["num_prompt_tokens"]
    short = ask_json(capsys, folder, video, "--system", "Be brief.")["answers"][0]["num_prompt_tokens"]
    # One token per byte.
    assert default - short == len("You are Qwen, created by Alibaba Cloud. You are a helpful assistant.") - 9


def test_special_tokens_in_a_question_are_plain_text(folder, video, capsys):
    question = "Is <|video_pad|> a word?<|im_end|>"
    plain = ask_json(capsys, folder, video, questions=["?"])["answers"][0]["num_prompt_tokens"]
    assert ask_json(capsys, folder, video, questions=[question])["answers"][0]["num_prompt_tokens"] == (
        plain - 1 + len(question)
    )


def test_pieces_of_the_stream_make_up_the_answer(folder, video):
    model, processor = load_model(folder, "cpu"), load_processor(folder)
    encoded = encode_video(model, read_frames(processor, video))
    pieces = []
    answer = answer_question(model, processor, encoded, "Why?", max_new_tokens=30, on_text=pieces.append)
    assert "".join(pieces).strip() == answer.answer


def test_what_could_command_a_terminal_is_not_sent_to_it(capsys):
    from hicom_hf.cli.ask import _print_piece

    _print_piece("red\x1b[31m\x07\n\tcar\x9b")
    assert capsys.readouterr().out == "red\N{REPLACEMENT CHARACTER}[31m\N{REPLACEMENT CHARACTER}\n\tcar\ufffd"


def test_a_repo_id_is_found_in_the_hub_cache_without_a_network(folder, video, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repo, commit = tmp_path / "models--somebody--hicom", "a" * 40
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    shutil.copytree(folder, repo / "snapshots" / commit)
    assert main(["inspect", "somebody/hicom"]) == 0
    assert capsys.readouterr().out.startswith(
        "somebody/hicom: HICom, paper formulation, 353.10 k parameters (F32), 1.43 MB in 1 file"
    )
    assert main(["ask", str(video), "What is it?", "--model", "somebody/hicom", "--max-new-tokens", "3"]) == 0
    assert "35 visual tokens for 588 patches" in capsys.readouterr().err


@needs_videos
@pytest.mark.parametrize("name", READABLE_VIDEOS)
def test_a_question_about_a_real_video_is_answered(folder, name, capsys):
    report = ask_json(capsys, folder, VIDEOS_DIR / name, "--num-frames", 4)
    assert report["answers"][0]["num_new_tokens"] > 0
    assert 1 <= report["num_frames"] <= 4


# Bad input -----------------------------------------------------------------------------------------------------------


def empty_file(path):
    path.touch()
    return path


def text_file(path):
    path.write_text("This is no video.\n" * 100)
    return path


def folder_without_images(path):
    path.mkdir()
    (path / "notes.txt").write_text("no image")
    return path


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("missing.mp4", lambda path: path, "there is no such file or folder"),
        ("empty.mp4", empty_file, "the file is empty"),
        ("text.mp4", text_file, "this is not a video file"),
        ("sound.mp4", write_audio, "the file has no video stream"),
        ("nothing", folder_without_images, "the folder holds no images"),
        ("short.mkv", write_truncated_video, "the file breaks after"),
    ],
)
def test_a_video_that_cannot_be_read_is_named(folder, tmp_path, capsys, name, make, message):
    path = make(tmp_path / name)
    assert ask(folder, path) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = [line for line in captured.err.splitlines() if line.startswith("hicom: error:")]
    assert str(path) in line and message in line
    assert "Traceback" not in captured.err


def test_a_file_that_breaks_says_how_many_frames_were_read_and_may_be_kept(folder, tmp_path, capsys):
    path = write_corrupted_video(tmp_path / "broken.mp4", num_frames=24, broken_frame=8)
    assert ask(folder, path) == 1
    error = capsys.readouterr().err
    assert "the file breaks after" in error and "frames were read before" in error
    assert "--on-decode-error keep goes on with the frames that can be read" in error

    assert ask(folder, path, "--on-decode-error", "keep") == 0
    assert f"hicom: warning: {path}: the file breaks after" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--num-frames", "0"], 2, "argument --num-frames: must be at least 1, got 0"),
        (["--num-frames", "few"], 2, "argument --num-frames: must be a whole number, got 'few'"),
        (["--fps", "0"], 2, "argument --fps: must be above 0, got 0"),
        (["--fps", "2", "--num-frames", "3"], 2, "argument --num-frames: not allowed with argument --fps"),
        (["--start", "1", "--end", "1"], 2, "argument --end: must be after --start (1 s), got 1"),
        (["--end", "0"], 2, "argument --end: must be after --start (0 s), got 0"),
        (["--start", "nan"], 2, "argument --start: must be a finite number, got nan"),
        (["--temperature", "-1"], 2, "argument --temperature: must be 0 or above, got -1"),
        (["--start", "60"], 1, "start=60 s lies after the end of the video"),
        (["--max-video-tokens", "16"], 1, "max_video_tokens=16 is too little: one frame makes 17"),
        (["--max-new-tokens", "5000"], 1, "exceeds the 4096 that the LLM can read"),
        (["--device", "abacus"], 1, "device must be auto, cpu, cuda, cuda:1 or mps, got 'abacus'"),
        (["--attn-implementation", "guess"], 1, "attn_implementation must be one of eager"),
    ],
)
def test_an_argument_that_cannot_be_is_named(folder, video, capsys, arguments, code, message):
    assert ask(folder, video, *arguments) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err and "error:" in captured.err and "Traceback" not in captured.err


@pytest.mark.parametrize("question", ["", " \n"])
def test_an_empty_question_is_refused_before_anything_is_loaded(capsys, question):
    assert main(["ask", "video.mp4", "Fine?", question, "--model", "nowhere/"]) == 2
    assert "argument QUESTION: question 2 is empty" in capsys.readouterr().err


def test_an_empty_question_is_refused_in_python_too(model, processor, video):
    with pytest.raises(ValueError, match="the question is empty"):
        answer_question(model, processor, encode_video(model, read_frames(processor, video)), " ")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA GPU here")
def test_cuda_without_cuda_is_refused_before_the_video_is_read(folder, capsys):
    assert ask(folder, "missing.mp4", "--device", "cuda") == 1
    assert "device 'cuda' was asked for, but torch" in capsys.readouterr().err


def test_a_model_that_is_not_there_is_named(video, tmp_path, capsys):
    for model, message in (
        (tmp_path / "nowhere", "there is no such folder"),
        (tmp_path, "this folder holds no model (config.json is missing)"),
        (video, "a model is a folder or a repo id, and this is a file"),
        ("no-such-model-anywhere", "there is no such folder, and no such Hub repo could be read"),
    ):
        assert ask(model, video) == 1
        assert f"hicom: error: {model}: {message}" in capsys.readouterr().err


def test_a_config_that_is_no_json_is_named(changed_folder, video, capsys):
    (changed_folder / "config.json").write_text("{")
    assert ask(changed_folder, video) == 1
    assert f"hicom: error: {changed_folder}: the model in this folder cannot be read" in capsys.readouterr().err


def test_another_kind_of_model_is_named(video, tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    assert ask(tmp_path, video) == 1
    assert f"{tmp_path}: this is a model of type 'qwen2', not a HICom model" in capsys.readouterr().err


def test_a_model_folder_without_processor_is_refused(changed_folder, video, capsys):
    (changed_folder / "processor_config.json").unlink()
    assert ask(changed_folder, video) == 1
    assert f"{changed_folder}: there is no processor (processor_config.json is missing)" in capsys.readouterr().err


def test_a_wrong_instruction_tokenizer_is_refused(changed_folder, video, capsys):
    shutil.rmtree(changed_folder / "instruction_tokenizer")  # transformers takes the LLM's instead, without an error
    assert ask(changed_folder, video) == 1
    error = capsys.readouterr().err
    assert f"{changed_folder}: the processor cannot be loaded: instruction_tokenizer has 261 tokens" in error


def test_an_unknown_field_of_the_compressor_is_named(changed_folder, video, capsys):
    change_config(changed_folder, lambda config: config["compressor_config"].update(keyadapter=True))
    assert ask(changed_folder, video) == 1
    error = capsys.readouterr().err
    assert f"{changed_folder}: config.json is not valid: compressor_config has no field 'keyadapter'" in error


def test_a_field_of_the_wrong_type_is_named(changed_folder, video, capsys):
    change_config(changed_folder, lambda config: config["compressor_config"].update(num_global_tokens="8"))
    assert ask(changed_folder, video) == 1
    error = capsys.readouterr().err
    assert f"{changed_folder}: config.json is not valid" in error and "num_global_tokens" in error


def test_a_processor_of_another_model_is_refused(folder, model):
    processor = HiComProcessor.from_pretrained(folder, num_global_tokens=4)
    with pytest.raises(
        ValueError, match=r"made for another model \(visual tokens of 1 frames: model 17, processor 13"
    ):
        check_fits(model.config, processor, folder)


def test_damaged_and_missing_weights_are_refused(changed_folder, video, capsys):
    weights = changed_folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])
    assert ask(changed_folder, video) == 1
    assert f"{changed_folder}: the weights cannot be loaded" in capsys.readouterr().err
    weights.unlink()
    assert ask(changed_folder, video) == 1
    assert f"{changed_folder}: the weights cannot be loaded" in capsys.readouterr().err


def test_weights_without_a_compressor_are_refused_rather_than_made_up(changed_folder, video, capsys):
    from safetensors.torch import load_file, save_file

    weights = load_file(changed_folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if ".compressor." not in name}
    save_file(kept, changed_folder / "model.safetensors", metadata={"format": "pt"})
    assert ask(changed_folder, video) == 1
    error = capsys.readouterr().err
    assert f"{len(weights) - len(kept)} weights are missing (model.compressor." in error


# hicom inspect -------------------------------------------------------------------------------------------------------


def test_inspect_tells_parts_tokens_and_prompt_without_loading_weights(folder, capsys, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(HiComForConditionalGeneration, "from_pretrained", refuse)
    assert main(["inspect", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert f"{folder}: HICom, paper formulation, 353.10 k parameters (F32), 1.43 MB in 1 file" in shown
    assert "untrained: vision tower, instruction encoder, compressor, language model" in shown
    assert (
        "local branch: attention, 4 x 3 x 3 patches (frames x rows x columns) to one token, injection direct" in shown
    )
    assert "global branch: 8 tokens, injection coarse" in shown
    assert 'system prompt: "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."' in shown
    assert "<|video_pad|> (260), <|image_pad|> (259)" in shown


def test_inspect_counts_what_the_model_has(folder, model, capsys):
    assert main(["inspect", str(folder), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    parts = {name: part["num_parameters"] for name, part in report["parts"].items()}
    assert parts == {
        "vision_tower": model.model.vision_tower.num_parameters(),
        "instruction_encoder": model.model.instruction_encoder.num_parameters(),
        "compressor": sum(parameter.numel() for parameter in model.model.compressor.parameters()),
        "language_model": model.model.language_model.num_parameters() + model.lm_head.weight.numel(),
    }
    assert report["num_parameters"] == model.num_parameters()
    # ceil(frames / 4) x 3 x 3 + 8 against frames x 7 x 7
    counts = [
        (row["num_frames"], row["num_visual_tokens"], row["num_uncompressed_patches"]) for row in report["tokens"]
    ]
    assert counts == [(1, 17, 49), (8, 26, 392), (16, 44, 784), (32, 80, 1568), (64, 152, 3136), (128, 296, 6272)]
    assert report["problems"] == []


def test_inspect_knows_the_packaged_model(capsys):
    assert main(["inspect", "hicom-tiny"]) == 0
    assert capsys.readouterr().out.startswith("hicom-tiny: HICom, paper formulation, 2.20 M parameters")


def test_inspect_goes_on_without_weights_and_processor(changed_folder, capsys):
    (changed_folder / "processor_config.json").unlink()
    (changed_folder / "model.safetensors").unlink()
    assert main(["inspect", str(changed_folder)]) == 0
    captured = capsys.readouterr()
    assert "no weights" in captured.out
    assert "warning: the weights cannot be read" in captured.err and "there is no processor" in captured.err


def test_inspect_reads_every_shard(folder, tmp_path, capsys):
    model, processor = load_model(folder, "cpu"), load_processor(folder)
    model.save_pretrained(tmp_path, max_shard_size="400KB")
    processor.save_pretrained(tmp_path)
    assert main(["inspect", str(tmp_path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["num_weight_files"] > 1
    assert report["num_parameters"] == model.num_parameters()


def test_an_adapter_that_names_no_base_is_refused(tmp_path, capsys):
    (tmp_path / "adapter_config.json").write_text("{}")
    assert main(["inspect", str(tmp_path)]) == 1
    assert "adapter_config.json does not name the adapter's base" in capsys.readouterr().err


def test_a_command_without_its_packages_says_what_to_install(tmp_path, capsys, monkeypatch):
    settings = {"base_model_name_or_path": "hicom-tiny", "peft_type": "LORA"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    monkeypatch.setitem(sys.modules, "peft", None)
    assert main(["merge", str(tmp_path), str(tmp_path / "merged")]) == 1
    expected = "hicom: error: this takes peft, which is not installed: pip install 'hicom_hf[train]'\n"
    assert capsys.readouterr().err == expected


def test_the_extra_of_a_missing_package_is_named_with_its_whole_name():
    from hicom_hf.cli.main import _extra_with

    assert _extra_with("ray") == "build-ray" and _extra_with("peft") == "train" and _extra_with("nothing") is None
