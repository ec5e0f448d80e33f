"""What needs a CUDA GPU: `pytest -m gpu`. Nothing here runs without one, and the docs say so."""

import pytest
import torch
from transformers.utils import is_flash_attn_2_available

from hicom_hf import HiComForConditionalGeneration, HiComSession, example_videos
from hicom_hf.assembly.random_model import tiny_model
from hicom_hf.assets import hicom_tiny
from hicom_hf.hub.loading import load_model, load_processor
from hicom_hf.modeling.compiling_hicom import compile_decoding
from hicom_hf.shapes import write_dataset
from lab.hicom_tiny.scoring import score

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]


@pytest.fixture(scope="module")
def batch(processor):
    generator = torch.Generator().manual_seed(0)
    chats = []
    for count in (9, 4):
        frames = torch.randint(0, 256, (count, 40, 56, 3), generator=generator, dtype=torch.uint8).numpy()
        content = [{"type": "video", "video": frames}, {"type": "text", "text": f"What moves in {count} frames?"}]
        chats.append([{"role": "user", "content": content}])
    inputs = processor.apply_chat_template(
        chats, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    return dict(inputs)


def on_gpu(batch):
    return {name: tensor.cuda() for name, tensor in batch.items()}


def greedy(model, inputs, **kwargs):
    return model.generate(**inputs, max_new_tokens=8, do_sample=False, **kwargs)


@torch.no_grad()
def test_float32_logits_on_the_gpu_equal_those_on_the_cpu(batch, monkeypatch):
    # the patch embedding's TF32 alone changes logits by 3e-3
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    seen = batch["attention_mask"].bool()
    expected = tiny_model()(**batch).logits[seen]
    logits = tiny_model().cuda()(**on_gpu(batch)).logits.cpu()[seen]
    torch.testing.assert_close(logits, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("implementation", ["eager", "sdpa", "flash_attention_2"])
@torch.no_grad()
def test_bfloat16_runs_with_every_attention_implementation(batch, tmp_path, implementation):
    if implementation == "flash_attention_2" and not is_flash_attn_2_available():
        pytest.skip("flash-attn is not installed")
    tiny_model().save_pretrained(tmp_path)
    load = {"dtype": torch.bfloat16, "attn_implementation": implementation, "device_map": "cuda"}
    model = HiComForConditionalGeneration.from_pretrained(tmp_path, **load)
    inputs = on_gpu(batch)
    last, reference = model(**inputs).logits[:, -1].float().cpu(), tiny_model()(**batch).logits[:, -1]
    assert (last - reference).norm() / reference.norm() < 0.1
    assert greedy(model, inputs).shape[0] == 2


def test_features_kept_on_the_cpu_serve_a_model_on_the_gpu(batch):
    model = tiny_model().cuda()
    features = model.encode_videos(batch["pixel_values_videos"], batch["video_num_frames"])  # pixels stay on the CPU
    kept = {name: tensor.cpu() for name, tensor in features.items()}
    rest = {k: v.cuda() for k, v in batch.items() if k not in ("pixel_values_videos", "video_num_frames")}
    assert torch.equal(greedy(model, rest, video_features=kept), greedy(model, on_gpu(batch)))


@pytest.mark.parametrize("from_features", [False, True])
@torch.no_grad()
def test_the_host_never_waits_between_frames_and_the_last_logits(batch, from_features):
    counts = batch["video_num_frames"].tolist()
    model, inputs = tiny_model().cuda(), {**on_gpu(batch), "video_num_frames": counts, "logits_to_keep": 1}
    del inputs["attention_mask"]  # its padding makes transformers read it; without padding it may be given
    if from_features:
        inputs["video_features"] = model.encode_videos(inputs.pop("pixel_values_videos"), counts)
    expected = model(**inputs).logits  # fills the tables of positions
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        logits = model(**inputs).logits
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(logits, expected)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")  # PyTorch's compiler, about itself
def test_a_static_cache_that_is_compiled_gives_the_same_answer(batch):
    model, inputs = tiny_model().cuda(), on_gpu(batch)
    assert torch.equal(greedy(model, inputs, cache_implementation="static"), greedy(model, inputs))


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")  # PyTorch's compiler, about itself
def test_a_compiled_session_answers_streams_and_batches_of_any_length():
    plain, compiled = (HiComSession.load(device="cuda", compile=choice) for choice in ("off", "on"))
    question = "Which way does the cyan moon move?"
    expected = plain.open(example_videos()[0]).ask(question).answer
    video = compiled.open(example_videos()[0])
    for rows, num_words in [(1, 4), (1, 9), (4, 4), (2, 12), (1, 4)]:
        assert [one.answer for one in video.ask_all([question] * rows, max_new_tokens=num_words)] == [expected] * rows
        assert "".join(video.stream(question)) == expected


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")  # PyTorch's compiler, about itself
def test_answers_of_one_size_replay_one_recording():
    from torch._inductor.cudagraph_trees import get_manager

    model = tiny_model().cuda()
    compile_decoding(model)

    def answer(rows, length, num_words):
        ids = torch.full((rows, length), 5).cuda()
        model.generate(input_ids=ids, max_new_tokens=num_words, do_sample=False, eos_token_id=-1, pad_token_id=0)

    def num_recordings():
        manager = get_manager(torch.cuda.current_device(), create_if_none_exists=False)
        nodes = [node for nodes in manager.roots.values() for node in nodes]
        for node in nodes:  # grows by those that follow others
            nodes += [child for children in node.children.values() for child in children]
        return len(nodes)

    for rows in (1, 3):
        answer(rows, 9, 8)
        first = num_recordings()
        for length, num_words in [(20, 8), (9, 30), (12, 5), (40, 40)]:
            answer(rows, length, num_words)
        assert num_recordings() == first > 0


@pytest.mark.filterwarnings("ignore:inner dimension:UserWarning")  # the tiny model's sizes are no multiples of 64
def test_4_bit_loading_leaves_siglip_and_the_compressor_alone(batch, tmp_path):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    tiny_model().save_pretrained(tmp_path)
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.bfloat16)
    model = HiComForConditionalGeneration.from_pretrained(tmp_path, quantization_config=config, device_map="cuda")
    changed = {name for name, module in model.named_modules() if isinstance(module, bitsandbytes.nn.Linear4bit)}
    assert changed and all(name.startswith("model.language_model.layers.") for name in changed)
    assert greedy(model, on_gpu(batch)).shape[0] == 2


def test_hicom_tiny_is_right_in_bfloat16_too(tmp_path):
    write_dataset(tmp_path, 8, 7, split="test", stage="tuning")
    model, processor = load_model(hicom_tiny(), "cuda", "bfloat16"), load_processor(hicom_tiny())
    scored = score(model, processor, tmp_path / "tuning.json")
    assert len(scored) > 100 and sum(one.is_right for one in scored) / len(scored) > 0.9
