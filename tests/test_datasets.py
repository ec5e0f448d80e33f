"""Data sets in files: what a sample holds, what is refused, what is skipped and counted."""

import json
import logging
import os
import tracemalloc

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from training_runs import encoder_of
from video_files import write_frame_folder, write_truncated_video, write_video

from hicom_hf import FrameSampling
from hicom_hf.data.bad_samples import MISSING_MEDIA, TOO_LONG, UNREADABLE_MEDIA, SampleError, SkippedSample
from hicom_hf.data.datasets import HiComDataset, load_records
from hicom_hf.data.encoding import IGNORED, ItemEncoder
from hicom_hf.data.packed_records import PackedRecords
from hicom_hf.data.record_files import file_records
from hicom_hf.data.record_media import Record


def record(question="<video>\nWho runs?", answer="Ann.", **entries):
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {**entries, "conversations": turns}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two videos, a broken one and two images."""
    folder = tmp_path_factory.mktemp("media")
    write_video(folder / "twelve.mp4", 12)
    write_video(folder / "three.mp4", 3)
    write_truncated_video(folder / "broken.mp4")
    for name, colour in (("red.png", "red"), ("blue.png", "blue")):
        Image.new("RGB", (40, 30), colour).save(folder / name)
    return folder


def supervised_text(sample, processor):
    return processor.tokenizer.decode(sample["labels"][sample["labels"] != IGNORED])


def test_a_video_sample_is_what_the_processor_makes_of_the_chat(folder, processor):
    dataset = HiComDataset([record(video="twelve.mp4")], encoder_of(processor), folder)
    sample = dataset[0]
    chat = [
        {
            "role": "user",
            "content": [
                {"type": "video", "path": str(folder / "twelve.mp4")},
                {"type": "text", "text": "Who runs?"},
            ],
        },
        {"role": "assistant", "content": "Ann."},
    ]
    expected = processor.apply_chat_template(
        chat, tokenize=True, return_dict=True, return_tensors="pt", num_frames=8, instruction="Who runs?"
    )
    assert torch.equal(sample["input_ids"], expected["input_ids"][0])
    for name in ("pixel_values_videos", "video_num_frames", "video_instruction_ids"):
        assert torch.equal(sample[name], expected[name])
    assert set(sample) == {
        "input_ids",
        "labels",
        "pixel_values_videos",
        "video_num_frames",
        "video_instruction_ids",
        "decode_seconds",
    }
    assert supervised_text(sample, processor) == "Ann.<|im_end|>\n"
    assert (sample["labels"][sample["input_ids"] == processor.video_token_id] == IGNORED).all()


def test_a_short_video_has_the_visual_tokens_of_its_own_frames(folder, processor):
    sample = HiComDataset([record(video="three.mp4")], encoder_of(processor), folder)[0]
    assert sample["video_num_frames"].tolist() == [3]
    assert (sample["input_ids"] == processor.video_token_id).sum() == processor.num_visual_tokens(3)


def test_the_seconds_that_a_record_names_are_used(folder, processor):
    sample = HiComDataset([record(video="twelve.mp4", start=0.3, end=0.6)], encoder_of(processor), folder)[0]
    assert sample["video_num_frames"].tolist() == [3]


def test_one_video_may_appear_twice_with_other_seconds(folder, processor):
    path = str(folder / "twelve.mp4")
    parts = [{"type": "video", "path": path, "end": 0.3}, {"type": "video", "path": path, "start": 0.3, "end": 0.8}]
    messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": "Two."}]
    assert HiComDataset([{"messages": messages}], encoder_of(processor))[0]["video_num_frames"].tolist() == [3, 5]


def test_raw_pixels_are_bytes_that_the_processor_normalises_to_the_same_values(folder, processor):
    records = [record("<image><video>Is it him?", video="twelve.mp4", image="red.png")]
    expected = HiComDataset(records, encoder_of(processor), folder)[0]
    raw = HiComDataset(records, encoder_of(processor, raw_pixels=True), folder)[0]
    for name in ("pixel_values", "pixel_values_videos"):
        assert raw[name].dtype == torch.uint8
        assert raw[name].nbytes * 4 == expected[name].nbytes
        assert torch.equal(processor.video_processor.normalised(raw[name]), expected[name])


def test_what_is_no_encoder_or_no_request_is_refused(processor):
    with pytest.raises(
        TypeError, match=r"encoder must be an ItemEncoder, got \w+; ItemEncoder\(processor, FrameSampling"
    ):
        HiComDataset([record("Who?")], processor)
    with pytest.raises(TypeError, match=r"sampling must be a FrameSampling or None, got int"):
        ItemEncoder(processor, 32)


# Numbers of frames of their own ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sampling",
    [{"num_frames": 8}, {"fps": 2.0}, {"num_frames": 8, "max_frames": 3}, {"fps": 10.0, "max_frames": 3}, {}],
)
def test_a_record_has_as_many_frames_as_it_says_whatever_the_data_set_says(folder, processor, sampling):
    encoder = ItemEncoder(processor, FrameSampling(**sampling) if sampling else None)
    sample = HiComDataset([record(video="twelve.mp4", num_frames=5)], encoder, folder)[0]
    expected = processor.video_processor([str(folder / "twelve.mp4")], num_frames=5)
    assert sample["video_num_frames"].tolist() == [5]
    assert torch.equal(sample["pixel_values_videos"], expected["pixel_values_videos"])
    assert (sample["input_ids"] == processor.video_token_id).sum() == processor.num_visual_tokens(5)


def test_a_bound_of_the_processor_does_not_apply_to_a_record_with_its_own_number_of_frames(folder):
    from hicom_hf.assembly.random_model import tiny_processor

    bounded = tiny_processor()
    bounded.video_processor.max_frames = 3
    records = [record(video="twelve.mp4", num_frames=5), record(video="twelve.mp4")]
    dataset = HiComDataset(records, ItemEncoder(bounded), folder)
    assert [sample["video_num_frames"].tolist() for sample in (dataset[0], dataset[1])] == [[5], [3]]


def test_a_short_video_gives_the_frames_it_has_or_repeats_them_as_the_data_set_says(folder, processor):
    records = [record(video="three.mp4", num_frames=6)]
    for short_video, expected in (("once", 3), ("repeat", 6)):
        dataset = HiComDataset(
            records, ItemEncoder(processor, FrameSampling(num_frames=2, short_video=short_video)), folder
        )
        assert dataset[0]["video_num_frames"].tolist() == [expected]


def test_a_range_and_a_number_of_frames_go_together(folder, processor):
    records = [record(video="twelve.mp4", start=0.3, end=0.8, num_frames=2)]
    expected = processor.video_processor([str(folder / "twelve.mp4")], num_frames=2, start=0.3, end=0.8)
    sample = HiComDataset(records, encoder_of(processor), folder)[0]
    assert torch.equal(sample["pixel_values_videos"], expected["pixel_values_videos"])


def test_folders_and_lists_of_frames_have_their_own_number_of_frames_too(processor, tmp_path):
    frames = write_frame_folder(tmp_path / "frames", 10)
    files = [str(frames / f"{index}.png") for index in range(10)]
    records = [record(video="frames", num_frames=4), record(video=[files], num_frames=3), record(video="frames")]
    dataset = HiComDataset(records, encoder_of(processor, 6), tmp_path)
    assert [dataset[index]["video_num_frames"].tolist() for index in range(3)] == [[4], [3], [6]]


def test_one_video_may_appear_twice_with_other_numbers_of_frames(folder, processor):
    path = str(folder / "twelve.mp4")
    parts = [{"type": "video", "path": path, "num_frames": 2}, {"type": "video", "path": path, "num_frames": 7}]
    messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": "Two."}]
    sample = HiComDataset([{"messages": messages}], encoder_of(processor))[0]
    assert sample["video_num_frames"].tolist() == [2, 7]


def test_records_of_one_video_with_other_numbers_of_frames_are_listed_and_read_apart(folder, processor):
    records = [record(video="twelve.mp4", num_frames=number) for number in (2, 7, 2)] + [record(video="twelve.mp4")]
    dataset = HiComDataset(records, encoder_of(processor, 4), folder)
    assert [dataset[index]["video_num_frames"].tolist() for index in range(4)] == [[2], [7], [2], [4]]
    assert [medium.num_frames for medium in dataset.media()] == [2, 7, None]


def test_a_wrong_number_of_frames_is_an_error_before_training_begins_or_a_counted_skip(folder, processor):
    records = [record(video="twelve.mp4", id="q7", num_frames=0), record(video="twelve.mp4")]
    message = r"record 0 \(id q7\): bad record: num_frames must be a whole number of at least 1, got 0"
    with pytest.raises(SampleError, match=message):
        HiComDataset(records, ItemEncoder(processor), folder)
    dataset = HiComDataset(records, ItemEncoder(processor), folder, on_bad_sample="skip")
    assert (len(dataset), len(dataset.skipped)) == (1, 1)


# Text, templates and loaders -------------------------------------------------------------------------------------------


def test_several_images_of_a_record_are_all_there_in_order(folder, processor):
    two = record("<image>\n<image>\nSame?", "No.", image=["red.png", "blue.png"])
    sample = HiComDataset([two], ItemEncoder(processor), folder)[0]
    assert sample["pixel_values"].shape == (2, 3, 56, 56)
    assert sample["image_instruction_ids"].shape == (2, 64)
    assert sample["pixel_values"][0, 0].mean() > sample["pixel_values"][1, 0].mean()  # red first
    assert (sample["input_ids"] == processor.image_token_id).sum() == 2 * processor.num_visual_tokens(1)


def test_a_text_only_dialogue_has_no_visual_inputs_and_all_answers_supervised(processor):
    turns = [("human", "Who?"), ("gpt", "Ann."), ("human", "Why?"), ("gpt", "Why not.")]
    data = {"conversations": [{"from": role, "value": value} for role, value in turns]}
    sample = HiComDataset([data], ItemEncoder(processor))[0]
    assert set(sample) == {"input_ids", "labels", "decode_seconds"}
    assert supervised_text(sample, processor) == "Ann.<|im_end|>\nWhy not.<|im_end|>\n"


def test_an_answer_that_merges_with_the_prompt_is_cut_where_inference_cuts(processor):
    tokenizer = processor.tokenizer
    sample = HiComDataset([record("Who?", "\n Ann.")], ItemEncoder(processor))[0]
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": "Who?"}], tokenize=False, add_generation_prompt=True
    )
    prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    assert sample["input_ids"][: len(prompt_ids)].tolist() == prompt_ids
    assert supervised_text(sample, processor) == "\n Ann.<|im_end|>\n"


def test_another_chat_template_than_chatml_is_supervised_by_its_own_ends(processor):
    from hicom_hf.assembly.random_model import tiny_processor

    other = tiny_processor()
    other.chat_template = (
        "{% for m in messages %}{{ '[' + m['role'] + ']' + m['content'] + '~' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"
    )
    sample = HiComDataset([record("Who?", "Ann.")], ItemEncoder(other))[0]
    assert other.tokenizer.decode(sample["input_ids"]) == "[user]Who?~[assistant]Ann.~"
    assert supervised_text(sample, other) == "Ann.~"


def test_a_template_that_rewrites_earlier_turns_is_refused_for_whole_dialogues():
    from hicom_hf.assembly.random_model import tiny_processor

    other = tiny_processor()
    other.chat_template = (
        "{{ messages | length }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}{{ ':' }}{% endif %}"
    )
    with pytest.raises(SampleError, match=r"writes the turns before message 2 differently.*per_turn=True"):
        HiComDataset([record("Who?", "Ann.")], ItemEncoder(other))[0]


def test_loader_processes_may_start_after_a_video_was_read_here(folder, processor):
    dataset = HiComDataset([record(video="twelve.mp4")] * 4, encoder_of(processor), folder)
    expected = dataset[0]["pixel_values_videos"]
    loader = DataLoader(dataset, batch_size=None, num_workers=2)
    assert all(torch.equal(sample["pixel_values_videos"], expected) for sample in loader)


# Too long --------------------------------------------------------------------------------------------------------------


def test_a_long_sample_loses_the_end_of_its_answer_and_visual_tokens_count(folder, processor):
    whole = HiComDataset(
        [record(video="twelve.mp4", answer="Ann, I think.")],
        encoder_of(processor),
        folder,
    )[0]
    length = len(whole["input_ids"])
    assert length > processor.num_visual_tokens(8)
    dataset = HiComDataset(
        [record(video="twelve.mp4", answer="Ann, I think.")],
        encoder_of(processor, max_length=length - 4),
        folder,
    )
    sample = dataset[0]
    assert torch.equal(sample["input_ids"], whole["input_ids"][:-4])
    assert supervised_text(sample, processor) == "Ann, I thin"  # without "k", ".", the end of turn and "\n"


def test_a_sample_whose_answer_would_be_cut_away_is_an_error_or_a_skip(folder, processor):
    whole = HiComDataset([record(video="twelve.mp4")], encoder_of(processor), folder)[0]
    prompt_length = int((whole["labels"] == IGNORED).sum())
    encoder = encoder_of(processor, max_length=prompt_length)
    with pytest.raises(SampleError, match=rf"too long: .* visual\).*max_length={prompt_length}") as error:
        HiComDataset([record(video="twelve.mp4")], encoder, folder)[0]
    assert error.value.kind == TOO_LONG
    skipped = HiComDataset([record(video="twelve.mp4")], encoder, folder, on_bad_sample="skip")[0]
    assert isinstance(skipped, SkippedSample)


def test_a_dialogue_is_not_cut_through_a_later_video(folder, processor):
    turns = [("<video>\nWho runs?", "Ann."), ("<video>\nAnd here?", "Ben.")]
    conversations = [
        {"from": role, "value": text} for turn in turns for role, text in zip(("human", "gpt"), turn, strict=True)
    ]
    records = [{"id": "two", "video": ["twelve.mp4", "three.mp4"], "conversations": conversations}]
    whole = HiComDataset(records, encoder_of(processor, 3), folder, per_turn=False)[0]
    visual = torch.nonzero(whole["input_ids"] == processor.video_token_id).flatten().tolist()
    answered = torch.nonzero(whole["labels"] != IGNORED).flatten().tolist()
    middle = visual[-2]  # in the second video, behind the first answer
    assert answered[0] < middle
    with pytest.raises(SampleError, match=f"too long: .*max_length={middle}"):
        HiComDataset(records, encoder_of(processor, 3, max_length=middle), folder, per_turn=False)[0]
    cut = HiComDataset(records, encoder_of(processor, 3, max_length=answered[-1]), folder, per_turn=False)[0]
    assert torch.equal(cut["input_ids"], whole["input_ids"][: answered[-1]])


# Bad samples -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"),
    [("nowhere.mp4", MISSING_MEDIA), ("broken.mp4", UNREADABLE_MEDIA), ("red.png.mp4", MISSING_MEDIA)],
)
def test_a_video_that_cannot_be_read_stops_with_record_and_path(folder, processor, name, kind):
    dataset = HiComDataset([record(video=name, id="q7")], ItemEncoder(processor), folder)
    with pytest.raises(SampleError, match=rf"record 0 \(id q7\): .*{name}: {kind}") as error:
        dataset[0]
    assert error.value.kind == kind


def test_an_error_of_a_loader_process_is_the_one_without_it(folder, processor):
    dataset = HiComDataset([record(video="nowhere.mp4", id="q7")], ItemEncoder(processor), folder)
    errors = []
    for num_workers in (0, 1):
        with pytest.raises(SampleError) as error:
            next(iter(DataLoader(dataset, batch_size=1, num_workers=num_workers)))
        errors.append((str(error.value), error.value.source, error.value.kind, error.value.reason))
    assert errors[0] == errors[1]


def test_an_image_that_cannot_be_read_stops_with_its_path(folder, processor):
    dataset = HiComDataset([record("<image>Who?", image="broken.mp4")], ItemEncoder(processor), folder)
    with pytest.raises(SampleError, match=r"broken.mp4: unreadable media"):
        dataset[0]


def test_skipping_is_explicit_logged_and_puts_nothing_in_the_place(folder, processor, caplog):
    records = [record(video="nowhere.mp4"), record(video="twelve.mp4"), record("Who?", " ")]
    with caplog.at_level(logging.WARNING):
        dataset = HiComDataset(records, ItemEncoder(processor), folder, on_bad_sample="skip")
        assert len(dataset) == 2
        assert dataset.skipped == [SkippedSample("record 2", "empty answer: answer 1 has no text")]
        sample = dataset[0]
    assert isinstance(sample, SkippedSample)
    assert "nowhere.mp4" in sample.source
    assert "record 2: empty answer" in caplog.text
    assert "nowhere.mp4: missing media" in caplog.text
    assert dataset.summary() == "2 samples (2 video) of 3 records, 1 records skipped"


def test_a_bad_record_is_an_error_before_training_begins(folder, processor):
    with pytest.raises(SampleError, match=r"record 1: empty answer"):
        HiComDataset(
            [record(video="twelve.mp4"), record(answer="", video="three.mp4")], ItemEncoder(processor), folder
        )


def test_a_dataset_without_any_sample_is_an_error(processor):
    with pytest.raises(ValueError, match=r"no sample is left of 1 records \(1 skipped\)"):
        HiComDataset([record(answer="")], ItemEncoder(processor), on_bad_sample="skip")


def test_on_bad_sample_takes_two_values(processor):
    with pytest.raises(ValueError, match="on_bad_sample must be"):
        HiComDataset([record("Who?")], ItemEncoder(processor), on_bad_sample="replace")


def test_max_length_must_be_positive(processor):
    with pytest.raises(ValueError, match="max_length must be at least 1"):
        HiComDataset([record("Who?")], ItemEncoder(processor, max_length=0))


def test_lines_of_a_file_are_packed_while_they_are_read(processor, tmp_path):
    lines = [json.dumps(record("Who?", answer="Ann. " * 50)) for _ in range(4000)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    tracemalloc.start()
    dataset = HiComDataset(tmp_path / "a.jsonl", ItemEncoder(processor))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(dataset) == 4000
    assert peak < 2 * sum(map(len, lines)) + 2**20  # a list of records in Python would be four times the file


# Lengths ---------------------------------------------------------------------------------------------------------------


def test_lengths_are_estimated_without_decoding_and_near_the_truth(folder, processor):
    records = [record("<video>" + "why " * n, "b" * n, video="twelve.mp4") for n in range(1, 30)]
    records += [record("Hi", "c" * n) for n in (1, 200)]
    missing = [json.loads(json.dumps(entry).replace("twelve", "nowhere")) for entry in records]
    estimated = HiComDataset(missing, encoder_of(processor), folder)
    real = HiComDataset(records, encoder_of(processor), folder)
    true_lengths = [len(real[index]["input_ids"]) for index in range(len(real))]
    assert max(abs(estimated.lengths - true_lengths)) <= 3
    assert (estimated.modality_lengths < 0).tolist() == [False] * 29 + [True] * 2


def test_lengths_count_the_visual_tokens_of_each_records_own_number_of_frames(folder, processor):
    numbers = [None, 2, 6, 12, 2]  # of 12 frames that the video has
    records = [record(video="twelve.mp4", num_frames=number) for number in numbers]
    two = record("<video><image><video>Who runs?", video=["twelve.mp4"] * 2, image="red.png", num_frames=6)
    dataset = HiComDataset([*records, two], encoder_of(processor), folder)
    visual = [processor.num_visual_tokens(number or 8) for number in numbers]
    assert len(set(visual)) == 3  # 6 and 8 frames make as many groups of 4
    visual.append(2 * processor.num_visual_tokens(6) + processor.num_visual_tokens(1))
    placeholders = torch.tensor([processor.video_token_id, processor.image_token_id])
    samples = [dataset[index] for index in range(6)]
    assert [int(torch.isin(sample["input_ids"], placeholders).sum()) for sample in samples] == visual
    # The text is the same in all, so that what differs is the visual part.
    assert (dataset.lengths - dataset.lengths[0]).tolist() == [tokens - visual[0] for tokens in visual]
    assert max(abs(dataset.lengths - [len(sample["input_ids"]) for sample in samples])) <= 3


def test_visual_tokens_are_computed_once_per_number_of_frames(processor, monkeypatch):
    asked = []
    num_visual_tokens = processor.num_visual_tokens
    monkeypatch.setattr(processor, "num_visual_tokens", lambda n: asked.append(n) or num_visual_tokens(n))
    records = [record(video="nowhere.mp4", num_frames=number) for number in (2, 3, None) for _ in range(50)]
    HiComDataset(records, encoder_of(processor))
    assert sorted(asked) == [2, 3, 8]


# Files -----------------------------------------------------------------------------------------------------------------


def test_json_and_jsonl_give_the_same_records_with_paths_beside_the_file(folder, tmp_path, processor):
    entries = [record(video="twelve.mp4", id=5), record("Who?")]
    (tmp_path / "a.json").write_text(json.dumps(entries))
    (tmp_path / "a.jsonl").write_text("\n\n".join(map(json.dumps, entries)) + "\n")
    as_json, as_lines = (list(file_records(tmp_path / name)) for name in ("a.json", "a.jsonl"))
    assert [r.data for r in as_json] == [r.data for r in as_lines] == entries
    assert as_json[0].source == f"{tmp_path / 'a.json'}: record 0 (id 5)"
    assert as_json[1].source == f"{tmp_path / 'a.json'}: record 1"
    assert as_json[0].media_root == str(tmp_path)
    assert len(HiComDataset(tmp_path / "a.jsonl", ItemEncoder(processor), folder)[0]["video_num_frames"]) == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "{", "a.json: this is not JSON"),
        ("a.json", '{"a": 1}', "expected a list of records, got dict"),
        ("a.json", "{}\n{}", r"must end in \.jsonl"),
        ("a.jsonl", "{}\n{", "a.jsonl, line 2: this is not JSON"),
    ],
)
def test_a_file_that_is_no_data_set_is_an_error(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        list(file_records(tmp_path / name))


def test_tar_shards_are_not_opened_as_a_file(tmp_path):
    with pytest.raises(ValueError, match=r"a.tar: tar shards are read as a stream, by HiComStreamingDataset"):
        load_records(tmp_path / "a.tar")


def test_records_in_memory_are_named_by_place_and_kept_if_they_have_a_name():
    named = Record(record("Who?"), "mine")
    first, second = load_records([record("Who?"), named])
    assert (first.source, second) == ("record 0", named)


def test_packed_records_are_the_records_in_less_memory(tmp_path):
    entries = [record(f"Wer läuft? \ud800 {n}", "Ann 🙂.", id=n, video="a.mp4", start=0.5) for n in range(500)]
    (tmp_path / "a.json").write_text(json.dumps(entries))
    tracemalloc.start()
    records = load_records(tmp_path / "a.json")
    records_size = tracemalloc.get_traced_memory()[0]
    packed = PackedRecords(records)
    packed_size = tracemalloc.get_traced_memory()[0] - records_size
    tracemalloc.stop()
    assert list(packed) == records
    assert packed_size < records_size / 3
    with pytest.raises(IndexError, match="record 500 of 500"):
        packed[500]


def test_records_that_json_cannot_hold_stay_as_they_are(processor):
    picture = Image.new("RGB", (40, 30), "red")
    records = [record("Who?"), record("<image>Who?", image=picture), record("<image>Why?", image=picture)]
    dataset = HiComDataset(records, ItemEncoder(processor))
    assert dataset.records[1].data["image"] is picture
    assert dataset[1]["pixel_values"].shape == (1, 3, 56, 56)
    assert len(list(dataset.media())) == 1


def test_every_medium_is_listed_once(folder, processor):
    records = [record(video="twelve.mp4"), record(video="three.mp4"), record(video="twelve.mp4"), record("Hi")]
    names = [medium.source for medium in HiComDataset(records, ItemEncoder(processor), folder).media()]
    assert names == [str(folder / "twelve.mp4"), str(folder / "three.mp4")]


@pytest.mark.parametrize("name", ["records.json", "records.jsonl", "mixture.yaml"])
def test_pipes_and_devices_are_no_data_files(tmp_path, name):
    path = tmp_path / name
    os.mkfifo(path)  # to open it would wait for a writer
    with pytest.raises(OSError, match=rf"{name}: this is a pipe, socket or device"):
        load_records(path)
    path.unlink()
    path.symlink_to("/dev/zero")  # to read it would fill the memory
    with pytest.raises(OSError, match=rf"{name}: this is a pipe, socket or device"):
        load_records(path)
