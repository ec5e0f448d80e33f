"""Memory and time that opening a training set takes, against its number of records.

In: nothing. Out: a line for each number of records, and what each further record costs. Run: `python benchmarks/records.py`.

Records are LLaVA's, about 540 bytes each, in JSONL; nothing is decoded. Each number is opened in a separate process; the
process with 10 records is what is there without any.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COUNTS = (10, 20_000, 100_000)
PAPER = 2_680_000  # records of the paper's instruction tuning
QUESTION = "<video>\n" + "What happens after the man has opened the door? " * 3
ANSWER = "He walks into the garden and waits. " * 6


def write_records(path: Path, count: int) -> None:
    with path.open("w") as file:
        for number in range(count):
            turns = [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": ANSWER}]
            file.write(json.dumps({"id": number, "video": f"videos/{number:08d}.mp4", "conversations": turns}) + "\n")


def measure(path: str) -> None:
    """Print seconds of one core, peak and final memory of this process in MB."""
    from hicom_hf.assembly.random_model import tiny_processor
    from hicom_hf.data.datasets import HiComDataset
    from hicom_hf.data.encoding import ItemEncoder

    encoder, begin = ItemEncoder(tiny_processor()), time.process_time()
    dataset = HiComDataset(path, encoder)
    seconds = time.process_time() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    kept = pages * resource.getpagesize() / 1e6
    print(json.dumps({"records": len(dataset), "seconds": seconds, "peak_mb": peak, "kept_mb": kept}))


def main() -> None:
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for count in COUNTS:
            path = Path(folder) / f"{count}.jsonl"
            write_records(path, count)
            command = [sys.executable, __file__, str(path)]
            results.append(json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout))
            print(
                "{records:>9,} records: {seconds:6.1f} s, peak {peak_mb:7.0f} MB, kept {kept_mb:7.0f} MB".format(
                    **results[-1]
                )
            )
    first, last = results[0], results[-1]
    per_record = {name: (last[name] - first[name]) / (last["records"] - first["records"]) for name in last}
    print(
        f"each record: {per_record['seconds'] * 1e6:.0f} us, peak {per_record['peak_mb'] * 1e6:.0f} bytes, kept "
        f"{per_record['kept_mb'] * 1e6:.0f} bytes; {PAPER:,} records, computed from it: {per_record['seconds'] * PAPER:.0f} s, "
        f"peak {per_record['peak_mb'] * PAPER / 1000:.1f} GB, kept {per_record['kept_mb'] * PAPER / 1000:.1f} GB in each process"
    )


if __name__ == "__main__":
    measure(sys.argv[1]) if len(sys.argv) > 1 else main()
