"""The run that the checks are about, what is expected of it, and the readers: see `run`."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# The example is run as it stands.
EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))

from expected import Expected  # noqa: E402
from readers import DuckDb, Reader, Spark  # noqa: E402


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--millrace", required=True, help="the millrace command")
    parser.addoption("--run", required=True, type=Path, help="directory with data/, demo.json, verify.json and jars/")


@pytest.fixture(scope="session")
def run(request: pytest.FixtureRequest) -> Path:
    return request.config.getoption("--run")


@pytest.fixture(scope="session")
def expected(request: pytest.FixtureRequest, run: Path) -> Expected:
    duckdb = DuckDb()
    devices = duckdb.rows(run / "data" / "delta", "SELECT DISTINCT device_id FROM events ORDER BY device_id")
    duckdb.stop()
    return Expected(request.config.getoption("--millrace"), run, [device for (device,) in devices])


@pytest.fixture(scope="session", params=["duckdb", "spark"])
def reader(request: pytest.FixtureRequest, run: Path) -> Iterator[Reader]:
    reader: Reader = DuckDb() if request.param == "duckdb" else Spark(run / "jars")
    yield reader
    reader.stop()
