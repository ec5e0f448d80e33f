"""Ask through transformers' pipeline: one video, a chat, and a list.

In:  a HICom model (folder or Hub repo id) and a video.
Out: the answers of the three calls.

    python examples/pipeline.py hicom-7b my_video.mp4
"""

import argparse

from transformers import pipeline

import hicom_hf  # noqa: F401  without the package, pass trust_remote_code=True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("video")
    parser.add_argument("--max-new-tokens", type=int, default=128)
    args = parser.parse_args()

    pipe = pipeline("video-text-to-text", model=args.model)
    options = {"num_frames": 16, "max_new_tokens": args.max_new_tokens}

    # A video and a question.
    print(pipe(args.video, text="What happens in this video?", **options)[0]["generated_text"])

    # A chat, with turns before; the last question conditions the compression.
    chat = [
        {
            "role": "user",
            "content": [{"type": "video", "path": args.video}, {"type": "text", "text": "Who is in the video?"}],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "A cook."}]},
        {"role": "user", "content": [{"type": "text", "text": "What is the cook doing?"}]},
    ]
    print(pipe(chat, **options)[0]["generated_text"])

    # Several questions about one video, which is then encoded once.
    questions = ["Where is it?", "What is at the beginning?"]
    for question, answer in zip(questions, pipe(args.video, text=questions, **options), strict=True):
        print(f"{question} {answer[0]['generated_text']}")


if __name__ == "__main__":
    main()
