"""Ask many questions about one video: it is read and encoded once, each question pays for compressor and LLM only.

In:  a HICom model (folder or Hub repo id), a video, and any number of questions.
Out: every answer with the seconds it took, after the seconds for the video.

    python examples/many_questions_one_video.py hicom-7b my_video.mp4 "Who is there?" "Where are they?" "What do they do?"
"""

import argparse
from time import perf_counter

from hicom_hf.hub.loading import load_model, load_processor
from hicom_hf.processors.answering_hicom import answer_question, encode_video, read_frames

QUESTIONS = ("Who is there?", "Where does it take place?", "What happens at the end?")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("video")
    parser.add_argument("questions", nargs="*", default=QUESTIONS)
    parser.add_argument("--num-frames", type=int, default=32)
    parser.add_argument("--max-new-tokens", type=int, default=128)
    args = parser.parse_args()

    model, processor = load_model(args.model), load_processor(args.model)

    # Once per video. `video.features` may be saved with safetensors and used another day.
    started = perf_counter()
    video = encode_video(model, read_frames(processor, args.video, num_frames=args.num_frames))
    seconds = perf_counter() - started
    print(f"{video.num_frames} frames, {video.num_patches} patches: read and encoded in {seconds:.2f} s")

    # Once per question: every question makes its own tokens of the same features.
    for question in args.questions:
        answer = answer_question(model, processor, video, question, max_new_tokens=args.max_new_tokens)
        print(f"\n{question}\n{answer.answer}")
        print(f"({video.num_visual_tokens} visual tokens, {answer.seconds:.2f} s)")


if __name__ == "__main__":
    main()
