"""What choosing costs: seconds and bytes against the number of candidates, beside the question that follows.

In: hicom-tiny, whose candidates are random features (their values change no cost), and one encoded scene for the rate of
encoding. Out: a table in CPU seconds of one thread, the bytes kept on disk, the peak of memory. Beside choosing stand both
questions that it can be compared with: one about the chosen frames, and one that reads all candidates, of which the LLM's part
is only a cost where their tokens are more than its positions. Then what arithmetic gives for SigLIP so400m at 384 pixels and a
7B LLM, computed.

    python benchmarks/candidates.py --candidates 256 1008 2048 16384
"""

import argparse
import resource
import statistics
from time import process_time

import torch

from hicom_hf import FrameSelection, HiComSession
from hicom_hf.modeling.vision_hicom import instructions_encoded_once
from hicom_hf.processors.answering_hicom import answer_questions
from hicom_hf.processors.candidate_frames_hicom import (
    CandidateFiles,
    CandidateFrames,
    choose_for_questions,
    chosen_video,
    encode_candidates,
)
from hicom_hf.processors.video_reading_hicom import SamplingRecord
from hicom_hf.shapes import Scene, render

QUESTIONS = [f"What colour is the {texture} circle?" for texture in ("striped", "dotted", "solid", "hollow")]
FRAMES, APPENDED = 8, 256
NEW_TOKENS, WORDS = 8, 45  # of the answer; of a prompt beside the visual tokens
PAPER_PATCHES, PAPER_WIDTH = 729, 1152  # SigLIP so400m/14 at 384 pixels
PAPER_PARAMETERS, PAPER_TOKENS = 7.6e9, 750  # of Qwen2.5-7B; prompt of 32 frames: 680 visual tokens and a question
MOST_COMPRESSED = 2048  # candidates that are in memory at once


def filled(model, num_candidates: int, dtype: torch.dtype) -> CandidateFrames:
    """Candidates with random features, written in chunks as those of a film are."""
    shape = (*model.config.grid, model.config.vision_config.hidden_size)
    files = CandidateFiles.temporary(dtype)
    for start in range(0, num_candidates, APPENDED):
        rows = torch.randn(min(APPENDED, num_candidates - start), *shape)
        for file, values in zip(files, (rows, rows, *model.frame_keys(rows)), strict=True):
            file.append(values)
    record = SamplingRecord(
        "<random>", list(range(num_candidates)), [], num_candidates, None, None, None, 0, 0, 0, num_candidates, False
    )
    return CandidateFrames(files, torch.rand(num_candidates - 1).tolist(), record, 0.0)


def median_seconds(function, runs: int) -> float:
    times = []
    for _ in range(runs + 1):  # the first run warms up
        started = process_time()
        function()
        times.append(process_time() - started)
    return statistics.median(times[1:])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, nargs="+", default=[256, 1008, 2048, 16384])
    parser.add_argument("--questions", type=int, default=4, choices=(1, 2, 3, 4), help="chosen for together")
    parser.add_argument("--runs", type=int, default=3, help="runs per number, of which the median counts")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="bfloat16", help="in which features are kept"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    session = HiComSession.load(dtype="float32", device="cpu")
    model, processor, selection = session.model, session.processor, FrameSelection(num_frames=FRAMES, max_p_value=1.0)
    scene = render(Scene.from_seed(1), num_frames=64)[0]
    seconds = median_seconds(lambda: encode_candidates(model, processor, scene, num_frames="all"), 1) / len(scene)
    print(
        f"encoding: {1000 * seconds:.1f} ms per candidate of 144 x 144, pixels to features; CPU seconds of one thread"
    )
    print(
        f"| candidates | MB on disk | choose (s) | {arguments.questions} questions (s) | compress and answer from {FRAMES} (s) "
        "| choosing adds to that | peak (MB) |"
    )
    print("|---|" + "---|" * 6)
    alone: dict[int, float] = {}
    for count in arguments.candidates:
        candidates = filled(model, count, getattr(torch, arguments.dtype))

        def choose(questions, candidates=candidates):
            return choose_for_questions(model, processor, candidates, questions, selection)

        alone[count] = median_seconds(lambda: choose(QUESTIONS[:1]), arguments.runs)
        together = median_seconds(lambda: choose(QUESTIONS[: arguments.questions]), arguments.runs)
        follow, added = cost_of_chosen(model, processor, candidates, choose, arguments.runs)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"| {count:,} | {candidates.num_bytes / 1e6:.0f} | {alone[count]:.4f} | {together:.3f} | {follow:.4f} "
            f"| {added:.0%} | {peak:.0f} |",
            flush=True,
        )
    print(
        f"\nA question that reads all candidates; the LLM has {model.config.text_config.max_position_embeddings:,} positions.\n"
    )
    print("| candidates | visual tokens | compress (s) | LLM, prompt (s) | choosing, as a fraction of both |")
    print("|---|" + "---|" * 4)
    for count, seconds in alone.items():
        if count <= MOST_COMPRESSED:
            compressing, reading = cost_of_all(
                model, processor, filled(model, count, getattr(torch, arguments.dtype)), arguments.runs
            )
            tokens, ratio = model.config.num_visual_tokens(count), seconds / (compressing + reading)
            print(f"| {count:,} | {tokens:,} | {compressing:.3f} | {reading:.3f} | {ratio:.1%} |", flush=True)
    print_computed()


def cost_of_chosen(model, processor, candidates: CandidateFrames, choose, runs: int) -> tuple[float, float]:
    """CPU seconds of compressing the chosen frames and answering, and what choosing before adds, as a fraction of them.

    Together, the words of the question are encoded once.
    """
    [record] = choose(QUESTIONS[:1])

    def answer(record=record):
        video = chosen_video(model, candidates, record)
        answer_questions(model, processor, video, QUESTIONS[:1], max_new_tokens=NEW_TOKENS)

    def choose_and_answer():
        with instructions_encoded_once():
            answer(choose(QUESTIONS[:1])[0])

    follow = median_seconds(answer, runs)
    return follow, median_seconds(choose_and_answer, runs) / follow - 1


def cost_of_all(model, processor, candidates: CandidateFrames, runs: int) -> tuple[float, float]:
    """CPU seconds of a question about all candidates, as it would be without a selection: of compressing them, and of the LLM's
    prompt up to the first token of the answer."""
    count = len(candidates)
    features = {name: getattr(candidates, name).read(0, count).float() for name in ("features", "aligned_features")}
    features["num_frames"] = torch.tensor([count])
    ids = processor.encode_instructions(QUESTIONS[:1], report=False)
    num_tokens = model.config.num_visual_tokens(count)
    prompt = torch.zeros(1, num_tokens + WORDS, dtype=torch.long)
    prompt[:, :num_tokens] = model.config.video_token_id

    def compress():
        return model.model.get_video_features(video_features=features, video_instruction_ids=ids)

    with torch.no_grad():
        compressing, visual = median_seconds(compress, runs), {"video": compress()}
        reading = median_seconds(
            lambda: model(input_ids=prompt, mm_encoder_outputs=visual, logits_to_keep=1, use_cache=False), runs
        )
    return compressing, reading


def print_computed() -> None:
    """The arithmetic of SigLIP so400m at 384 pixels and a 7B LLM in bfloat16."""
    values = PAPER_PATCHES * PAPER_WIDTH
    per_frame = (
        2 * 2 * values + values + 4 * PAPER_PATCHES
    )  # features twice in bfloat16, keys in int8, a factor per patch
    print(
        f"computed for SigLIP so400m at 384 pixels and 1 candidate per second: {per_frame * 3600 / 1e9:.1f} GB per hour of "
        f"video; a question reads {values * 3600 / 1e9:.1f} GB of it and multiplies {2 * values * 3600 / 1e9:.1f} GFLOP. "
        f"A prompt of {PAPER_TOKENS} tokens takes a 7B LLM {2 * PAPER_PARAMETERS * PAPER_TOKENS / 1e12:.1f} TFLOP, and each "
        f"token of the answer reads {2 * PAPER_PARAMETERS / 1e9:.1f} GB."
    )


if __name__ == "__main__":
    main()
