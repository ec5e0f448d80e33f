"""Memory and time that opening a training set takes, against its number of records: kept in each process, and as an index.

In: nothing. Out: a line for each number of records and way, what each further record costs, and the same for the paper's 2.68
million records. Run: `python benchmarks/records.py [RECORDS ...] [--processes 1 8] [--ways ...]`.

Records are LLaVA's, about 540 bytes each, in JSONL; nothing is decoded. As many processes as a machine has ranks open each set,
go through all its records and draw an order of an epoch, without a model; the memory is the sum of their PSS, in which a shared
page counts once. The run with 10 records is what is there without any. "again" is a later run, which finds the index.
"""

import argparse
import json
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

COUNTS = (10, 100_000)
PAPER = 2_680_000  # records of the paper's instruction tuning
PROCESSES = (1, 8)
WAYS = ("in each process", "index", "index again")
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


def open_records(path: str, index: str, connection) -> None:
    """Open, read all, draw an order; wait until all have, then send seconds of a core and memory."""
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
    connection.send("ready")
    connection.recv()
    connection.send({"records": len(dataset), "seconds": opened, "wall": wall, "pss_mb": pss_mb()})
    connection.recv()


def measure(path: Path, index: str, processes: int) -> dict[str, float]:
    """Figures of some processes: the longest time, the sum of their memory."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["hicom_hf.assembly.random_model", "hicom_hf.data.datasets"])
    started, ends = [], []
    for _ in range(processes):
        here, there = context.Pipe()
        started.append(context.Process(target=open_records, args=(str(path), index, there)))
        started[-1].start()
        ends.append(here)
    for end in ends:
        assert end.recv() == "ready"
    found = []
    for end in ends:  # one after another, while all hold what they hold
        end.send("measure")
        found.append(end.recv())
    for end, process in zip(ends, started, strict=True):
        end.send("end")
        process.join()
    return {
        "records": found[0]["records"],
        "seconds": max(one["seconds"] for one in found),
        "wall": max(one["wall"] for one in found),
        "pss_mb": sum(one["pss_mb"] for one in found),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", nargs="*", type=int, default=COUNTS, help=f"numbers of records (default {COUNTS})")
    parser.add_argument("--processes", nargs="+", type=int, default=PROCESSES, help="ranks of a machine (default 1 8)")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, help="default all")
    args = parser.parse_args()
    first, last = args.records[0], args.records[-1]
    with tempfile.TemporaryDirectory() as folder:
        for way in args.ways:
            found: dict[tuple[int, int], dict[str, float]] = {}
            numbers = args.processes if way != "index" else [1]  # the others wait for the one that makes it
            for count in args.records:
                path = Path(folder) / f"{count}.jsonl"
                if not path.exists():
                    write_records(path, count)
                for processes in numbers:
                    index = "" if way == "in each process" else str(Path(folder) / "index")
                    one = found[count, processes] = measure(path, index, processes)
                    print(
                        f"{count:>9,} records, {way:16}, {processes} processes: {one['seconds']:6.1f} s of a core, "
                        f"{one['pss_mb']:7.0f} MB",
                        flush=True,
                    )
            for processes in numbers:
                seconds = (found[last, processes]["seconds"] - found[first, processes]["seconds"]) / (last - first)
                each = (found[last, processes]["pss_mb"] - found[first, processes]["pss_mb"]) * 1e6 / (last - first)
                print(
                    f"{way}, {processes} processes: {seconds * 1e6:.1f} us of a core and {each:.0f} bytes in all per record; "
                    f"{PAPER:,} records: {seconds * PAPER:.1f} s, {each * PAPER / 1e9:.2f} GB",
                    flush=True,
                )


if __name__ == "__main__":
    main()
