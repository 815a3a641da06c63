"""`examples/funnel.py` runs as its head says, and the pages name the versions that are checked here."""

import os
import subprocess
import sys
from pathlib import Path

from conftest import EXAMPLES
from expected import BAD_APP_VERSION, Expected

HERE = Path(__file__).parent


def test_the_example_prints_the_funnel(run: Path, expected: Expected) -> None:
    # `--jars` in the place of `--packages`: the same jars, taken already.
    command = [
        "spark-submit",
        *("--master", "local[2]", "--driver-memory", "1500m"),
        *("--conf", "spark.ui.enabled=false", "--conf", "spark.databricks.delta.snapshotPartitions=2"),
        *("--conf", "spark.sql.shuffle.partitions=2", "--driver-java-options", "-XX:TieredStopAtLevel=1"),
        *("--jars", ",".join(sorted(map(str, (run / "jars").glob("*.jar"))))),
        *(str(EXAMPLES / "funnel.py"), str(expected.table), "app_version"),
    ]
    # As in a shell where the environment is activated: spark-submit looks for its Python on the path.
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    output = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert output.returncode == 0, output.stderr[-4000:]
    lines = [line.strip("|").split("|") for line in output.stdout.splitlines() if line.startswith("|")]
    printed = [tuple(cell.strip() for cell in line) for line in lines]
    head, *rows = printed
    assert head[:3] == ("week", "app_version", "product_view")
    assert rows == [tuple(map(str, row)) for row in expected.funnel("app_version")]
    assert any(row[1] == BAD_APP_VERSION for row in rows)


def test_the_pages_name_the_versions_that_are_checked() -> None:
    pins = [
        line
        for pinned in ("requirements.txt", "jars.txt")
        for line in (HERE / pinned).read_text().splitlines()
        if not line.startswith("#")
    ]
    for page, names in {
        EXAMPLES / "funnel.py": ["pyspark==", "io.delta:delta-spark_"],
        EXAMPLES.parent / "docs" / "analysts.md": ["pyspark==", "io.delta:delta-spark_", "duckdb==", "duckdb-ext"],
    }.items():
        for name in names:
            [pin] = [pin for pin in pins if pin.startswith(name)]
            assert pin in page.read_text(), f"{page.name} does not name {pin}"
