"""Ask one question about one video, with nothing but transformers' own calls.

In:  a HICom model (folder or Hub repo id), a video (path or URL), a question.
Out: the answer on stdout, and how many tokens the video became.

    python examples/ask_a_video.py hicom-7b my_video.mp4 "What happens in this video?"
"""

import argparse

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

import hicom_hf  # noqa: F401  registers HICom with transformers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("video")
    parser.add_argument("question", nargs="?", default="What happens in this video?")
    parser.add_argument("--num-frames", type=int, default=32)
    parser.add_argument("--max-new-tokens", type=int, default=128)
    args = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForImageTextToText.from_pretrained(args.model, dtype="auto").to(device)
    processor = AutoProcessor.from_pretrained(args.model)

    # The words next to the video are the instruction that conditions its compression.
    chat = [
        {
            "role": "user",
            "content": [{"type": "video", "path": args.video}, {"type": "text", "text": args.question}],
        }
    ]
    inputs = processor.apply_chat_template(
        chat,
        num_frames=args.num_frames,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    ).to(device)
    output = model.generate(**inputs, max_new_tokens=args.max_new_tokens, do_sample=False)

    num_tokens = int((inputs["input_ids"] == processor.video_token_id).sum())
    print(f"{int(inputs['video_num_frames'])} frames became {num_tokens} tokens")
    print(processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))


if __name__ == "__main__":
    main()
