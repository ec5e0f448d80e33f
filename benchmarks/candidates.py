"""What choosing costs: seconds and bytes against the number of candidates, beside the question that follows.

In: hicom-tiny, whose candidates are random features (their values change no cost), and one encoded scene for the rate of
encoding. Out: a table in CPU seconds of one thread, the bytes kept on disk, the peak of memory; beside it, what compressing
all candidates for a question takes, without the LLM. Then what arithmetic gives for SigLIP so400m at 384 pixels and a 7B LLM,
computed.

    python benchmarks/candidates.py --candidates 256 2048 16384
"""

import argparse
import resource
import statistics
from time import process_time

import torch

from hicom_hf import FrameSelection, HiComSession
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
    parser.add_argument("--candidates", type=int, nargs="+", default=[256, 2048, 16384])
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
        f"| candidates | MB on disk | choose (s) | {arguments.questions} questions (s) | compress and answer (s) | peak (MB) "
        "| compress all (s) |"
    )
    print("|---|---|---|---|---|---|---|")
    for count in arguments.candidates:
        candidates = filled(model, count, getattr(torch, arguments.dtype))

        def choose(questions, candidates=candidates):
            return choose_for_questions(model, processor, candidates, questions, selection)

        one = median_seconds(lambda: choose(QUESTIONS[:1]), arguments.runs)
        together = median_seconds(lambda: choose(QUESTIONS[: arguments.questions]), arguments.runs)
        [record] = choose(QUESTIONS[:1])

        def answer(record=record, candidates=candidates):
            answer_questions(
                model, processor, chosen_video(model, candidates, record), QUESTIONS[:1], max_new_tokens=8
            )

        follow = median_seconds(answer, arguments.runs)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        whole = (
            f"{compress_all(model, processor, candidates, arguments.runs):.3f}" if count <= MOST_COMPRESSED else "-"
        )
        print(
            f"| {count:,} | {candidates.num_bytes / 1e6:.0f} | {one:.3f} | {together:.3f} | {follow:.3f} | {peak:.0f} "
            f"| {whole} |"
        )
    print_computed()


def compress_all(model, processor, candidates: CandidateFrames, runs: int) -> float:
    """CPU seconds of compressing all candidates for one question, as it would be without a selection."""
    count = len(candidates)
    features = {name: getattr(candidates, name).read(0, count).float() for name in ("features", "aligned_features")}
    features["num_frames"] = torch.tensor([count])
    ids = processor.encode_instructions(QUESTIONS[:1], report=False)
    with torch.no_grad():
        return median_seconds(
            lambda: model.model.get_video_features(video_features=features, video_instruction_ids=ids), runs
        )


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
