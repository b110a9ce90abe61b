"""Results tables in; curves, fits with intervals, comparisons, figures and a report out.

This room reads a sweep directory (``sweep.json``, ``results.parquet``, ``results_by_cluster.parquet``,
``missing.json``) and nothing else, and needs no accelerator stack: numpy, scipy, polars and matplotlib are
enough, so a notebook on a laptop can use it. From below:

    collect, points       a sweep's table; means at its points and the draws and clusters that move them
    forms, solver, fit    scaling-law forms, variable projection and polish, fits that fail loudly
    resample              intervals that cover with few draws
    holdout, nested, compare, curves, der, frontier, robustness, checklist
    theory, theory_curators, theory_best_of_n     what to expect, before running
    level_fits, findings, headline, panels, figures, figures_levels, page, report_tables, report
"""
