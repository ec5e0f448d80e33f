"""Batches: a batch equals its samples one by one, on either side of padding, and counts what it holds."""

import pytest
import torch
from PIL import Image
from training_runs import encoder_of, write_data
from video_files import write_video

from hicom_hf.assembly.random_model import tiny_processor
from hicom_hf.data.bad_samples import SampleError, SkippedSample
from hicom_hf.data.collating import BatchStatistics, HiComDataCollator
from hicom_hf.data.datasets import HiComDataset, load_records
from hicom_hf.data.encoding import IGNORED
from hicom_hf.data.media_reader import MediaReader
from hicom_hf.data.row_collating import HiComPreferenceCollator, HiComRowCollator


def record(question, answer, **entries):
    return {**entries, "conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]}


@pytest.fixture(scope="module")
def samples(tmp_path_factory, processor):
    """Two videos of different lengths, two images in one sample, and one sample of text."""
    folder = tmp_path_factory.mktemp("media")
    write_video(folder / "twelve.mp4", 12)
    write_video(folder / "three.mp4", 3)
    for name, colour in (("red.png", "red"), ("blue.png", "blue")):
        Image.new("RGB", (40, 30), colour).save(folder / name)
    records = [
        record("<video>\nWho runs?", "Ann.", video="twelve.mp4"),
        record("Who are you?", "A model."),
        record("<image><image>Same?", "No, they differ.", image=["red.png", "blue.png"]),
        record("<video>\nAnd now?", "Bob.", video="three.mp4"),
    ]
    dataset = HiComDataset(records, encoder_of(processor), folder)
    return [dataset[index] for index in range(len(dataset))]


@pytest.mark.parametrize("side", ["right", "left"])
def test_the_loss_of_a_batch_is_that_of_its_samples(samples, model, processor, side):
    collator = HiComDataCollator(processor, side)
    with torch.no_grad():
        together = model(**collator(samples)).loss
        alone = [model(**collator([sample])).loss for sample in samples]
    counts = torch.tensor([int((sample["labels"] != IGNORED).sum()) for sample in samples])
    # float32: batched and single matrix products add up in another order
    torch.testing.assert_close(together, (torch.stack(alone) * counts).sum() / counts.sum(), atol=1e-5, rtol=0)


def test_rows_are_padded_and_visual_inputs_packed_in_row_order(samples, processor):
    batch = HiComDataCollator(processor)(samples)
    lengths = [len(sample["input_ids"]) for sample in samples]
    assert batch["input_ids"].shape == batch["labels"].shape == (4, max(lengths))
    assert batch["attention_mask"].sum(1).tolist() == lengths
    for row, (sample, length) in enumerate(zip(samples, lengths, strict=True)):
        assert torch.equal(batch["input_ids"][row, :length], sample["input_ids"])
        assert (batch["input_ids"][row, length:] == processor.tokenizer.pad_token_id).all()
        assert (batch["labels"][row, length:] == IGNORED).all()
    assert batch["video_num_frames"].tolist() == [8, 3]
    assert batch["pixel_values_videos"].shape == (11, 3, 56, 56)
    assert torch.equal(batch["pixel_values_videos"][8:], samples[3]["pixel_values_videos"])
    assert torch.equal(batch["pixel_values"], samples[2]["pixel_values"])
    assert batch["video_instruction_ids"].shape == batch["image_instruction_ids"].shape == (2, 64)
    assert "statistics" not in batch


def test_inputs_that_no_row_has_are_absent(samples, processor):
    assert set(HiComDataCollator(processor)([samples[1]])) == {"input_ids", "attention_mask", "labels"}


def test_lengths_are_rounded_up_on_request(samples, processor):
    batch = HiComDataCollator(processor, "left", pad_to_multiple_of=64)(samples)
    assert batch["input_ids"].shape[1] % 64 == 0
    assert batch["attention_mask"][:, -1].all()


def test_statistics_count_tokens_and_travel_with_the_batch_on_request(samples, processor):
    collator = HiComDataCollator(processor, with_statistics=True)
    batch = collator([*samples, SkippedSample("a.mp4", "gone")])
    statistics = batch["statistics"]
    visual = processor.num_visual_tokens(8) + processor.num_visual_tokens(3) + 2 * processor.num_visual_tokens(1)
    tokens = sum(len(sample["input_ids"]) for sample in samples)
    assert statistics == BatchStatistics(
        num_samples=4,
        num_text_tokens=tokens - visual,
        num_visual_tokens=visual,
        num_padding_tokens=batch["input_ids"].numel() - tokens,
        num_supervised_tokens=sum(int((sample["labels"] != IGNORED).sum()) for sample in samples),
        decode_seconds=sum(sample["decode_seconds"] for sample in samples),
        skipped=[SkippedSample("a.mp4", "gone")],
    )
    assert collator.last_statistics is statistics


def test_a_skipped_sample_makes_no_row(samples, processor):
    collator = HiComDataCollator(processor)
    batch = collator([SkippedSample("a.mp4", "gone"), samples[1]])
    assert torch.equal(batch["input_ids"], samples[1]["input_ids"][None])


def test_a_batch_of_skipped_samples_only_is_one_row_without_labels(processor, model):
    collator = HiComDataCollator(processor, with_statistics=True)
    batch = collator([SkippedSample("a.mp4", "gone")])
    assert batch.pop("statistics") == BatchStatistics(num_padding_tokens=1, skipped=[SkippedSample("a.mp4", "gone")])
    assert batch["labels"].tolist() == [[IGNORED]]
    assert model(**batch).logits.shape[:2] == (1, 1)


def test_statistics_are_right_with_loader_processes(samples, processor):
    loader = torch.utils.data.DataLoader(
        samples, batch_size=2, num_workers=1, collate_fn=HiComDataCollator(processor, with_statistics=True)
    )
    assert [batch["statistics"].num_samples for batch in loader] == [2, 2]


def test_the_padding_side_is_checked(processor):
    with pytest.raises(ValueError, match="padding_side must be"):
        HiComDataCollator(processor, "both")


def test_raw_rows_make_the_batch_of_a_data_set_and_read_each_video_once(tmp_path, monkeypatch):
    data = write_data(tmp_path)
    encoder = encoder_of(tiny_processor(), 4)
    rows = [dict(record.data, image=record.data.get("image")) for record in load_records(data)]
    turns = [turn for row in rows[:2] for turn in row["conversations"]]
    turns[2] = {**turns[2], "value": turns[2]["value"].removeprefix("<video>\n")}
    read, frames = [], MediaReader.frames
    monkeypatch.setattr(MediaReader, "frames", lambda self, medium: read.append(medium.source) or frames(self, medium))
    batch = HiComRowCollator(encoder, str(tmp_path))([{**rows[0], "conversations": turns}, rows[8]])
    assert len(batch["input_ids"]) == 3 and len(read) == 2
    expected = HiComDataset([{**rows[0], "conversations": turns}, rows[8]], encoder, tmp_path)
    same = HiComDataCollator(encoder.processor)([expected[index] for index in range(3)])
    assert all(torch.equal(batch[name], tensor) for name, tensor in same.items())
    with pytest.raises(ValueError, match="raw_pixels=False"):
        HiComRowCollator(encoder_of(encoder.processor, 4, raw_pixels=True))


def test_preferences_are_chosen_and_rejected_answers_to_one_video_that_is_read_once(tmp_path, monkeypatch):
    write_data(tmp_path)
    encoder = encoder_of(tiny_processor(), 4)
    prompt = [{"role": "user", "content": [{"type": "video", "text": None}, {"type": "text", "text": "What colour?"}]}]
    row = {"videos": ["red.mp4"], "prompt": prompt, "images": [], "id": None}
    row |= {
        side: [{"role": "assistant", "content": text}] for side, text in (("chosen", "red."), ("rejected", "a cat"))
    }
    read, original = [], encoder.read
    monkeypatch.setattr(encoder, "read", lambda medium: read.append(medium) or original(medium))
    batch = HiComPreferenceCollator(encoder, str(tmp_path))([row])
    assert len(read) == 1 and "labels" not in batch
    for place, side in enumerate(("chosen", "rejected")):
        messages = [*prompt, *row[side]]
        single = HiComRowCollator(encoder, str(tmp_path))([{"videos": ["red.mp4"], "messages": messages}])
        length = single["input_ids"].shape[1]
        assert torch.equal(batch["input_ids"][place, :length], single["input_ids"][0])
        assert torch.equal(batch["completion_mask"][place, :length] == 1, single["labels"][0] != -100)
    assert batch["video_num_frames"].tolist() == [4, 4]
    assert torch.equal(batch["video_instruction_ids"][0], batch["video_instruction_ids"][1])
    with pytest.raises(SampleError, match="a row: bad record: a preference needs chosen"):
        HiComPreferenceCollator(encoder)([{**row, "chosen": None}])
