"""Train hicom-tiny from scratch: data, towers, LLM, three stages, scores, and a picture of all losses.

In: nothing. Out: FOLDER/instruction_tuning/model, FOLDER/scores.json, FOLDER/losses.png. Finished steps are not repeated.

    pip install -e ".[train,plots]"
    python -m lab.hicom_tiny runs/hicom-tiny --seed 0
"""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from lab.hicom_tiny.data_sets import STAGES
from lab.hicom_tiny.evaluating import as_markdown, evaluate
from lab.hicom_tiny.making import make_tiny, stage_losses
from lab.hicom_tiny.shipping import ship


def read_losses(folder: Path) -> dict[str, tuple[list[int], list[float]]]:
    """Steps and losses of the two pre-trainings and the three stages."""
    losses = {}
    for name in ("towers", "language_model"):
        lines = [json.loads(line) for line in (folder / "logs" / f"{name}.jsonl").read_text().splitlines()]
        losses[name] = [line["step"] for line in lines], [line["loss"] for line in lines]
    for stage in STAGES:
        logged = stage_losses(folder / stage)
        losses[stage] = [step for step, _ in logged], [loss for _, loss in logged]
    return losses


def draw_losses(folder: Path) -> Path:
    """One panel per training."""
    losses = read_losses(folder)
    figure, panels = plt.subplots(1, len(losses), figsize=(3.2 * len(losses), 2.8), constrained_layout=True)
    for panel, (name, (steps, values)) in zip(panels, losses.items(), strict=True):
        panel.plot(steps, values, color="tab:blue")
        panel.set(title=name.replace("_", " "), xlabel="step", yscale="log")
    panels[0].set_ylabel("loss")
    figure.savefig(folder / "losses.png", dpi=110)
    return folder / "losses.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where everything goes")
    parser.add_argument("--seed", type=int, default=0, help="of weights and of the order of learning (default 0)")
    parser.add_argument("--threads", type=int, default=2, help="of the stages (default 2)")
    parser.add_argument(
        "--data", type=Path, help="folder of the videos, to share it between seeds (default FOLDER/data)"
    )
    parser.add_argument("--ship", type=Path, metavar="DEST", help="also write the folder that the package carries")
    args = parser.parse_args()
    model = make_tiny(args.folder, args.seed, data=args.data, threads=args.threads)
    print(f"losses: {draw_losses(args.folder)}")
    results = evaluate(model, args.data or args.folder / "data")
    (args.folder / "scores.json").write_text(json.dumps(results, indent=1) + "\n")
    print(as_markdown(results))
    print(f"model: {model if args.ship is None else ship(args.folder, args.ship, overwrite=True)}")


if __name__ == "__main__":
    main()
