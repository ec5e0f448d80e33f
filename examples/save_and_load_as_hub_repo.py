"""Save a model as a self-contained Hub repo, and load it as somebody does who has only transformers.

In:  a HICom model (folder or Hub repo id), a folder to write, a video; with `--push my-name/my-hicom`, it is uploaded, too.
Out: the folder (weights, configs, tokenizers, chat template, code, pipeline, model card), and an answer from a process that
     cannot import hicom_hf.

    python examples/save_and_load_as_hub_repo.py hicom-7b my-hicom my_video.mp4
"""

import argparse
import subprocess
import sys

from hicom_hf.hub.loading import load_model, load_processor
from hicom_hf.hub.saving import push_to_hub, save_hub_folder

WITHOUT_THE_PACKAGE = """
import sys
sys.modules["hicom_hf"] = None  # as if it were not installed
from transformers import pipeline
folder, video = sys.argv[1:]
pipe = pipeline("video-text-to-text", model=folder, trust_remote_code=True)
print(type(pipe.model).__name__, "from", type(pipe.model).__module__.split(".")[0])
print(pipe(video, text="What happens in this video?", num_frames=8, max_new_tokens=64)[0]["generated_text"])
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("folder")
    parser.add_argument("video")
    parser.add_argument("--push", metavar="REPO_ID", help="upload there; needs `hf auth login`")
    args = parser.parse_args()

    model, processor = load_model(args.model), load_processor(args.model)
    save_hub_folder(model, processor, args.folder)
    if args.push:
        push_to_hub(model, processor, args.push)

    # trust_remote_code runs the Python files of the folder: fine for one that you wrote, read those of others first.
    subprocess.run([sys.executable, "-c", WITHOUT_THE_PACKAGE, args.folder, args.video], check=True)


if __name__ == "__main__":
    main()
