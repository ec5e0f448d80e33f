"""Memory and time that opening a training set takes, against its number of records: kept in each process, and as an index.

In: nothing. Out: a line for each number of records and way, what each further record costs, and both for the paper's 2.68
million records on a machine with 8 processes, computed from it. Run: `python benchmarks/records.py [RECORDS ...]`.

Records are LLaVA's, about 540 bytes each, in JSONL; nothing is decoded. One and three processes open each set, go through
all its records and draw an order of an epoch; the memory is the sum of their PSS, in which a shared page counts once. The run
with 10 records is what is there without any. "again" is a later run, which finds the index.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COUNTS = (10, 20_000, 100_000)
PAPER = 2_680_000  # records of the paper's instruction tuning
PROCESSES, RANKS = (1, 3), 8  # measured, and of a machine that is computed
QUESTION = "<video>\n" + "What happens after the man has opened the door? " * 3
ANSWER = "He walks into the garden and waits. " * 6


def write_records(path: Path, count: int) -> None:
    with path.open("w") as file:
        for number in range(count):
            turns = [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": ANSWER}]
            file.write(json.dumps({"id": number, "video": f"videos/{number:08d}.mp4", "conversations": turns}) + "\n")


def pss_mb() -> float:
    """Memory of this process; of what it shares, its part."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("Pss:")).split()[1]) / 1000


def open_records(path: str, index: str) -> None:
    """Open, read all, draw an order; wait until all have, then print seconds of a core and memory."""
    from hicom_hf.assembly.random_model import tiny_processor
    from hicom_hf.data.datasets import HiComDataset
    from hicom_hf.data.encoding import ItemEncoder
    from hicom_hf.data.epoch_padding import sampler_of

    encoder, begin, start = ItemEncoder(tiny_processor()), time.process_time(), time.perf_counter()
    dataset = HiComDataset(path, encoder, index=index or None)
    opened, wall = time.process_time() - begin, time.perf_counter() - start
    for record in dataset.records:
        assert record.data
    order = iter(sampler_of(dataset, 256, 0, "length"))
    next(order)
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps({"records": len(dataset), "seconds": opened, "wall": wall, "pss_mb": pss_mb()}), flush=True)
    sys.stdin.readline()


def measure(path: Path, index: str, processes: int) -> dict[str, float]:
    """Figures of some processes: the longest time, the sum of their memory."""
    command = [sys.executable, __file__, "--open", str(path), index]
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(processes)
    ]
    for process in started:
        assert process.stdout.readline() == "ready\n"
    found = []
    for process in started:  # one after another, while all hold what they hold
        process.stdin.write("measure\n")
        process.stdin.flush()
        found.append(json.loads(process.stdout.readline()))
    for process in started:
        process.stdin.write("end\n")
        process.stdin.close()
        process.wait()
    return {
        "records": found[0]["records"],
        "seconds": max(one["seconds"] for one in found),
        "wall": max(one["wall"] for one in found),
        "pss_mb": sum(one["pss_mb"] for one in found),
    }


def main(counts: tuple[int, ...]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for way in ("in each process", "index", "index again"):
            found: dict[tuple[int, int], dict[str, float]] = {}
            for count in counts:
                path = Path(folder) / f"{count}.jsonl"
                write_records(path, count)
                for processes in PROCESSES if way != "index" else PROCESSES[:1]:
                    index = "" if way == "in each process" else str(Path(folder) / "index")
                    one = found[count, processes] = measure(path, index, processes)
                    print(
                        f"{count:>9,} records, {way:16}, {processes} processes: {one['seconds']:6.1f} s of a core, "
                        f"{one['pss_mb']:7.0f} MB",
                        flush=True,
                    )
            records = counts[-1] - counts[0]
            first, last = counts[0], counts[-1]
            measured = sorted({processes for _, processes in found})
            each = [(found[last, n]["pss_mb"] - found[first, n]["pss_mb"]) / records * 1e6 for n in measured]
            seconds = (found[last, 1]["seconds"] - found[first, 1]["seconds"]) / records
            if len(measured) == 1:  # how it is shared is measured on the finished index
                print(f"{way}, made: {seconds * 1e6:.0f} us per record; {PAPER:,} records: {seconds * PAPER:.0f} s")
                continue
            further = (each[-1] - each[0]) / (PROCESSES[-1] - PROCESSES[0])
            together = (each[0] + (RANKS - 1) * further) * PAPER / 1e9
            print(
                f"{way}: {seconds * 1e6:.0f} us and {each[0]:.0f} bytes per record in one process, {further:.0f} in each "
                f"further one; {PAPER:,} records: {seconds * PAPER:.0f} s, {together:.1f} GB for {RANKS} processes",
                flush=True,
            )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--open"]:
        open_records(*sys.argv[2:])
    else:
        main(tuple(map(int, sys.argv[1:])) or COUNTS)
