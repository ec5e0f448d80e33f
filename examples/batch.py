"""Answer one question about several videos in one batch; the videos may have different lengths and sizes.

In:  a HICom model (folder or Hub repo id), a question, and any number of videos.
Out: one line per video, the same answers as one by one.

    python examples/batch.py hicom-7b "What happens in this video?" first.mp4 second.mkv third.gif
"""

import argparse

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

import hicom_hf  # noqa: F401  registers HICom with transformers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("question")
    parser.add_argument("videos", nargs="+")
    parser.add_argument("--num-frames", type=int, default=32)
    parser.add_argument("--max-new-tokens", type=int, default=128)
    args = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForImageTextToText.from_pretrained(args.model, dtype="auto").to(device)
    processor = AutoProcessor.from_pretrained(args.model)

    chats = [
        [{"role": "user", "content": [{"type": "video", "path": video}, {"type": "text", "text": args.question}]}]
        for video in args.videos
    ]
    # The processor pads the prompts; the frames of all videos are packed, with video_num_frames telling them apart.
    inputs = processor.apply_chat_template(
        chats,
        num_frames=args.num_frames,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    ).to(device)
    output = model.generate(**inputs, max_new_tokens=args.max_new_tokens, do_sample=False)
    answers = processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    for video, num_frames, answer in zip(args.videos, inputs["video_num_frames"].tolist(), answers, strict=True):
        print(f"{video} ({num_frames} frames): {' '.join(answer.split())}")


if __name__ == "__main__":
    main()
