"""docs/corpus.md says what is there: its adapters, its columns, its polars, and the DuckDB where that is installed."""

import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from rewardscale.data.build.run import Built
from rewardscale.data.build.write import MANIFEST
from rewardscale.data.sources.adapter import registry
from tests.data.build import built_small
from tests.data.build.built_small import judged

PAGE = (Path(__file__).parents[2] / "docs" / "corpus.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    pairs = [judged(f"q{i}", "long " * (1 + i % 3), "no", source="plain", tie=i % 5 == 0) for i in range(20)]
    return built_small.build(tmp_path_factory.mktemp("docs") / "two", {"plain": pairs})


def code(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_every_adapter_is_named_and_no_other() -> None:
    table = PAGE[PAGE.index("| kind | adapters |") : PAGE.index("K responses become pairs")]
    named = set(re.findall(r"`([\w-]+)`", table)) - {"evaluation"}
    assert named == set(registry())
    (row,) = [line for line in table.splitlines() if "made to evaluate" in line]
    evaluation = {name for name, adapter in registry().items() if adapter.evaluation_only}
    assert set(re.findall(r"`([\w-]+)`", row)) - {"evaluation"} == evaluation


def test_the_columns_are_the_manifests() -> None:
    listed = PAGE[PAGE.index("a query over the manifest (") : PAGE.index("polars is there")]
    assert set(re.findall(r"`(\w+)`", listed)) == {"row", *MANIFEST}


def test_the_queries_run_and_agree(built: Built) -> None:
    root = str(built.directory)
    (python,) = [block for block in code("python") if "scan_parquet" in block]
    names: dict[str, Any] = {"pl": pl}
    lines = [line for line in python.replace("corpora/two", root).splitlines() if line]
    exec("\n".join(lines[:1]), names)
    counts: pl.DataFrame = eval(lines[1], names)
    exec("\n".join(lines[2:4]), names)
    wins: pl.DataFrame = eval(lines[4], names)
    assert counts["len"].sum() == len(built.corpus)
    assert wins["longer_wins"].to_list() == [1.0]
    duckdb = pytest.importorskip("duckdb", reason="DuckDB is no dependency")
    (sql,) = code("sql")
    tables = [
        duckdb.sql(query).fetchall() for query in sql.replace("corpora/two", root).split(";") if query.strip()
    ]
    assert sorted(row[:3] for row in tables[0]) == sorted(row[:3] for row in counts.rows())
    assert tables[1] == wins.rows()
    assert tables[2] == [("plain", "source", len(built.corpus), 1.0)]
