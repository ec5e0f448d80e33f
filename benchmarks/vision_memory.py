"""Peak memory of encoding a long video, against a short one: chunks keep it the same but for the features themselves.

In: nothing (random SigLIP of middle size). Out: per frame count the peak above the memory before encoding, the size of the
features kept, what is left (the part that chunking bounds), and its ratio to the smallest frame count of the same run.

    python benchmarks/vision_memory.py [--frames 32 128 512] [--chunk 32]
"""

import argparse
import resource
import subprocess
import sys

MEGABYTE = 2**20


def measure(frames: int, chunk: int) -> tuple[float, float]:
    """(peak above the start, features kept) in megabytes, in this process."""
    import torch
    from transformers import SiglipVisionConfig

    from hicom_hf.modeling.vision_hicom import HiComVisionTower, encode_in_chunks

    config = SiglipVisionConfig(hidden_size=384, intermediate_size=1536, num_hidden_layers=4, num_attention_heads=6)
    tower = HiComVisionTower._from_config(config).eval()
    pixels = torch.randn(frames, 3, 224, 224)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with torch.no_grad():
        features, aligned = encode_in_chunks(tower, pixels, chunk, aligned=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
    return peak, (features.nbytes + aligned.nbytes) / MEGABYTE


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="+", default=[32, 128, 512], help="frame counts to compare")
    parser.add_argument("--chunk", type=int, default=32, help="frames encoded at a time (vision_batch_size)")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(*measure(arguments.one, arguments.chunk))
        return
    print(f"{'frames':>7}{'peak MB':>10}{'features MB':>13}{'rest MB':>10}{'ratio':>8}")
    smallest = None
    for frames in sorted(arguments.frames):  # a process each: a peak never comes down again
        command = [sys.executable, __file__, "--one", str(frames), "--chunk", str(arguments.chunk)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        peak, kept = map(float, output.split())
        rest = peak - kept
        smallest = smallest or rest
        print(f"{frames:>7}{peak:>10.0f}{kept:>13.0f}{rest:>10.0f}{rest / smallest:>8.2f}")


if __name__ == "__main__":
    main()
