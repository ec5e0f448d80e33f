"""The loss: which tokens are learnt, logits where labels are only, packed rows."""

import copy

import pytest
import torch
from transformers import DynamicCache

from hicom_hf.assembly.random_model import tiny_model

LENGTHS = (4, 6)


@pytest.fixture(scope="module")
def batch(processor):
    generator = torch.Generator().manual_seed(0)
    chats = []
    for count in LENGTHS:
        frames = torch.randint(0, 256, (count, 40, 56, 3), generator=generator, dtype=torch.uint8).numpy()
        content = [{"type": "video", "video": frames}, {"type": "text", "text": f"What moves in {count} frames?"}]
        chats.append([{"role": "user", "content": content}])
    return processor.apply_chat_template(
        chats, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )


@pytest.fixture(scope="module")
def labels(batch):
    labels = torch.full_like(batch["input_ids"], -100)
    labels[0, -5:] = batch["input_ids"][0, -5:]
    labels[1, -2:] = batch["input_ids"][1, -2:]
    return labels


def loss_and_gradients(batch, dtype, **options):
    model = tiny_model().to(dtype).train()
    output = model(**batch, **options)
    output.loss.backward()
    return output, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


# Sums over rows of a matrix product in another order.
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-6)])
@pytest.mark.parametrize("scale", [{}, {"num_items_in_batch": torch.tensor(11)}])
def test_without_logits_loss_and_gradients_are_the_same(batch, labels, dtype, tolerance, scale):
    full, expected = loss_and_gradients(batch, dtype, labels=labels, **scale)
    short, gradients = loss_and_gradients(batch, dtype, labels=labels, skip_logits=True, **scale)
    assert full.logits.shape[:2] == labels.shape and short.logits is None
    torch.testing.assert_close(short.loss, full.loss, atol=tolerance, rtol=0)
    assert gradients.keys() == expected.keys() and len(expected) > 50
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, atol=tolerance, rtol=tolerance, msg=name)


def test_only_labelled_tokens_reach_the_head(model, batch, labels):
    seen = []
    hook = model.lm_head.register_forward_hook(lambda _, args, __: seen.append(args[0].shape[:-1]))
    try:
        with torch.no_grad():
            model(**batch, labels=labels, skip_logits=True)
    finally:
        hook.remove()
    assert seen == [(7,)]


@torch.no_grad()
def test_labels_of_placeholders_are_not_learnt(model, batch, labels):
    on_placeholders = labels.clone()
    on_placeholders[batch["input_ids"] == model.config.video_token_id] = model.config.video_token_id
    assert not torch.equal(on_placeholders, labels)
    expected = model(**batch, labels=labels).loss
    assert torch.equal(model(**batch, labels=on_placeholders).loss, expected)
    torch.testing.assert_close(model(**batch, labels=on_placeholders, skip_logits=True).loss, expected)


@torch.no_grad()
def test_packed_rows_equal_their_samples_and_refuse_a_cache(model):
    ids = torch.randint(5, 200, (2, 9), generator=torch.Generator().manual_seed(1))
    packed = {"input_ids": ids.reshape(1, -1), "position_ids": torch.arange(9).repeat(2)[None]}
    output = model(**packed)
    torch.testing.assert_close(output.logits[0, 9:], model(input_ids=ids).logits[1], atol=2e-5, rtol=0)  # float32
    for cache in ({"use_cache": True}, {"cache": DynamicCache(config=model.config.text_config)}):
        with pytest.raises(ValueError, match="several packed samples, which a cache cannot keep apart"):
            model(**packed, **cache)


def test_a_tied_model_saves_one_matrix(tmp_path):
    config = copy.deepcopy(tiny_model().config)
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = True
    model = type(tiny_model())(config)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    model.save_pretrained(tmp_path)
    assert type(model).from_pretrained(tmp_path).lm_head.weight.data_ptr() != 0
