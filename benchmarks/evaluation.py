"""Questions per second of the evaluation's runner, against a loop that calls the model once per question.

    python benchmarks/evaluation.py [--model M] [--questions N] [--device cpu]

In: nothing; the questions are the first ones of the task `shapes`, whose videos are made. Out: two rates, their ratio, and how
many answers are the same. Both columns are from one run on one model, the loop last, so that what is warmed up serves it.
"""

import argparse
import tempfile
from pathlib import Path
from time import perf_counter

from hicom_hf.evaluation.evaluating import evaluate, load_session, read_questions
from hicom_hf.evaluation.results import read_answers
from hicom_hf.evaluation.runner import Asking
from hicom_hf.evaluation.tasks.shapes import SHAPES
from hicom_hf.hub.progress import no_progress


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder or Hub repo id (default: hicom-tiny)")
    parser.add_argument("--questions", type=int, default=150, help="how many (default: %(default)s)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--workers", type=int, default=0, help="processes that read videos ahead for the runner")
    args = parser.parse_args()
    session = load_session(args.model, "ours", device=args.device, dtype=args.dtype)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        questions = read_questions(SHAPES, data, "ours")[: args.questions]
        SHAPES.prepare(data / SHAPES.name, questions, no_progress)
        evaluate([SHAPES], session, Path(folder) / "warm", data=data, limit=5)
        started = perf_counter()
        asking = Asking(workers=args.workers)
        evaluate([SHAPES], session, Path(folder) / "runner", data=data, limit=args.questions, asking=asking)
        by_runner = len(questions) / (perf_counter() - started)
        answers = read_answers(Path(folder) / "runner" / SHAPES.name)
        started, same = perf_counter(), 0
        for question in questions:
            options = {"instruction": question.instruction, "max_new_tokens": question.max_new_tokens}
            told = session.open(question.video).ask(question.prompt, **options).answer
            same += told == answers[question.id]["answer"]
        by_loop = len(questions) / (perf_counter() - started)
    print(f"{len(questions)} questions about {len({question.video for question in questions})} videos")
    print(f"one call per question\t{by_loop:.2f} questions per second")
    print(f"hicom eval's runner\t{by_runner:.2f} questions per second, {by_runner / by_loop:.1f} times as many")
    print(f"same answers\t{same} of {len(questions)}")


if __name__ == "__main__":
    main()
