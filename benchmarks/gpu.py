"""Everything that only a GPU can tell, in one run of 8 minutes on an H200: table A6 of the paper beside ours, floors.

SigLIP so400m at 384 pixels and an LLM of Qwen2.5-7B's shape, with random weights, which cost what trained ones do; beside it
transformers' LLaVA-OneVision of the same sizes. Sections come in the order of their worth. One that does not fit into the time
is left out (compiling may take 90 seconds more), and the table says "not measured". One that fails leaves a line that says why,
and the next one begins.

In: nothing. Out: one JSON object per line, so that a run that is cut short keeps what it has; with --write also the table of the
docs, made of a file of such lines.

    python benchmarks/gpu.py --out gpu.jsonl
    python benchmarks/gpu.py --from gpu.jsonl --write docs/performance.md
    python benchmarks/gpu.py --device cpu --size tiny        # tries the script out
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
import transformers
from gpu_table import ATTENDING, ATTENTION, Measured, read_lines, table, write_table
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

from hicom_hf import HiComConfig, HiComForConditionalGeneration
from hicom_hf.assembly.random_model import tiny_config
from hicom_hf.modeling.answer_caches_hicom import AnswerCaches
from hicom_hf.modeling.cache_hicom import CACHE
from hicom_hf.modeling.compiling_hicom import compile_decoding
from hicom_hf.modeling.configuration_hicom import QWEN2_5_7B

VIDEO_TOKEN, IMAGE_TOKEN, PLAIN_TOKEN = 10, 11, 5  # any ids do
NUM_TEXT_TOKENS = 40
GIB = 2**30

# What a run without a GPU compiles with: the graphs are the same, and inductor takes minutes.
CPU_BACKEND = "eager"


class Run:
    """Measures until the time is up, and writes a line for each result."""

    def __init__(self, arguments: argparse.Namespace):
        self.device, self.is_tiny = torch.device(arguments.device), arguments.size == "tiny"
        self.dtype = torch.float32 if self.device.type == "cpu" else torch.bfloat16
        self.num_frames = 4 if self.is_tiny else 32
        self.runs = 1 if self.is_tiny else 7
        self.words = (2, 4) if self.is_tiny else (33, 65)
        self.begin = time.monotonic()
        self.deadline = self.begin + arguments.seconds
        self.out = open(arguments.out, "a") if arguments.out else sys.stdout  # noqa: SIM115, lives as long as the process
        self.lines: list[Measured] = []

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def say(self, what: str, **values: Any) -> Measured:
        line = {"what": what, **values}
        self.lines.append(line)
        print(json.dumps(line), file=self.out, flush=True)
        return line

    def fail(self, what: str, error: Exception) -> Measured:
        return self.say(f"{what}: failed", error=f"{type(error).__name__}: {str(error)[:300]}")

    def section(self, function: Callable[..., None], *arguments: Any) -> None:
        """Runs a section, unless the time is up; what it fails with ends that section only."""
        if self.is_over:
            return
        try:
            function(self, *arguments)
        except Exception as error:  # see `measure`
            self.fail(function.__name__, error)
        if self.on_gpu:
            torch.cuda.empty_cache()  # of a model that has ended

    @property
    def is_over(self) -> bool:
        return time.monotonic() > self.deadline

    def compile(self, module: Any, **options: Any) -> Any:
        return torch.compile(module, **options) if self.on_gpu else torch.compile(module, backend=CPU_BACKEND)

    def wait(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()

    def measure(self, what: str, function: Callable[[], object], runs: int | None = None, **values: Any) -> Measured:
        """Wall-clock milliseconds of a call until the device is done: median, least and most; memory above what was there."""
        if self.is_over:
            return {}
        try:
            begin = time.perf_counter()
            function()
            self.wait()
            first = (time.perf_counter() - begin) * 1000  # with what is compiled or loaded then
            for _ in range(0 if self.is_tiny else 2):
                function()
            self.wait()
            before = torch.cuda.memory_allocated() if self.on_gpu else 0
            if self.on_gpu:
                torch.cuda.reset_peak_memory_stats()
            found = []
            for _ in range(runs or self.runs):
                begin = time.perf_counter()
                function()
                self.wait()
                found.append((time.perf_counter() - begin) * 1000)
        except (
            Exception
        ) as error:  # of a compiler or a kernel; a GPU is lent for minutes, and the rest must be measured
            return self.fail(what, error)
        if self.on_gpu:
            values["peak_gib"] = round((torch.cuda.max_memory_allocated() - before) / GIB, 3)
        spread = [round(min(found), 2), round(max(found), 2)]
        return self.say(what, ms=round(statistics.median(found), 2), spread=spread, first_ms=round(first), **values)


def hicom(run: Run, attention: str = "sdpa") -> HiComForConditionalGeneration:
    config = tiny_config() if run.is_tiny else HiComConfig(compressor_config={}, text_config=QWEN2_5_7B)
    config.video_token_id, config.image_token_id = VIDEO_TOKEN, IMAGE_TOKEN
    return built(run, HiComForConditionalGeneration, config, attention)


def llava_onevision(run: Run) -> LlavaOnevisionForConditionalGeneration:
    ours = tiny_config() if run.is_tiny else HiComConfig(compressor_config={}, text_config=QWEN2_5_7B)
    values: dict[str, Any] = {
        "vision_config": ours.vision_config.to_dict(),
        "text_config": {**ours.text_config.to_dict(), "model_type": "qwen2"},
        "video_token_id": VIDEO_TOKEN,
        "image_token_id": IMAGE_TOKEN,
        "vision_feature_layer": -2,  # as ours, and as in its release, which drops the last of 27 layers
    }
    config = LlavaOnevisionConfig(**values)
    return built(run, LlavaOnevisionForConditionalGeneration, config, "sdpa")


def built(run: Run, model_class, config, attention: str):
    with torch.device(run.device):
        model = model_class._from_config(config, dtype=run.dtype, attn_implementation=attention)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = None, 0
    return model.eval()


def prompt(run: Run, num_visual: int, rows: int = 1) -> dict[str, torch.Tensor]:
    ids = torch.full((rows, num_visual + NUM_TEXT_TOKENS), PLAIN_TOKEN)
    ids[:, 5 : 5 + num_visual] = VIDEO_TOKEN
    ids = ids.to(run.device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def shortened(question: dict[str, Any], number: int) -> dict[str, Any]:
    """A question with so many tokens of text less."""
    end = question["input_ids"].shape[1] - number
    return {**question, **{name: question[name][:, :end] for name in ("input_ids", "attention_mask")}}


def words(model, question: dict, number: int, **options) -> Callable[[], torch.Tensor]:
    """Generates exactly so many words."""
    return lambda: model.generate(**question, max_new_tokens=number, min_new_tokens=number, do_sample=False, **options)


def per_token(run: Run, what: str, model, question: dict, **options) -> None:
    """Milliseconds of one token, from answers of two lengths."""
    lengths = run.words[::-1]  # the long one first: the short one fits into its static cache, which is compiled once
    long, short = (run.measure(f"{what}, {n} tokens", words(model, question, n, **options), 3) for n in lengths)
    if "ms" in short and "ms" in long:
        run.say(what, ms=round((long["ms"] - short["ms"]) / (run.words[1] - run.words[0]), 3))


def floors(run: Run) -> None:
    size = 2**8 if run.is_tiny else 2**13
    left, many = (
        torch.randn(size, size, device=run.device, dtype=run.dtype),
        torch.empty(size**2 * 8, device=run.device),
    )
    target = torch.empty_like(many)
    product = run.measure("matrix product, time", lambda: left @ left)
    if "ms" in product:
        run.say("matrix product", tflops=round(2 * size**3 / product["ms"] / 1e9, 2))
    copied = run.measure("copy, time", lambda: target.copy_(many))
    if "ms" in copied:
        run.say("copy", tb_per_s=round(2 * many.nbytes / copied["ms"] / 1e9, 3))


def questions(
    run: Run, model: HiComForConditionalGeneration, video: dict, features, first: dict, follow_up: dict
) -> None:
    run.measure("first question", lambda: model(**first, logits_to_keep=1))
    run.measure("follow-up question", lambda: model(**follow_up, logits_to_keep=1))
    run.measure("encode", lambda: model.encode_videos(**video))
    instruction = follow_up["video_instruction_ids"]
    run.measure("instruction encoder", lambda: model.model.instruction_encoder(instruction))
    run.measure("compress", lambda: model.model.compress(features, instruction, False))
    encoded = model.model.instruction_encoder(instruction)
    both = [features[name][None] for name in ("features", "aligned_features")]
    run.measure("compressor", lambda: model.model.compressor(*both, encoded))
    length = follow_up["input_ids"].shape[1]
    embeds = torch.zeros(1, length, model.config.text_config.hidden_size, device=run.device, dtype=run.dtype)
    run.measure("llm", lambda: model.model.language_model(inputs_embeds=embeds))
    say_floors(run, model, length)


def say_floors(run: Run, model: HiComForConditionalGeneration, length: int) -> None:
    """What questions of so many tokens cost at the rates of `floors`: products without those of attention, weights read once."""

    def weights(part: torch.nn.Module) -> int:
        return sum(weight.numel() for weight in part.parameters())

    layers = weights(model.model.language_model) - weights(
        model.get_input_embeddings()
    )  # of which a row is read per token
    rows, columns = model.config.grid
    llm = 2 * layers * length
    vision = 2 * weights(model.model.vision_tower) * run.num_frames * rows * columns
    rate = next((line["tflops"] for line in run.lines if "tflops" in line), None)
    speed = next((line["tb_per_s"] for line in run.lines if "tb_per_s" in line), None)
    if rate and speed:
        run.say("floor of a first question", ms=round((vision + llm) / rate / 1e9, 3))
        run.say("floor of a follow-up", ms=round(llm / rate / 1e9, 3))
        size = (layers + weights(model.lm_head)) * torch.finfo(run.dtype).bits // 8
        run.say("floor of a token", ms=round(size / speed / 1e9, 3))


def reads(run: Run, model: HiComForConditionalGeneration, first: dict, follow_up: dict) -> None:
    """How often the host waits for the device between frames and the last logits."""
    for what, question in (("first question", first), ("follow-up", follow_up)):
        if not run.on_gpu or run.is_over:
            return
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            model(**question, logits_to_keep=1)
            run.say(f"reads in a {what}", number=0)
        except RuntimeError as error:
            run.say(f"reads in a {what}", number="at least 1", error=str(error)[:300])
        finally:
            torch.cuda.set_sync_debug_mode("default")


def decoding(run: Run, model: HiComForConditionalGeneration, follow_up: dict, eight: dict) -> None:
    per_token(run, "decode, dynamic cache", model, follow_up)
    per_token(run, "decode, static cache", model, follow_up, cache_implementation="static", disable_compile=True)
    compile_decoding(model)
    if not run.on_gpu:
        model.compile_settings.backend = CPU_BACKEND
    try:
        compiled_answers(run, model, follow_up, eight)
    finally:
        model.compile_settings = model.answer_caches = None
    run.measure("8 questions, one batch", lambda: model(**eight, logits_to_keep=1), 3)
    run.measure("8 questions, one by one", lambda: [model(**follow_up, logits_to_keep=1) for _ in range(8)], 3)


def compiled_answers(run: Run, model: HiComForConditionalGeneration, follow_up: dict, eight: dict) -> None:
    """Answers as a session gives them, then with a new cache for each, as transformers makes it."""
    number = min(32, run.words[1] - 1)  # fits into the cache that is compiled already
    per_token(run, "decode, static cache, compiled", model, follow_up)
    run.measure("follow-up and 32 words, compiled", words(model, follow_up, number), 3)
    asked = cycle([shortened(follow_up, number_of_tokens) for number_of_tokens in range(NUM_TEXT_TOKENS // 2)])

    def ask_next():
        words(model, next(asked), number)()

    run.measure("follow-ups of other lengths and 32 words, compiled", ask_next)
    run.measure("8 questions and 32 words, compiled", words(model, eight, number), 3)
    recorded = say_recordings(run, "kept caches", 0)
    model.answer_caches = AnswerCaches(0)  # keeps none
    run.measure("follow-ups of other lengths and 32 words, new caches", ask_next)
    say_recordings(run, "new caches", recorded)


def say_recordings(run: Run, what: str, before: int) -> int:
    """How many CUDA graphs PyTorch keeps in this thread, for what was asked since there were `before`."""
    if not run.on_gpu or run.is_over:
        return before
    try:
        from torch._inductor.cudagraph_trees import get_manager

        manager: Any = get_manager(torch.cuda.current_device(), create_if_none_exists=False)
        nodes = [] if manager is None else [node for nodes in manager.roots.values() for node in nodes]
        for node in nodes:  # grows by those that follow others
            nodes += [child for children in node.children.values() for child in children]
    except Exception as error:  # these are no public names of PyTorch
        run.fail(f"recordings, {what}", error)
        return before
    run.say(f"recordings, {what}", number=len(nodes) - before)
    return len(nodes)


def rival(run: Run, pixels: torch.Tensor) -> None:
    """LLaVA-OneVision of the same sizes, with the same frames."""
    model: Any = llava_onevision(run)
    video = pixels[None]
    num_visual = len(model.model.get_video_features(video).pooler_output[0])  # with the end of the video
    question = {**prompt(run, num_visual), "pixel_values_videos": video}
    run.measure(
        "LLaVA-OneVision, first question", lambda: model(**question, logits_to_keep=1), visual_tokens=num_visual
    )
    run.measure("LLaVA-OneVision, encode", lambda: model.model.vision_tower(pixels))
    patches = torch.zeros(
        len(pixels),
        (pixels.shape[-1] // model.config.vision_config.patch_size) ** 2,
        model.config.vision_config.hidden_size,
    ).to(pixels)
    run.measure(
        "LLaVA-OneVision, compress", lambda: model.model.apply_pooling(model.model.multi_modal_projector(patches))
    )
    length = num_visual + NUM_TEXT_TOKENS
    embeds = torch.zeros(1, length, model.config.text_config.hidden_size, device=run.device, dtype=run.dtype)
    run.measure("LLaVA-OneVision, llm", lambda: model.model.language_model(inputs_embeds=embeds))
    run.measure("LLaVA-OneVision, request", words(model, question, run.words[0]), 3)


def growth(run: Run, model: HiComForConditionalGeneration) -> None:
    """Whole requests by frames, and questions on one video by their number."""
    side: Any = model.config.vision_config.image_size
    for frames in (4, 8) if run.is_tiny else (32, 64, 128, 256, 512, 1024):
        pixels = torch.randn(frames, 3, side, side, device=run.device, dtype=run.dtype)
        question = hicom_question(run, model, frames, 1)
        request = {**question, "pixel_values_videos": pixels, "video_num_frames": [frames]}
        run.measure(f"{frames} frames, request", words(model, request, run.words[0]), 3)
        run.measure(f"{frames} frames, first question", lambda request=request: model(**request, logits_to_keep=1), 3)


def hicom_question(run: Run, model: HiComForConditionalGeneration, frames: int, rows: int) -> dict[str, torch.Tensor]:
    instructions = torch.full((rows, model.config.instruction_config.max_position_embeddings), 3).to(run.device)
    return {**prompt(run, model.config.num_visual_tokens(frames), rows), "video_instruction_ids": instructions}


def compiled(run: Run, model: HiComForConditionalGeneration, video: dict, follow_up: dict) -> None:
    """The towers as graphs."""
    tower = run.compile(model.model.vision_tower)
    run.measure("encode, compiled", lambda: tower(video["pixel_values_videos"]))
    encoder = run.compile(model.model.instruction_encoder, mode="reduce-overhead")
    run.measure("instruction encoder, compiled", lambda: encoder(follow_up["video_instruction_ids"]))


def attention(run: Run, model: HiComForConditionalGeneration, video: dict, features, follow_up: dict) -> None:
    """The code of attention where it may count: SigLIP, the global branch and the LLM."""
    frames, global_branch = features["features"][None], model.model.compressor.global_branch
    instruction = model.model.instruction_encoder(follow_up["video_instruction_ids"])
    length = follow_up["input_ids"].shape[1]
    embeds = torch.zeros(1, length, model.config.text_config.hidden_size, device=run.device, dtype=run.dtype)
    parts = {
        "encode": lambda: model.encode_videos(**video),
        "global branch": lambda: global_branch(frames, instruction),
        "llm": lambda: model.model.language_model(inputs_embeds=embeds),
        "follow-up": lambda: model(**follow_up, logits_to_keep=1),
    }
    try:
        for name in ATTENTION:
            if run.is_over:
                return
            try:
                model.set_attn_implementation(name)
            except Exception as error:  # a package that is not there, or one that fails to load
                run.fail(f"attention {name}", error)
                continue
            for part in ATTENDING:
                run.measure(f"attention {name}, {part}", parts[part], 3)
    finally:
        model.set_attn_implementation("sdpa")


@torch.no_grad()
def measure_all(run: Run) -> None:
    """All sections, in the order of their worth."""
    name = torch.cuda.get_device_name() if run.on_gpu else platform.processor() or platform.machine()
    versions = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }
    run.say(
        "machine", device=name, dtype=str(run.dtype), size="tiny" if run.is_tiny else "7b", cache=CACHE, **versions
    )
    torch.manual_seed(0)
    run.section(floors)
    model = hicom(run)
    side: Any = model.config.vision_config.image_size
    pixels = torch.randn(run.num_frames, 3, side, side, device=run.device, dtype=run.dtype)
    video = {"pixel_values_videos": pixels, "video_num_frames": [run.num_frames]}
    features = model.encode_videos(**video)
    question = hicom_question(run, model, run.num_frames, 1)
    first, follow_up = {**question, **video}, {**question, "video_features": features}
    eight = {**hicom_question(run, model, run.num_frames, 8), "video_features": features}
    run.section(questions, model, video, features, first, follow_up)
    run.section(reads, model, first, follow_up)
    run.measure("request", words(model, first, run.words[0]), 3)
    run.section(rival, pixels)
    run.section(decoding, model, follow_up, eight)
    run.section(attention, model, video, features, follow_up)
    run.section(growth, model)
    run.section(compiled, model, video, follow_up)
    run.say("end", seconds=round(time.monotonic() - run.begin, 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="default: cuda")
    parser.add_argument("--size", choices=("7b", "tiny"), default="7b", help="of the model (default 7b)")
    parser.add_argument("--seconds", type=float, default=370, help="nothing is begun after this time (default 370)")
    parser.add_argument("--out", type=Path, help="file that the lines are added to (default: stdout)")
    parser.add_argument(
        "--from", dest="source", type=Path, help="a file of lines to make the table of; nothing is measured"
    )
    parser.add_argument("--write", type=Path, help="page whose table is replaced")
    arguments = parser.parse_args()
    if arguments.source is None:
        run = Run(arguments)
        measure_all(run)
        if arguments.out is not None:
            run.out.close()
    lines = run.lines if arguments.source is None else read_lines(arguments.source)
    if arguments.write is not None:
        write_table(arguments.write, lines)
    elif arguments.source is not None:
        print(table(lines))


if __name__ == "__main__":
    main()
