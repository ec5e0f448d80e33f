"""Variants, tables and progress of a campaign, for a terminal."""

from collections.abc import Iterable

from .campaign import Campaign
from .paper_tables import TABLES
from .planning import chosen_variants, expected_hours, plan
from .variants import VARIANTS


def listing(campaign: Campaign, workers: int, tables: Iterable[str] = (), variants: Iterable[str] = ()) -> str:
    """Variants with their tables, tokens and seeds done, the tables, and the time that the rest takes.

    Args:
        campaign: see there.
        workers: processes at a time.
        tables, variants: only these, see `plan`.
    """
    names, jobs = chosen_variants(tables, variants), plan(campaign, tables, variants)
    lines = [f"{'variant':<42}{'tokens':>6}  {'seeds done':<12}tables"]
    rows = [(name, False) for name in names]
    rows += dict.fromkeys((job.run.variant, True) for job in jobs if job.kind == "plateau")
    for name, plateau in rows:
        variant = VARIANTS[name]
        done = [str(seed) for seed in campaign.seeds if campaign.result(campaign.final_run(variant, seed, plateau))]
        within = [
            table.name
            for table in TABLES.values()
            if any((row.variant, row.plateau) == (name, plateau) for row in table.rows)
        ]
        title = f"{name}, to the plateau" if plateau else name
        lines.append(f"{title:<42}{variant.num_tokens:>6}  {' '.join(done) or '-':<12}{' '.join(within)}")
    lines += ["", *(f"{table.name:<12} {table.title}" for table in TABLES.values())]
    left = [job for job in jobs if not job.is_done]
    hours = expected_hours(campaign, left, workers)
    lines += ["", f"{len(jobs) - len(left)} of {len(jobs)} jobs done; the others take about {hours:.1f} hours"]
    return "\n".join(lines)
