"""The pipeline: all that it takes gives the same answers as the model and processor called by hand."""

import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModel, TextStreamer, pipeline
from video_files import write_corrupted_video, write_video

import hicom_hf
from hicom_hf import FrameTiles
from hicom_hf.assets import hicom_tiny
from hicom_hf.hub import save_hub_folder
from hicom_hf.inference import HiComSession
from hicom_hf.processors.frame_selection_hicom import FrameSelection
from hicom_hf.processors.pipeline_inputs_hicom import collate_requests

TASK = "video-text-to-text"
QUESTIONS = ["What is it?", "Where is the long dark thing now?", "Who?", "Is it red?"]
LENGTHS = [3, 9, 5, 4]


def video(frames, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (frames, 24, 32, 3), dtype=np.uint8)


def chat_about(source, question, kind="video"):
    return [{"role": "user", "content": [{"type": kind, kind: source}, {"type": "text", "text": question}]}]


def words(result):
    return [record["generated_text"] for record in result]


@pytest.fixture(scope="module")
def folder(model, processor, tmp_path_factory):
    return save_hub_folder(model, processor, tmp_path_factory.mktemp("models") / "hicom-7b")


@pytest.fixture(scope="module")
def pipe(folder):
    return pipeline(TASK, model=str(folder), max_new_tokens=8)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("videos") / "clip.mp4", 12)


@pytest.fixture(scope="module")
def videos():
    return [video(frames, seed) for seed, frames in enumerate(LENGTHS)]


@pytest.fixture(scope="module")
def singles(pipe, videos):
    return [pipe(source, text=question) for source, question in zip(videos, QUESTIONS, strict=True)]


def by_hand(model, processor, source, question, **kwargs):
    inputs = processor.apply_chat_template(
        chat_about(source, question),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        **kwargs,
    )
    output = model.generate(**inputs, max_new_tokens=8)
    return processor.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()


# The user's lines ------------------------------------------------------------------------------------------------------


def test_the_users_lines_work_as_they_stand(folder, clip, monkeypatch):
    monkeypatch.chdir(folder.parent)
    model = AutoModel.from_pretrained("hicom-7b")
    answer = pipeline("video-text-to-text", model="hicom-7b")
    assert type(model) is type(answer.model) is hicom_hf.HiComForConditionalGeneration
    assert type(answer) is hicom_hf.VideoTextToTextPipeline
    assert isinstance(answer(str(clip), text="What happens in this video?")[0]["generated_text"], str)


def test_the_packages_pipeline_goes_before_the_folders_copy_as_with_models(folder):
    assert type(pipeline(TASK, model=str(folder), trust_remote_code=True)) is hicom_hf.VideoTextToTextPipeline


def test_a_model_and_a_processor_in_hand_make_a_pipeline(model, processor, pipe, clip):
    own = pipeline(TASK, model=model, processor=processor, max_new_tokens=8)
    assert own(clip, text="Who?") == pipe(clip, text="Who?")


def test_a_model_in_hand_brings_the_processor_of_its_folder(folder, pipe, clip):
    own = pipeline(TASK, model=AutoModel.from_pretrained(str(folder)), max_new_tokens=8)
    assert own(clip, text="Who?") == pipe(clip, text="Who?")


def test_without_a_model_the_packaged_one_answers_and_says_what_it_knows(clip, caplog):
    from hicom_hf.assets import hicom_tiny

    with caplog.at_level("WARNING"):
        own = pipeline(TASK, max_new_tokens=8)
    assert own.model.config.name_or_path == str(hicom_tiny())
    assert "hicom-tiny knows only its synthetic world of coloured shapes" in caplog.text
    assert own(clip, text="Who?") == pipeline(TASK, model=hicom_tiny(), max_new_tokens=8)(clip, text="Who?")


def test_another_model_is_not_said_to_know_shapes_only(folder, caplog):
    with caplog.at_level("WARNING"):
        pipeline(TASK, model=str(folder))
    assert "synthetic world" not in caplog.text


# What it takes ---------------------------------------------------------------------------------------------------------


def test_an_answer_is_that_of_model_and_processor_called_by_hand(model, processor, pipe, clip):
    expected = by_hand(model, processor, str(clip), "What is it?", num_frames=6)
    assert words(pipe(str(clip), text="What is it?", num_frames=6)) == [expected]


def test_all_ways_to_ask_about_one_video_are_the_same(pipe, clip):
    expected = pipe(str(clip), text="Who?")
    assert pipe(clip, question="Who?") == expected
    assert pipe({"video": clip, "text": "Who?"}) == expected
    assert pipe({"video": str(clip), "question": "Who?"}) == expected
    assert pipe({"video": clip}, text="Who?") == expected
    assert pipe(chat_about(str(clip), "Who?")) == expected
    assert pipe(text=chat_about(str(clip), "Who?")) == expected
    assert pipe([clip], text="Who?") == [expected]


def test_a_url_is_read(pipe, clip):
    handler = partial(SimpleHTTPRequestHandler, directory=clip.parent)
    handler.log_message = lambda *args: None
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        answer = pipe(f"http://127.0.0.1:{server.server_port}/{clip.name}", text="Who?")
    finally:
        server.shutdown()
        server.server_close()
    assert answer == pipe(clip, text="Who?")


def test_a_list_of_frames_is_one_video(pipe):
    frames = video(4)
    expected = pipe(frames, text="Who?")
    assert pipe([Image.fromarray(frame) for frame in frames], text="Who?") == expected
    assert pipe(list(frames), text="Who?") == expected


def test_an_image_is_asked_about_by_its_own_name(pipe):
    picture = Image.fromarray(video(1)[0])
    assert pipe({"image": picture, "text": "Who?"}) == pipe(chat_about(picture, "Who?", kind="image"))


def test_a_chat_may_hold_several_videos_and_turns(pipe, videos):
    chat = [
        {"role": "user", "content": [{"type": "video", "video": videos[0]}, {"type": "text", "text": "Who?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "A cat."}]},
        {"role": "user", "content": [{"type": "video", "video": videos[1]}, {"type": "text", "text": "And here?"}]},
    ]
    [record] = pipe(chat, return_metadata=True)
    assert [len(sampled["indices"]) for sampled in record["video_metadata"]] == LENGTHS[:2]


def test_text_alone_is_answered(pipe):
    answer = pipe([{"role": "user", "content": "Who are you?"}])
    assert words(answer)
    assert pipe({"text": ["Who are you?", "Who is it?"]})[0] == pipe({"text": "Who are you?"}) == answer


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 8])
def test_a_batch_equals_its_singles(pipe, videos, singles, batch_size):
    assert pipe(videos, text=QUESTIONS, batch_size=batch_size) == singles


def test_a_batch_of_mixed_inputs_equals_its_singles(pipe, videos):
    items = [
        {"image": Image.fromarray(videos[0][0]), "text": "Who?"},
        chat_about(videos[1], "Where is it going at last?"),
        [{"role": "user", "content": "Hello!"}],
        {"video": videos[2], "question": "What?", "instruction": "red thing"},
    ]
    assert pipe(items, batch_size=4) == [pipe(item) for item in items]


def test_one_question_serves_a_list_of_videos(pipe, videos):
    assert pipe(videos[:2], text="Who?", batch_size=2) == [pipe(source, text="Who?") for source in videos[:2]]


def test_chats_and_streams_of_inputs_are_answered_one_after_another(pipe, videos, singles):
    chats = [chat_about(source, question) for source, question in zip(videos, QUESTIONS, strict=True)]
    assert pipe(chats) == singles
    assert list(pipe((chat for chat in chats), batch_size=3)) == singles
    fields = ({"video": source, "text": question} for source, question in zip(videos, QUESTIONS, strict=True))
    assert list(pipe(fields)) == singles


def test_a_selection_answers_as_a_session_does(pipe, videos):
    long, selection = np.concatenate([video(20, 5), video(20, 6)]), FrameSelection(num_frames=4, max_p_value=1.0)
    [record] = pipe(long, text=QUESTIONS[1], num_frames="all", selection=selection, return_metadata=True)
    answer = HiComSession(pipe.model, pipe.processor).open(long, num_frames="all", selection=selection)
    answer = answer.ask(QUESTIONS[1], max_new_tokens=8)
    assert record["generated_text"] == answer.answer and record["selection"] == [answer.selection.to_dict()]
    assert record["video_metadata"][0]["indices"] == list(answer.selection.frames)


def test_a_selection_holds_for_batches_chats_of_several_videos_and_images_and_questions(pipe, videos, monkeypatch):
    options = {"num_frames": "all", "selection": {"num_frames": 4, "max_p_value": 1.0}}
    long = [video(20, 5), video(30, 6)]
    singles = [words(pipe(one, text=question, **options)) for one, question in zip(long, QUESTIONS, strict=False)]
    batch = pipe(long, text=QUESTIONS[:2], batch_size=2, **options)
    assert [words(result) for result in batch] == singles
    picture = Image.fromarray(videos[0][0])
    parts = [
        {"type": "video", "video": long[0]},
        {"type": "image", "image": picture},
        {"type": "video", "video": long[1]},
    ]
    chat = [{"role": "user", "content": [*parts, {"type": "text", "text": QUESTIONS[2]}]}]
    [record] = pipe(chat, return_metadata=True, **options)
    assert [len(sampled["indices"]) for sampled in record["video_metadata"]] == [4, 4] and len(
        record["selection"]
    ) == 2
    assert chat[0]["content"][0]["video"] is long[0]  # what was given is as it was
    calls, encode = [], type(pipe.model).encode_frames
    monkeypatch.setattr(
        type(pipe.model), "encode_frames", lambda self, pixels: calls.append(len(pixels)) or encode(self, pixels)
    )
    several = pipe(long[0], text=QUESTIONS[:2], **options)
    assert words(several[0]) == singles[0] and sum(calls) == 20


def test_several_questions_about_one_video_encode_it_once(pipe, clip, monkeypatch):
    expected = [pipe(clip, text=question, num_frames=6) for question in QUESTIONS]
    encoded, encode = [], pipe.model.model.encode_videos
    monkeypatch.setattr(pipe.model.model, "encode_videos", lambda *args: encoded.append(1) or encode(*args))
    assert pipe(clip, text=QUESTIONS, num_frames=6) == expected
    assert pipe({"video": clip, "question": QUESTIONS}, num_frames=6, batch_size=4) == expected
    assert len(encoded) == 2


def test_nothing_to_answer_gives_nothing(pipe, clip):
    assert pipe([]) == []
    assert pipe(clip, text=[]) == []


# Parameters ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sampling", "num_frames"),
    [
        ({"num_frames": 5}, 5),
        ({"fps": 5}, 6),
        ({"fps": 5, "min_frames": 9}, 9),
        ({"num_frames": 4, "start": 0.2, "end": 0.6}, 4),
        ({"max_video_tokens": 17 + 9}, 8),
        ({"num_frames": 24, "short_video": "repeat"}, 24),
        ({"processor_kwargs": {"num_frames": 5}}, 5),
    ],
)
def test_frames_are_chosen_by_parameters(pipe, clip, sampling, num_frames):
    [[record]] = pipe([clip], text="Who?", return_metadata=True, **sampling)
    assert len(record["video_metadata"][0]["indices"]) == num_frames
    [[shared]] = pipe(clip, text=["Who?"], return_metadata=True, **sampling)
    assert shared == record


def test_parameters_of_the_pipeline_hold_for_all_calls_and_calls_go_before_them(folder, clip):
    pipe = pipeline(TASK, model=str(folder), num_frames=5, max_new_tokens=3, return_tensors=True, return_metadata=True)
    [record] = pipe(clip, text="Who?")
    assert len(record["video_metadata"][0]["indices"]) == 5 and len(record["generated_token_ids"]) == 3
    [record] = pipe(clip, text="Who?", num_frames=2, max_new_tokens=4)
    assert len(record["video_metadata"][0]["indices"]) == 2 and len(record["generated_token_ids"]) == 4


def test_a_broken_file_gives_its_good_frames_if_asked_to(pipe, tmp_path):
    broken = write_corrupted_video(tmp_path / "broken.mp4")
    with pytest.raises(ValueError, match=r"broken\.mp4"):
        pipe(broken, text="Who?", num_frames=24)
    assert words(pipe(broken, text="Who?", num_frames=24, on_decode_error="keep"))


def test_arguments_of_generate_are_taken_directly_and_in_generate_kwargs(pipe, clip):
    expected = pipe(clip, text="Who?", num_beams=3, num_return_sequences=2)
    assert len(expected) == 2
    assert pipe(clip, text="Who?", generate_kwargs={"num_beams": 3, "num_return_sequences": 2}) == expected
    batch = pipe([clip, clip], text=["Who?", "Where is it?"], num_beams=3, num_return_sequences=2, batch_size=2)
    assert batch[0] == expected and len(batch[1]) == 2


def test_generation_stops_at_given_words(pipe, clip):
    [whole] = words(pipe(clip, text="Who?", max_new_tokens=8))
    stop = next(character for character in whole if character.isascii())
    [short] = words(pipe(clip, text="Who?", max_new_tokens=8, stop_strings=[stop]))
    assert short == whole[: whole.index(stop) + 1].strip()


def test_the_full_text_is_the_chat_continued(pipe, clip):
    [answer] = words(pipe(clip, text="Who?"))
    [full] = words(pipe(clip, text="Who?", return_full_text=True))
    assert [message["role"] for message in full] == ["user", "assistant"]
    assert full[-1]["content"] == [{"type": "text", "text": answer}]
    assert words(pipe([*full, *chat_about(clip, "And now?")]))


def test_a_chat_that_ends_with_the_assistant_is_continued(pipe, clip):
    begun = [*chat_about(clip, "Who?"), {"role": "assistant", "content": [{"type": "text", "text": "It is"}]}]
    [full] = words(pipe(begun, return_full_text=True))
    assert len(full) == 2 and full[-1]["content"][0]["text"].startswith("It is")
    assert full[-1]["content"][0]["text"] == "It is" + words(pipe(begun))[0]
    as_string = [begun[0], {"role": "assistant", "content": "It is"}]
    assert words(pipe(as_string, return_full_text=True))[0][-1]["content"] == full[-1]["content"][0]["text"]


def test_a_system_prompt_changes_the_prompt(pipe, clip):
    [full] = words(pipe(clip, text="Who?", system="Be brief.", return_full_text=True))
    assert full[0] == {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}


def test_other_words_may_steer_the_compression(pipe, clip, monkeypatch):
    seen, encode = [], pipe.processor.encode_instructions
    monkeypatch.setattr(pipe.processor, "encode_instructions", lambda texts: seen.append(texts) or encode(texts))
    pipe(clip, text="Who?", instruction="red cat")
    pipe({"video": clip, "text": "Who?", "instruction": "blue dog"}, instruction="red cat")
    pipe(clip, text="Who?")
    assert seen == [["red cat"], ["blue dog"], ["Who?"]]


def test_special_tokens_in_a_question_are_plain_text(pipe, clip):
    assert words(pipe(clip, text="What does <|video_pad|> mean?"))
    assert words(pipe(clip, text=["What does <|video_pad|> mean?"])[0])


def test_answers_are_streamed(pipe, clip):
    pieces = []

    class Streamer(TextStreamer):
        def on_finalized_text(self, text, stream_end=False):
            pieces.append(text)

    streamer = Streamer(pipe.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    [answer] = words(pipe(clip, text="Who?", streamer=streamer))
    assert len(pieces) > 1 and "".join(pieces).strip() == answer


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_dtype_and_attention_reach_the_model(folder, clip, attention):
    pipe = pipeline(
        TASK, model=str(folder), dtype=torch.bfloat16, model_kwargs={"attn_implementation": attention}, device="cpu"
    )
    assert pipe.model.dtype == torch.bfloat16
    for config in (pipe.model.config, pipe.model.config.vision_config, pipe.model.config.text_config):
        assert config._attn_implementation == attention
    assert words(pipe(clip, text="Who?", max_new_tokens=4))


def test_random_weights_are_announced(folder, caplog):
    with caplog.at_level("WARNING"):
        pipeline(TASK, model=str(folder))
    assert "the words of its answers mean nothing" in caplog.text


# Bad input -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("question", ["", "  \n"])
def test_an_empty_question_is_refused(pipe, clip, question):
    for inputs, text in (
        (clip, question),
        ([clip, clip], ["Who?", question]),
        (clip, ["Who?", question]),
        (chat_about(clip, question), None),
        ({"video": clip, "text": question}, None),
    ):
        with pytest.raises(ValueError, match="question is empty"):
            pipe(inputs, text=text)


def test_missing_and_contradicting_inputs_are_refused(pipe, clip):
    with pytest.raises(ValueError, match="question is missing"):
        pipe(clip)
    with pytest.raises(ValueError, match="give a video and a question"):
        pipe()
    with pytest.raises(ValueError, match="give a video and a question"):
        pipe("", text="Who?")
    with pytest.raises(ValueError, match="text and question mean the same"):
        pipe(clip, text="Who?", question="Who?")
    with pytest.raises(ValueError, match="2 videos and 3 questions"):
        pipe([clip, clip], text=["Who?"] * 3)
    with pytest.raises(ValueError, match="a chat holds its question"):
        pipe(chat_about(clip, "Who?"), text="Where?")
    with pytest.raises(ValueError, match="a chat holds its question"):
        pipe(chat_about(clip, "Who?"), text=["Where?"])
    with pytest.raises(ValueError, match=r"got the fields \['movie', 'text'\]"):
        pipe({"movie": clip, "text": "Who?"})
    with pytest.raises(ValueError, match="a stream of inputs takes one question"):
        pipe((path for path in [clip]), text=["Who?"])
    with pytest.raises(TypeError, match="a question must be a string, got int"):
        pipe(clip, text=3)


def test_unknown_and_doubled_arguments_are_refused_by_name(pipe, folder, clip):
    with pytest.raises(TypeError, match="no argument 'number_of_frames'"):
        pipe(clip, text="Who?", number_of_frames=3)
    with pytest.raises(TypeError, match="no argument 'number_of_frames'"):
        pipeline(TASK, model=str(folder), number_of_frames=3)
    with pytest.raises(ValueError, match="max_new_tokens was given twice"):
        pipe(clip, text="Who?", max_new_tokens=3, generate_kwargs={"max_new_tokens": 4})


def test_a_prompt_that_is_too_long_for_the_llm_is_refused(pipe, clip, monkeypatch):
    monkeypatch.setattr(pipe.model.config.text_config, "max_position_embeddings", 50)
    with pytest.raises(ValueError, match=r"the prompt has \d+ tokens, more than the 50 .*fewer frames"):
        pipe(clip, text="Who?")


def test_a_missing_video_is_named(pipe):
    with pytest.raises((ValueError, OSError), match=r"no_such\.mp4"):
        pipe("no_such.mp4", text="Who?")


def test_a_batch_without_a_padding_token_is_refused():
    with pytest.raises(ValueError, match="needs a padding token"):
        collate_requests([{"input_ids": torch.ones(1, 3)}], pad_token_id=None)


def test_a_folder_without_processor_is_named_with_the_remedy(model, tmp_path):
    model.save_pretrained(tmp_path / "bare")
    with pytest.raises(ValueError, match=r"bare: the model has no processor .*processor\.save_pretrained"):
        pipeline(TASK, model=str(tmp_path / "bare"))


def test_a_model_that_was_never_saved_needs_its_processor(model):
    with pytest.raises(ValueError, match="comes from no folder; pass processor="):
        pipeline(TASK, model=model)


def test_a_wrong_instruction_tokenizer_is_named(folder, tmp_path):
    wrong = shutil.copytree(folder, tmp_path / "wrong")
    shutil.rmtree(wrong / "instruction_tokenizer")
    with pytest.raises(ValueError, match="wrong: the processor cannot be loaded: instruction_tokenizer"):
        pipeline(TASK, model=str(wrong))


def test_pipeline_and_processor_know_the_same_arguments_for_frames():
    from hicom_hf.processors import chosen_chats_hicom, processing_hicom, video_text_to_text

    assert {*video_text_to_text.SAMPLING_KEYS, "return_metadata"} == set(processing_hicom.SAMPLING_KEYS)
    assert set(video_text_to_text.SAMPLING_KEYS) == chosen_chats_hicom.FRAME_ARGUMENTS


def test_every_answer_reports_the_instruction_that_was_used(model, processor, clip):
    pipe = pipeline("video-text-to-text", model=model, processor=processor, max_new_tokens=2)
    question = "Who is it?\n(A) Ann\n(B) Bob\nAnswer with the option's letter."
    assert [record["instruction"] for record in pipe(str(clip), text=question)] == ["Who is it?"]
    several = pipe(str(clip), text=[question, "Why?"])
    assert [records[0]["instruction"] for records in several] == ["Who is it?", "Why?"]
    given = pipe({"video": str(clip), "text": question, "instruction": "the man"})
    assert given[0]["instruction"] == "the man"


def test_tables_and_columns_of_the_library_datasets_are_streams_of_inputs(pipe, tmp_path):
    datasets = pytest.importorskip("datasets")
    paths = [str(write_video(tmp_path / f"{number}.mp4", 4 + number)) for number in range(3)]
    table = datasets.Dataset.from_dict({"video": paths, "text": ["Who?", "What?", "Where?"]})
    asked = [pipe(path, text=text, max_new_tokens=4) for path, text in zip(paths, table["text"], strict=True)]
    assert list(pipe(table, max_new_tokens=4)) == asked
    assert list(pipe(table, max_new_tokens=4, batch_size=2)) == asked
    assert list(pipe(table["video"], text="Who?", max_new_tokens=4)) == pipe(paths, text="Who?", max_new_tokens=4)


def test_generation_stops_at_given_words_of_a_tokenizer_of_whole_words(clip):
    tiny = pipeline("video-text-to-text", model=str(hicom_tiny()))
    [answer] = words(tiny(clip, text="Where is the red circle?", max_new_tokens=8))
    [short] = words(tiny(clip, text="Where is the red circle?", max_new_tokens=8, stop_strings=answer.split()[0]))
    assert short == answer.split()[0] != answer


def test_image_text_to_text_makes_batches(model, processor):
    pipe = pipeline("image-text-to-text", model=model, processor=processor)
    chats = [chat_about(Image.new("RGB", (40, 30), colour), "Who is it?", "image") for colour in ("red", "blue")]
    options = {"max_new_tokens": 4, "return_full_text": False}
    assert pipe(text=chats, batch_size=2, **options) == [pipe(text=chat, **options) for chat in chats]


# Tiles ------------------------------------------------------------------------------------------------------------------


def test_tiles_are_chosen_for_each_question_as_in_a_session(pipe, videos):
    session = HiComSession(pipe.model, pipe.processor, cache_bytes=0)
    tiles = FrameTiles((1, 2))
    opened = session.open(videos[1], num_frames=4, tiles=tiles)
    expected = opened.ask_all(QUESTIONS[:2], max_new_tokens=8)
    options = {"num_frames": 4, "return_metadata": True}
    together = pipe(videos[1], text=QUESTIONS[:2], tiles=tiles, **options)
    for question, answer, [record] in zip(QUESTIONS, expected, together, strict=False):
        assert record["generated_text"] == answer.answer and record["tiles"] == [answer.tiles.to_dict()]
        [alone] = pipe(videos[1], text=question, tiles={"zooms": (1, 2)}, **options)
        assert alone == record
    assert "tiles" not in pipe(videos[1], text=QUESTIONS[0], **options)[0]


def test_chats_with_several_videos_and_images_are_tiled_one_by_one(pipe, videos):
    picture = Image.fromarray(videos[0][0])
    content = [
        {"type": "video", "video": videos[1], "num_frames": 3},
        {"type": "image", "image": picture},
        {"type": "text", "text": QUESTIONS[0]},
    ]
    chat = [{"role": "user", "content": content}]
    batch = pipe([chat, chat_about(videos[2], QUESTIONS[1])], tiles=FrameTiles(), batch_size=2, return_metadata=True)
    singles = [
        pipe(one, tiles=FrameTiles(), return_metadata=True) for one in (chat, chat_about(videos[2], QUESTIONS[1]))
    ]
    assert [words(one) for one in batch] == [words(one) for one in singles]
    [record] = batch[0]
    assert [len(one["indices"]) for one in record["video_metadata"]] == [3, 1] and len(record["tiles"]) == 2
    of_image = pipe(picture, text=QUESTIONS[0], tiles=FrameTiles(), return_metadata=True)
    assert of_image[0]["tiles"] == record["tiles"][1:]


def test_wrong_tiles_are_refused(pipe, videos):
    with pytest.raises(TypeError, match="tiles must be a FrameTiles or a dictionary of its fields, got int"):
        pipe(videos[0], text="Who?", tiles=2)
    with pytest.raises(ValueError, match="a selection and tiles need the video itself"):
        pipe([{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "Who?"}]}], tiles=FrameTiles())
