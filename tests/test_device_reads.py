"""Between frames and the last logits, nothing is read from the device: the host would wait for all that it queued."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hicom_hf.modeling.visual_tokens_hicom import HostNumbers, compress_packed_videos, whole_numbers

FOLDER = Path(__file__).parent


@pytest.mark.slow
def test_nothing_is_read_from_a_device_between_frames_and_logits():
    paths = os.pathsep.join([str(FOLDER.parent / "src"), str(FOLDER.parent)])
    command = [sys.executable, "-W", "ignore", str(FOLDER / "pretend_device.py")]
    run = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=True)
    found = json.loads(run.stdout)
    read = found.pop("two counts on the device")  # shows that the device notices
    assert read is not None and "visual_tokens_hicom.py" in read
    assert found == dict.fromkeys(found) and len(found) == 8


def test_a_single_count_on_a_device_is_told_by_the_frames():
    on_device = torch.empty(1, dtype=torch.long, device="meta")
    assert whole_numbers(on_device, 7) == [7]
    assert whole_numbers(torch.tensor([3]), 7) == [3]  # on the host it costs nothing, and may be wrong
    with pytest.raises(RuntimeError, match="meta"):
        whole_numbers(torch.empty(2, dtype=torch.long, device="meta"), 7)


def test_numbers_arrive_as_they_are():
    assert HostNumbers(torch.tensor([[1, 2], [3, 4]])).read() == [[1, 2], [3, 4]]
    assert HostNumbers(torch.tensor(True)).read() is True


class Operations(TorchDispatchMode):
    """Names of the operations that run."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


def packed(lengths):
    """Compresses videos of these lengths: what the compressor got of them at each call, and the operations beside its own."""
    features, instruction = (
        torch.randn(sum(lengths), 2, 2, 3),
        (torch.randn(len(lengths), 3), torch.randn(len(lengths), 5, 3)),
    )
    calls = []

    def compressor(features, aligned, instruction, output_attentions):
        calls.append((features, aligned, *instruction))
        return torch.zeros(len(features), 1, 3), None

    with Operations() as operations:
        compress_packed_videos(compressor, features, features + 1, instruction, lengths, False)
    return (features, *instruction), calls, operations.names


def test_packed_videos_of_one_length_reach_the_compressor_as_views():
    (features, pooled, tokens), [(seen, _, seen_pooled, seen_tokens)], names = packed([3, 3])
    assert seen.shape == (2, 3, 2, 2, 3) and torch.equal(seen.flatten(0, 1), features)
    pairs = [(seen, features), (seen_pooled, pooled), (seen_tokens, tokens)]
    assert all(one.data_ptr() == other.data_ptr() for one, other in pairs)
    assert not {"stack", "cat", "index", "index_select"} & names


def test_videos_and_instructions_of_a_batch_are_chosen_without_an_index_that_would_go_to_the_device():
    (features, pooled, tokens), calls, names = packed([2, 3, 2])
    assert [torch.equal(call[2], pooled[rows]) for call, rows in zip(calls, ([0, 2], [1]), strict=True)] == [
        True,
        True,
    ]
    assert torch.equal(calls[0][3], tokens[[0, 2]]) and torch.equal(calls[0][0][1], features[5:])
    assert not {"index", "index_select", "gather", "lift_fresh", "_to_copy"} & names


@pytest.mark.parametrize("hidden", [0, 3])
@torch.no_grad()
def test_a_mask_that_hides_nothing_is_not_handed_on(model, monkeypatch, hidden):
    ids = torch.full((2, 9), 5)
    mask = torch.ones_like(ids)
    mask[1, :hidden] = 0
    seen = []
    hook = model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["attention_mask"]), with_kwargs=True
    )
    try:
        masked = model(input_ids=ids, attention_mask=mask).logits
        plain = model(input_ids=ids).logits
    finally:
        hook.remove()
    assert (seen[0] is None) == (hidden == 0)
    assert torch.equal(masked[0], plain[0])
