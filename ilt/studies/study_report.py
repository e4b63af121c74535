"""Write what a study has found so far: tables, CSV, JSON and figures. Heavy modules are imported only when needed."""

import logging
from pathlib import Path

from ilt.studies.plan import DAMAGED, FINISHED, Plan, State, state_of
from ilt.tracking.store import provenance, write_json, write_text

log = logging.getLogger(__name__)


def report_study(plan: Plan, folder: Path) -> list[State]:
    """Print a study's table, write its files and figures, and return the state of each of the plan's jobs.

    A run whose files are damaged counts as not finished.
    """
    from ilt.evaluation.tables import print_table
    from ilt.studies.study_findings import findings, verdict
    from ilt.studies.study_page import study_json, study_markdown
    from ilt.studies.study_tables import make_cells, overview, study_csv
    from ilt.tracking.records import read_run
    from ilt.tracking.run_folder import read_config

    states, runs = [], {}
    for job in plan.jobs:
        state, path = state_of(job, folder), folder / job.folder
        if state.status == FINISHED:
            try:
                runs[job.folder] = read_run(job.folder, path, read_config(path))
            except ValueError as error:
                state = State(f"{DAMAGED}: {error}".replace(f"{path}/", ""))
        states.append(state)
    cells = make_cells(plan, runs)
    made = provenance()
    said = f"Written on {made['made_at']} at commit {str(made['git_commit'])[:12]}."
    write_text(folder / "study.md", study_markdown(plan, cells, states, made=said))
    write_text(folder / "study.csv", study_csv(plan, cells, states))
    write_json(folder / "study.json", {**study_json(plan, cells, states), "made": made})
    n_finished = sum(state.status == FINISHED for state in states)
    print_table(f"{plan.study['title']}: {n_finished} of {len(plan.jobs)} jobs finished", *overview(plan, cells))
    if any(cell.metric in cell.numbers for cell in cells):
        from functools import partial

        from ilt.evaluation.figure_style import write
        from ilt.studies.study_figure import study_figure

        for suffix in ("png", "pdf"):
            write(partial(study_figure, cells), folder / f"study.{suffix}")
    for said in filter(None, [verdict(plan, cells), *findings(plan, cells)]):
        log.info("%s", said)
    log.info("%s", folder / "study.md")
    return states
