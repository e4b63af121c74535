"""Result tables on a terminal and in Markdown."""

from typing import Any

import pytest

from ilt.evaluation.statistics import NOT_SCORED
from ilt.evaluation.tables import COLUMNS, markdown_table, print_table, result_table


def results(expert: float = 250.0, random: float = -150.0, success_rate: float | None = 0.875) -> dict[str, Any]:
    def metrics(mean: float) -> dict[str, Any]:
        rates = {"success_rate": success_rate, "crash_rate": 0.0}
        tail = {"return_p05": -12.34, "return_cvar05": -56.78}
        return {"return_mean": mean, "return_mean_interval": [mean - 1.04, mean + 1.06], **tail, **rates}

    return {
        "return_mean": 50.0,
        "expert_return_mean": expert,
        "random_return_mean": random,
        "checkpoints": {"last": metrics(50.0), "best": metrics(210.0)},
        "policies": {"expert": metrics(expert), "random": metrics(random)},
    }


def test_rows_by_hand() -> None:
    columns, rows = result_table(results())
    assert columns == list(COLUMNS)
    assert rows == [
        ["student (last)", "50.0", "49.0 … 51.1", "-12.3", "-56.8", "87.5 %", "0.0 %", "0.500"],
        ["student (best)", "210.0", "209.0 … 211.1", "-12.3", "-56.8", "87.5 %", "0.0 %", "0.900"],
        ["expert", "250.0", "249.0 … 251.1", "-12.3", "-56.8", "87.5 %", "0.0 %", "1.000"],
        ["random", "-150.0", "-151.0 … -148.9", "-12.3", "-56.8", "87.5 %", "0.0 %", "0.000"],
    ]


def test_a_rate_that_is_none_has_no_column() -> None:
    columns, rows = result_table(results(success_rate=None))
    assert columns == [name for name in COLUMNS if name != "success"]
    assert rows[0] == ["student (last)", "50.0", "49.0 … 51.1", "-12.3", "-56.8", "0.0 %", "0.500"]
    for expert in (1.0, 0.5):  # performance is undefined
        assert [row[-1] for row in result_table(results(expert=expert, random=1.0))[1]] == ["–"] * 4


def test_results_of_earlier_versions_have_no_column_for_the_worst_episodes() -> None:
    older = results()
    for metrics in (*older["checkpoints"].values(), *older["policies"].values()):
        del metrics["return_cvar05"]
    assert result_table(older)[0] == [name for name in COLUMNS if name != "worst 5 %"]


def test_without_an_expert_performance_needs_reference_scores() -> None:
    scored = results()
    del scored["policies"]["expert"]
    scored |= {"expert_return_mean": None, "performance_reference": {"source": "dataset", "zero": 10.0, "one": 50.0}}
    assert [row[-1] for row in result_table(scored)[1]] == ["1.000", "5.000", "-4.000"]
    columns, rows = result_table({**scored, "performance_reference": None})
    assert columns == [name for name in COLUMNS if name != "performance"]
    assert [row[0] for row in rows] == ["student (last)", "student (best)", "random"]


def test_markdown_by_hand() -> None:
    table = markdown_table(["policy", "return"], [["student", "1.0"], ["expert", "2.0"]])
    assert table == "| policy | return |\n| --- | --: |\n| student | 1.0 |\n| expert | 2.0 |\n"


def test_printed_tables_do_not_wrap_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("twenty test episodes", *result_table(results()))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].strip() == "twenty test episodes"
    student = next(line for line in lines if "student (last)" in line)
    assert " ".join(student.split()) == "student (last) 50.0 49.0 … 51.1 -12.3 -56.8 87.5 % 0.0 % 0.500"
    assert all(sum(name in line for line in lines) == 1 for name in ("student (best)", "expert", "random"))


def test_without_an_environment_the_table_has_validation_results() -> None:
    checkpoints = {"last": {"step": 40, "validation_loss": 0.25, "action_error": 0.0125}}
    columns, rows = result_table({**NOT_SCORED, "checkpoints": checkpoints})
    assert columns == ["policy", "validation loss", "action error"]
    assert rows == [["student (last)", "0.25", "0.0125"]]
