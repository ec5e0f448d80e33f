"""Jobs of a campaign in the order of their importance, with what each of them needs first."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from .campaign import STEPS, Campaign, Run
from .paper_tables import TABLES
from .variants import FIRST, PLATEAU, REPRESENTATIVES, VARIANTS

# Estimated seconds of a job before any have been measured, at the full budget: one thread, default settings.
USUAL_SECONDS = {"towers": 1200, "llm": 1800, "features": 240, "alignment": 50, "train": 380, "plateau": 1100}


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
        model: that the job leaves, where another job needs it.
    """

    kind: str
    seed: int
    result: Path
    needs: tuple[Path, ...] = ()
    run: Run | None = None
    aligned: bool = False
    model: Path | None = None

    @property
    def is_done(self) -> bool:
        return self.result.exists() and (self.model is None or self.model.exists())

    @property
    def title(self) -> str:
        if self.kind == "features":
            return f"{'aligned' if self.aligned else 'plain'} features, seed {self.seed}"
        if self.run is None:
            return f"{self.kind}, seed {self.seed}"
        return f"alignment of {self.run.title}" if self.kind == "alignment" else self.run.title


def plan(campaign: Campaign, tables: Iterable[str] = (), variants: Iterable[str] = ()) -> list[Job]:
    """All jobs, done or not; those whose rates are not known yet wait for the search.

    First the variants of the paper's main claim on one seed and the search over rates, then these variants on all seeds and what
    trains on the first one until nothing improves, then everything else, seed by seed.

    Args:
        campaign: see there.
        tables: only the variants of these.
        variants: only these.

    Raises:
        ValueError: an unknown table or variant, or rates that are still to be chosen on a seed that is left out.
    """
    tables, variants = tuple(tables), tuple(variants)
    chosen = chosen_variants(tables, variants)
    first = [name for name in chosen if name in FIRST]
    searched = {VARIANTS[name].family for name in chosen} if len(campaign.settings.factors) > 1 else set()
    plateau = [name for name in PLATEAU if name in chosen and (not tables or "plateau" in tables)]
    jobs = _Jobs(campaign, searched, plateau)
    if campaign.search_seed in campaign.seeds:
        jobs.add_runs(first, campaign.search_seed, waits=False)
    for family in REPRESENTATIVES:
        if family in searched:
            jobs.add_search(family)
    for seed in campaign.seeds:
        jobs.add_runs(first, seed)
    jobs.add_plateaus(campaign.seeds[0])
    for seed in campaign.seeds:
        jobs.add_runs(chosen, seed)
        jobs.add_plateaus(seed)
    return list(jobs.found.values())


def chosen_variants(tables: Iterable[str] = (), variants: Iterable[str] = ()) -> list[str]:
    """Names of variants, the most important first; of all if nothing is chosen.

    Raises:
        ValueError: an unknown name.
    """
    tables, variants = tuple(tables), tuple(variants)
    for kind, given, known in (("table", tables, TABLES), ("variant", variants, VARIANTS)):
        wrong = sorted(set(given) - set(known))
        if wrong:
            raise ValueError(f"there is no {kind} {', '.join(wrong)}; there are {', '.join(known)}")
    wanted = set(variants) | {row.variant for name in tables for row in TABLES[name].rows if row.variant}
    ordered = [*FIRST, *(name for name in VARIANTS if name not in FIRST)]
    return [name for name in ordered if not (tables or variants) or name in wanted]


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


@dataclass
class _Jobs:
    """Jobs, each behind what it needs.

    Args:
        campaign: see there.
        searched: families whose rates are chosen.
        plateau: variants that are trained on until nothing improves.
    """

    campaign: Campaign
    searched: set[str]
    plateau: list[str]
    found: dict[Path, Job] = field(default_factory=dict)

    def add_runs(self, names: Iterable[str], seed: int, waits: bool = True) -> None:
        """Variants at the rates of their families, as far as these are known."""
        for name in names:
            self._add_run(self.campaign.final_run(VARIANTS[name], seed), waits)

    def add_search(self, family: str) -> None:
        campaign = self.campaign
        if campaign.search_seed not in campaign.seeds and campaign.factor(family) is None:
            raise ValueError(
                f"the rates of the {family} variants are not chosen yet: add seed {campaign.search_seed} to --seeds"
            )
        for run in campaign.search_runs(family):
            self._add_run(run, waits=False)

    def add_plateaus(self, seed: int) -> None:
        campaign = self.campaign
        for name in self.plateau:
            run = campaign.final_run(VARIANTS[name], seed, plateau=True)
            base = replace(run, plateau=False)
            needs = (campaign.result_file(base), campaign.model_folder(base), *self._search_results(run))
            self._add(Job("plateau", seed, campaign.result_file(run), needs, run))

    def _add_run(self, run: Run, waits: bool) -> None:
        campaign, aligned = self.campaign, VARIANTS[run.variant].config.uses_aligned_features
        model = campaign.model_folder(run) if self._is_trained_on(run) else None
        job = Job("train", run.seed, campaign.result_file(run), run=run, model=model)
        if job.is_done or job.result in self.found:
            self._add(job)
            return
        parts = [campaign.parts_of(run.seed) / name for name in ("siglip", "llm")]
        if not campaign.parts:
            for kind, part in zip(("towers", "llm"), parts, strict=True):
                self._add(Job(kind, run.seed, part))
        markers = {kind: campaign.features_marker(run.seed, kind) for kind in sorted({False, aligned})}
        for kind, marker in markers.items():
            self._add(Job("features", run.seed, marker, tuple(parts), aligned=kind))
        before, alignment = self._search_results(run) if waits else (), campaign.alignment(run)
        self._add(Job("alignment", run.seed, alignment, (*parts, markers[False], *before), run))
        self._add(replace(job, needs=(alignment, markers[aligned], *before)))

    def _is_trained_on(self, run: Run) -> bool:
        """Whether a plateau is still to be reached from a run's model; a model that was not moved along is made again."""
        if run.variant not in self.plateau or run.seed not in self.campaign.seeds:
            return False
        is_final = run.factor == self.campaign.factor(VARIANTS[run.variant].family)
        return is_final and self.campaign.result(replace(run, plateau=True)) is None

    def _search_results(self, run: Run) -> tuple[Path, ...]:
        """What decides at which rates a run is trained, if that is still open."""
        family = VARIANTS[run.variant].family
        if family not in self.searched:
            return ()
        return tuple(self.campaign.result_file(other) for other in self.campaign.search_runs(family))

    def _add(self, job: Job) -> None:
        self.found.setdefault(job.result, job)
