"""Jobs of a campaign in the order of their importance, with what each of them needs first."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .arms import ARMS, FIRST, PLATEAU, REPRESENTATIVES
from .campaign import STEPS, Campaign, Run
from .paper_tables import TABLES

# Seconds of a job until some have been measured, at the full budget: one thread, default settings.
USUAL_SECONDS = {"towers": 1500, "llm": 1500, "features": 300, "alignment": 60, "train": 480, "plateau": 1300}


@dataclass(frozen=True)
class Job:
    """Something that one process does.

    Args:
        kind: "towers", "llm", "features", "alignment", "train" or "plateau".
        seed: of the run, or the parts.
        result: exists once it is done.
        needs: exist before it can begin.
        run: of alignment, train and plateau.
        aligned: of features: with those of SigLIP's last layer.
    """

    kind: str
    seed: int
    result: Path
    needs: tuple[Path, ...] = ()
    run: Run | None = None
    aligned: bool = False

    @property
    def is_done(self) -> bool:
        return self.result.exists()

    @property
    def title(self) -> str:
        if self.kind == "features":
            return f"{'aligned' if self.aligned else 'plain'} features, seed {self.seed}"
        if self.run is None:
            return f"{self.kind}, seed {self.seed}"
        return f"alignment of {self.run.title}" if self.kind == "alignment" else self.run.title


def plan(campaign: Campaign, tables: Iterable[str] = (), arms: Iterable[str] = ()) -> list[Job]:
    """All jobs, done or not; those whose rates are not known yet wait for the search.

    First the arms of the paper's main claim on the first seed, then the search over rates, then all other arms on the first
    seed, then the other seeds; what trains until nothing improves at the end of each seed.

    Args:
        campaign: see there.
        tables: only the arms of these.
        arms: only these.
    """
    chosen = chosen_arms(tables, arms)
    wants_plateau = [name for name in PLATEAU if name in chosen and (not tables or "plateau" in tables)]
    jobs: dict[Path, Job] = {}
    first = campaign.seeds[0]
    for name in chosen:
        if name in FIRST:
            _add_run(jobs, campaign, Run(name, first))
    searched = {ARMS[name].family for name in chosen} if len(campaign.settings.factors) > 1 else set()
    for family in REPRESENTATIVES:
        for run in campaign.search_runs(family) if family in searched else ():
            _add_run(jobs, campaign, run)
    for seed in campaign.seeds:
        for name in chosen:
            _add_run(jobs, campaign, campaign.final_run(ARMS[name], seed), searched)
        for name in wants_plateau:
            _add_plateau(jobs, campaign, campaign.final_run(ARMS[name], seed, plateau=True), searched)
    return list(jobs.values())


def chosen_arms(tables: Iterable[str] = (), arms: Iterable[str] = ()) -> list[str]:
    """Names of arms, the most important first; of all if nothing is chosen.

    Raises:
        ValueError: an unknown name.
    """
    tables, arms = tuple(tables), tuple(arms)
    for kind, given, known in (("table", tables, TABLES), ("arm", arms, ARMS)):
        wrong = sorted(set(given) - set(known))
        if wrong:
            raise ValueError(f"there is no {kind} {', '.join(wrong)}; there are {', '.join(known)}")
    wanted = set(arms) | {row.arm for name in tables for row in TABLES[name].rows if row.arm}
    ordered = [*FIRST, *(name for name in ARMS if name not in FIRST)]
    return [name for name in ordered if not (tables or arms) or name in wanted]


def expected_hours(campaign: Campaign, jobs: Iterable[Job], workers: int) -> float:
    """How long jobs will take: trainings as this campaign's have taken, else the usual time, scaled with the steps."""
    scale = sum(campaign.settings.steps.values()) / sum(STEPS.values())
    seconds = {kind: usual * scale for kind, usual in USUAL_SECONDS.items()}
    measured: dict[str, list[float]] = {}
    for path in campaign.folder.glob("runs/*/seed-*/result.json"):
        result = json.loads(path.read_text())
        own = sum(part for name, part in result["seconds"].items() if name != "alignment")
        measured.setdefault("plateau" if result.get("plateau") else "train", []).append(own)
    seconds |= {kind: sum(known) / len(known) for kind, known in measured.items()}
    return sum(seconds[job.kind] for job in jobs) / workers / 3600


def _add_run(jobs: dict[Path, Job], campaign: Campaign, run: Run, searched: Iterable[str] = ()) -> None:
    """A run behind what it needs."""
    result = campaign.result_file(run)
    if result in jobs:
        return
    parts, alignment = campaign.parts_of(run.seed), campaign.alignment(run)
    towers, llm = parts / "siglip", parts / "llm"
    aligned = ARMS[run.arm].config.uses_aligned_features
    plain = campaign.features_marker(run.seed, False)
    needed = campaign.features_marker(run.seed, aligned)
    before = _search_results(campaign, run, searched)
    if not campaign.parts:
        _add(jobs, Job("towers", run.seed, towers))
        _add(jobs, Job("llm", run.seed, llm))
    for kind in sorted({False, aligned}):
        marker = campaign.features_marker(run.seed, kind)
        _add(jobs, Job("features", run.seed, marker, (towers, llm), aligned=kind))
    if not result.exists():  # afterwards nobody needs the alignment
        _add(jobs, Job("alignment", run.seed, alignment, (towers, llm, plain, *before), run))
    _add(jobs, Job("train", run.seed, result, (alignment, needed, *before), run))


def _add_plateau(jobs: dict[Path, Job], campaign: Campaign, run: Run, searched: Iterable[str]) -> None:
    base = Run(run.arm, run.seed, run.factor)
    before = _search_results(campaign, run, searched)
    _add(jobs, Job("plateau", run.seed, campaign.result_file(run), (campaign.result_file(base), *before), run))


def _search_results(campaign: Campaign, run: Run, searched: Iterable[str]) -> list[Path]:
    """What decides at which rates a run is trained, if that is still open."""
    family = ARMS[run.arm].family
    if family not in searched:
        return []
    return [campaign.result_file(other) for other in campaign.search_runs(family)]


def _add(jobs: dict[Path, Job], job: Job) -> None:
    jobs.setdefault(job.result, job)
