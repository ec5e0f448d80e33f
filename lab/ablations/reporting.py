"""The report of a campaign: Markdown with the paper's numbers beside ours, and a picture per table."""

import json
import os
from collections import Counter
from pathlib import Path

from hicom_hf.hub.files import write_text
from hicom_hf.shapes import CHANCE

from .campaign import CPU, LEVELS, Campaign, Run, validation_score
from .paper_tables import TABLES, Row, Table
from .planning import chosen_variants
from .plots import draw_table, has_numbers
from .results import Results
from .targets import Loss, losses, pairs, targets, views
from .variants import FIRST, NUM_PATCHES, REPRESENTATIVES, VARIANTS

FRAMING = Path(__file__).parent / "framing.md"
NOT_RUN, NOT_ASKED = "not run", "not asked"


def write_report(campaign: Campaign, path: str | os.PathLike) -> list[Path]:
    """Write the report on all runs that are finished.

    Args:
        campaign: see there.
        path: of the Markdown file; the pictures go to `images/ablations/` beside it.

    Returns:
        The files that were written, the report first.

    Raises:
        ImportError: matplotlib is missing.
    """
    path, results = Path(path), Results(campaign)
    images = path.parent / "images" / "ablations"
    written = []
    parts = [_framing(campaign, results), _targets(results), _search(campaign), _kinds(results)]
    for table in TABLES.values():
        picture = None
        if has_numbers(table, results):
            picture = images / f"{table.name}.png"
            draw_table(table, results, picture)
            written.append(picture)
        parts.append(_table(table, results, picture and picture.relative_to(path.parent)))
    parts += [_curves(campaign, results), _missing(campaign, results)]
    write_text(path, "\n\n".join(part for part in parts if part))
    return [path, *written]


# Parts ---------------------------------------------------------------------------------------------------------------------


def _framing(campaign: Campaign, results: Results) -> str:
    settings = campaign.settings
    steps = " + ".join(str(settings.steps[stage]) for stage in settings.steps)
    rows = [row for table in TABLES.values() for row in table.rows if row.kind == "all"]
    counts = {
        is_long: sorted({results.questions(row) for row in rows if row.measure.endswith(" frames") == is_long} - {0})
        for is_long in (False, True)
    }
    search = "All variants use the recipes' rates, which were found with conditional variants. No search was made."
    if len(settings.factors) > 1:
        factors = ", ".join(f"{factor:g}" for factor in sorted(settings.factors))
        search = (
            f"Rates of {factors} times the recipes' were tried with one variant of each family (pooling, unconditional, "
            f"conditional) on seed {campaign.search_seed} and scored on validation videos. All variants of the family use the "
            "best. Nothing else was tuned in the campaign. The recipes and the LLM's pre-training had been chosen before it, "
            "with conditional local+global (direct and coarse injection)."
        )
    values = {
        "$STEPS": f"{steps} steps (alignment, conditional pre-training, instruction tuning)",
        "$PATCHES": f"{NUM_PATCHES:,}",
        "$SEARCH": search,
        "$QUESTIONS": _counts(counts[False]),
        "$LONG_QUESTIONS": _counts(counts[True]),
        "$ERROR": f"{standard_error(counts[False])} points" if counts[False] else "a few points",
        "$SEEDS": ", ".join(map(str, campaign.seeds)),
        "$SEED_MEANS": _seed_means(campaign),
    }
    text = FRAMING.read_text(encoding="utf-8").strip()
    for name, value in values.items():
        text = text.replace(name, value)
    return "\n\n".join(part for part in (text, _effort(campaign)) if part)


def standard_error(counts: list[int]) -> str:
    """Of a score near 50 % over the fewest of so many questions, in points; of any other score it is less."""
    return f"{50 / min(counts) ** 0.5:.1f}"


def _counts(counts: list[int]) -> str:
    return " or ".join(f"{count:,}" for count in counts) or "the same"


def _seed_means(campaign: Campaign) -> str:
    """What differs between seeds, as far as the folder records it."""
    parts = campaign.record.get("parts", {"given": bool(campaign.parts), "digests": {}})
    digests = set(parts["digests"].values())
    if not parts["given"] or len(digests) > 1:
        return "all weights, those of towers and LLM included, and the order of the data"
    same = "the same for all seeds" if len(parts["digests"]) > 1 else "given"
    return f"the compressor's first weights and the order of the data; towers and LLM were {same}"


def _effort(campaign: Campaign) -> str:
    """What was run, by which code and where, including runs that no table of the page shows."""
    runs = [json.loads(path.read_text()) for path in sorted(campaign.folder.glob("runs/**/result.json"))]
    if not runs:
        return ""
    by_device: dict[str, list[dict]] = {}
    for run in runs:
        by_device.setdefault(run.get("device", CPU), []).append(run)
    commits = sorted({run["commit"] or "unknown" for run in runs})
    lines = [
        "## What was run",
        "",
        f"{len(runs)} runs, including those of the search and to a plateau:",
        "",
        f"| device | runs | {' | '.join(f'seed {seed}' for seed in campaign.seeds)} | hours of one core |",
        "|---" * (3 + len(campaign.seeds)) + "|",
        *(
            _hours(device, found, campaign)
            for device, found in sorted(by_device.items(), key=lambda pair: pair[0] != CPU)
        ),
        "",
        f"Commits: {', '.join(f'`{commit[:10]}`' for commit in commits)}. The hours do not include making data, towers, LLM "
        "and SigLIP's features. Of an interrupted run they include the last process only.",
    ]
    return "\n".join(lines)


def _hours(device: str, runs: list[dict], campaign: Campaign) -> str:
    """A row of the table of devices; an alignment that several runs begin with counts once."""
    alignments = {
        json.dumps([run["compressor"], run["factor"], run["seed"]], sort_keys=True): run["cpu_seconds"]["alignment"]
        for run in runs
        if not run["plateau"]
    }
    hours = (sum(run["cpu_seconds"]["run"] for run in runs) + sum(alignments.values())) / 3600
    counts = Counter(run["seed"] for run in runs)
    seeds = " | ".join(str(counts[seed]) for seed in campaign.seeds)
    return f"| {'CPU' if device == CPU else device} | {len(runs)} | {seeds} | {hours:.1f} |"


def _targets(results: Results) -> str:
    lines = ["## Targets", "", "| target | | numbers |", "|---|---|---|"]
    lines += [f"| {target.text} | {target.verdict} | {target.numbers} |" for target in targets(results)]
    lost = losses(results)
    rows = [pair for pair in pairs() if results.shared(pair)]
    lines += [
        "",
        "### Where conditional compression is behind",
        "",
        f"Of {len(pairs())} pairs, {len(rows)} were run. Each is compared over the seeds that both have: over all questions, "
        "at each level of clutter, and in each kind of question. A cell is the number of points by which the conditional "
        "variant is behind; an empty cell means that it is not. No difference is tested for significance.",
        "",
    ]
    return "\n".join(
        lines + (_loss_table(results, lost) if lost else ["Nowhere." if rows else f"{NOT_RUN.capitalize()}."])
    )


def _loss_table(results: Results, lost: list[Loss]) -> list[str]:
    """A row for each pair that is lost in some view, a column for each view."""
    columns = ["conditional variant", "beside", "tokens", "seeds", *views(results)]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for loss in lost:
        own, other = loss.row.num_tokens, loss.other.num_tokens
        tokens = str(own) if own == other else f"{own}, {other}"
        cells = [f"{loss.behind[name]:.1f}" if name in loss.behind else "" for name in views(results)]
        lines.append(f"| {' | '.join([loss.row.label, loss.other.label, tokens, str(loss.num_seeds), *cells])} |")
    return lines


def _search(campaign: Campaign) -> str:
    if len(campaign.settings.factors) == 1:
        return ""
    factors = sorted(campaign.settings.factors)
    error = _validation_error(campaign, "smaller differences are not significant")
    lines = [
        "## Rates",
        "",
        f"Correct answers to the validation questions in percent, seed {campaign.search_seed}.{error}",
        "",
        f"| family | variant | {' | '.join(f'x {factor:g}' for factor in factors)} | chosen |",
        "|---" * (len(factors) + 3) + "|",
    ]
    for family, name in REPRESENTATIVES.items():
        found = [campaign.result(Run(name, campaign.search_seed, factor)) for factor in factors]
        cells = [NOT_RUN if result is None else f"{validation_score(result):.1f}" for result in found]
        factor = campaign.factor(family)
        chosen = "x 1 until all have run" if factor is None else f"x {factor:g}"
        chosen += ", at the edge of what was tried" if factor in (factors[0], factors[-1]) else ""
        lines.append(f"| {family} | {VARIANTS[name].title} | {' | '.join(cells)} | {chosen} |")
    return "\n".join(lines)


def _validation_error(campaign: Campaign, consequence: str) -> str:
    """The standard error of these scores, in a sentence."""
    found = [campaign.result(run) for family in REPRESENTATIVES for run in campaign.search_runs(family)]
    counts = [result["scores"]["validation"]["validation"]["all"]["questions"] for result in found if result]
    if not counts:
        return ""
    return f" Their standard error is up to {standard_error(counts)} points; {consequence}."


def _kinds(results: Results) -> str:
    """The main variants by kind of question."""
    kinds = results.kinds()
    if not kinds:
        return ""
    lines = ["## By kind of question", "", f"| | {' | '.join(kinds)} | all |", "|---" * (len(kinds) + 2) + "|"]
    for name in FIRST:
        cells = [_cell(results, Row(name, name), kind=kind) for kind in (*kinds, "all")]
        lines.append(f"| {VARIANTS[name].title} | {' | '.join(cells)} |")
    chances = [f"{100 * CHANCE[kind]:.1f}" for kind in kinds]
    name = next(name for name in VARIANTS if results.of(name))
    lines.append(f"| chance | {' | '.join(chances)} | {results.variant(name, of='chance').mean:.1f} |")
    return "\n".join(lines)


def _table(table: Table, results: Results, picture: Path | None) -> str:
    levels = LEVELS if any(row.measure in ("questions", "vague") for row in table.rows) else ()
    columns = ["", "tokens", "all", *levels, "seeds"]
    if table.paper_columns:
        columns += [f"paper ({table.paper_columns})", "its tokens"]
    lines = [f"## {table.title}", "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in table.rows:
        value = results.value(row)
        if value is None:
            cells = [_cell(results, row), *[""] * len(levels)]
        else:
            cells = [value.told, *(_cell(results, row, level=level) for level in levels)]
        count = str(len(value.scores)) if value else ""
        tokens = "" if row.num_tokens is None else str(row.num_tokens)
        told = [row.paper, "" if row.paper_tokens is None else f"{row.paper_tokens:,}"] if table.paper_columns else []
        lines.append(f"| {' | '.join([row.label, tokens, *cells, count, *told])} |")
    lines += _chances(table, results, levels)
    notes = [table.differs] if table.differs else []
    if table.tokens_differ:
        notes.append(f"The numbers of tokens differ: {table.tokens_differ}.")
    for why in dict.fromkeys(row.why for row in table.rows if row.variant is None):
        labels = '", "'.join(row.label for row in table.rows if row.variant is None and row.why == why)
        notes.append(f'Not run: "{labels}" ({why}).')
    if notes:
        lines += ["", " ".join(notes)]
    if picture is not None:
        lines += ["", f"![{table.title}]({picture.as_posix()})"]
    return "\n".join(lines)


def _chances(table: Table, results: Results, levels: tuple[str, ...]) -> list[str]:
    """A line for each kind of questions that the table's rows count."""
    asked: dict[str, Row] = {}
    for row in table.rows:
        if results.value(row) is not None:
            asked.setdefault(row.kind, row)
    lines = []
    for kind, row in asked.items():
        values = [results.value(row, level=level, of="chance") for level in (None, *levels)]
        cells = [NOT_ASKED if value is None else f"{value.mean:.1f}" for value in values]
        count = f"{results.questions(row):,} {'' if kind == 'all' else f'{kind} '}questions"
        lines.append(f"| chance, {count} | | {' | '.join(cells)} | |{' | |' if table.paper_columns else ''}")
    return lines


def _cell(results: Results, row: Row, **view) -> str:
    value = results.value(row, **view)
    if value is not None:
        return str(value)
    return NOT_ASKED if row.variant is not None and results.of(row.variant, row.plateau) else NOT_RUN


def _curves(campaign: Campaign, results: Results) -> str:
    """How the baselines improved with further training."""
    lines = []
    for name in VARIANTS:
        for result in results.of(name, plateau=True):
            curve = ", ".join(f"{score:.1f}" for score in result["curve"])
            end = "two gains below a point" if result["stopped"] else "bound reached, still improving"
            lines.append(f"| {VARIANTS[name].title} | {result['seed']} | {curve} | {end} |")
    if not lines:
        return ""
    return "\n".join(
        [
            "Validation scores after instruction tuning and after each repetition of it."
            f"{_validation_error(campaign, 'a point is less than that, so chance has a part in where a run stops')}",
            "",
            "| variant | seed | validation scores | reason to stop |",
            "|---|---|---|---|",
            *lines,
        ]
    )


def _missing(campaign: Campaign, results: Results) -> str:
    """What was not run, by name."""
    lines = []
    for plateau in (False, True):
        names = chosen_variants() if not plateau else [row.variant for row in TABLES["plateau"].rows if row.plateau]
        for name in names:
            done = {result["seed"] for result in results.of(name, plateau)}
            missing = [seed for seed in campaign.seeds if seed not in done]
            if missing:
                seeds = (
                    "no seed" if len(missing) == len(campaign.seeds) else f"not seed {', '.join(map(str, missing))}"
                )
                lines.append(f"* `{name}`{' to the plateau' if plateau else ''}: {seeds}")
    if not lines:
        lines = [
            f"Nothing is missing: all {len(VARIANTS)} variants were run with all seeds. Rows without a variant state the reason."
        ]
    return "\n".join(["## Not run", "", *lines])
