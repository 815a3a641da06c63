"""The two readers, behind one interface: Spark with delta-spark, and DuckDB with its delta extension (delta-kernel)."""

import json
import re
from abc import ABC, abstractmethod
from glob import glob
from pathlib import Path
from typing import Any

import duckdb
import duckdb_extension_delta
from expected import STEPS, Place
from funnel import funnel
from pyspark.sql import DataFrame, SparkSession


class Reader(ABC):
    """A reader of the tables in a directory each."""

    # Our name of each type that a table's column may have.
    types: dict[str, str]
    # A value of each of our types as the text that `expected.text_of` has, in the reader's SQL.
    texts: dict[str, str]

    @abstractmethod
    def version(self) -> str:
        """Name and version of the software."""

    @abstractmethod
    def rows(self, table: Path, sql: str, version: int | None = None) -> list[tuple]:
        """What a query finds in the view `events` of the table, now or at a version."""

    @abstractmethod
    def described(self, table: Path) -> list[tuple[str, str]]:
        """The columns as the reader names their types."""

    @abstractmethod
    def scan(self, table: Path, where: str) -> tuple[int, int, str]:
        """Reads the rows that match: how many rows and files were read, and by which filter files were chosen."""

    @abstractmethod
    def funnel(self, table: Path, *by: str) -> list[tuple]:
        """The weekly checkout funnel, as `Expected.funnel` has it."""

    @abstractmethod
    def operations(self, table: Path) -> list[tuple[str, dict[str, str]]]:
        """Of each version: the operation and its parameters."""

    def columns(self, table: Path) -> dict[str, str]:
        return {name: self.types[kind] for name, kind in self.described(table)}

    def prints(self, table: Path, version: int | None = None) -> dict[Place, str]:
        """Place and hash of each row, as `expected.print_of` makes it."""
        parts = []
        for name, kind in sorted(self.columns(table).items()):
            value = self.texts[kind].format(name)
            parts.append(f"coalesce('{name}=' || length({value}) || ':' || {value} || ';', '')")
        sql = f"SELECT _partition, _offset, _sub, {self.sha256(' || '.join(parts))} FROM events"
        rows = self.rows(table, sql, version)
        prints = {(partition, offset, sub): hash for partition, offset, sub, hash in rows}
        assert len(prints) == len(rows), "two rows have the same place"
        return prints

    @abstractmethod
    def sha256(self, text: str) -> str:
        """The hash of a text in the reader's SQL."""

    def count(self, table: Path, where: str, version: int | None = None) -> int:
        [(count,)] = self.rows(table, f"SELECT count(*) FROM events WHERE {where}", version)
        return count

    @abstractmethod
    def stop(self) -> None:
        """Frees what it holds."""


class DuckDb(Reader):
    types = {
        "VARCHAR": "string",
        "TIMESTAMP WITH TIME ZONE": "timestamp",
        "BIGINT": "int64",
        "BOOLEAN": "bool",
        "DATE": "date",
    }
    texts = {
        "string": "{}",
        "timestamp": "epoch_us({})::VARCHAR",
        "int64": "{}::VARCHAR",
        "bool": "{}::VARCHAR",
        "date": "{}::VARCHAR",
    }

    def __init__(self) -> None:
        package = Path(duckdb_extension_delta.__file__).parent
        # From the package: nothing is taken from the network.
        [extension] = glob(str(package / "extensions" / "*" / "delta.duckdb_extension"))
        self.db = duckdb.connect(config={"allow_unsigned_extensions": "true", "memory_limit": "1GB", "threads": "2"})
        self.db.execute("SET TimeZone = 'UTC'")
        self.db.execute(f"LOAD '{extension}'")

    def version(self) -> str:
        return f"DuckDB {duckdb.__version__}"

    def execute(self, table: Path, sql: str, version: int | None = None) -> Any:
        at = "" if version is None else f", version => {version}"
        self.db.execute(f"CREATE OR REPLACE TEMP VIEW events AS SELECT * FROM delta_scan('{table}'{at})")
        return self.db.execute(sql)

    def rows(self, table: Path, sql: str, version: int | None = None) -> list[tuple]:
        return self.execute(table, sql, version).fetchall()

    def described(self, table: Path) -> list[tuple[str, str]]:
        return [(name, kind) for name, kind, *_ in self.rows(table, "DESCRIBE events")]

    def sha256(self, text: str) -> str:
        return f"sha256({text})"

    def scan(self, table: Path, where: str) -> tuple[int, int, str]:
        # All columns, so that no answer comes from statistics alone.
        sql = f"EXPLAIN (ANALYZE, FORMAT json) SELECT count(COLUMNS(*)) FROM events WHERE {where}"
        [(_, plan)] = self.rows(table, sql)

        def leaves(node: dict) -> list[dict]:
            return [leaf for child in node["children"] for leaf in leaves(child)] or [node]

        [leaf] = leaves(json.loads(plan))
        info = leaf["extra_info"]
        read, known = map(int, info["Scanning Files"].split("/"))
        assert read == int(info["Total Files Read"]) and read <= known
        filters = info["File Filters"]
        return self.count(table, where), read, filters if isinstance(filters, str) else " AND ".join(filters)

    def funnel(self, table: Path, *by: str) -> list[tuple]:
        group = ", ".join(["week", *by])
        counts = ", ".join(f"count(*) FILTER (reached > {step})" for step in range(len(STEPS)))
        return self.rows(
            table,
            f"""
            WITH clicks AS (
                SELECT *, strftime(event_time, '%G-W%V') AS week, list_position({STEPS}, event) - 1 AS step FROM events
            ), devices AS (
                SELECT {group}, device_id, list_reduce(
                    list(step ORDER BY event_time, step),
                    lambda reached, step: if(step = reached, reached + 1, reached),
                    0
                ) AS reached
                FROM clicks WHERE step IS NOT NULL GROUP BY {group}, device_id
            )
            SELECT {group}, {counts} FROM devices GROUP BY {group} ORDER BY {group}
            """,
        )

    def operations(self, table: Path) -> list[tuple[str, dict[str, str]]]:
        # The extension has no DESCRIBE HISTORY; commit entries are JSON lines.
        sql = f"""
            SELECT commitInfo ->> 'operation', commitInfo -> 'operationParameters'
            FROM read_json('{table}/_delta_log/*.json', format = 'newline_delimited', filename = true,
                           columns = {{'commitInfo': 'JSON'}})
            WHERE commitInfo IS NOT NULL ORDER BY filename
        """
        return [(operation, json.loads(parameters)) for operation, parameters in self.db.execute(sql).fetchall()]

    def stop(self) -> None:
        self.db.close()


class Spark(Reader):
    types = {"string": "string", "timestamp": "timestamp", "bigint": "int64", "boolean": "bool", "date": "date"}
    texts = {
        "string": "{}",
        "timestamp": "string(unix_micros({}))",
        "int64": "string({})",
        "bool": "string({})",
        "date": "string({})",
    }

    def __init__(self, jars: Path) -> None:
        self.spark = (
            SparkSession.builder.master("local[2]")
            .config("spark.jars", ",".join(sorted(map(str, jars.glob("*.jar")))))
            .config("spark.sql.extensions", "io.delta.sql.DeltaSparkSessionExtension")
            .config("spark.sql.catalog.spark_catalog", "org.apache.spark.sql.delta.catalog.DeltaCatalog")
            .config("spark.sql.session.timeZone", "UTC")
            # A small machine and a small table: nothing is gained by 50 and 200 tasks.
            .config("spark.driver.memory", "1500m")
            # A minute of many small queries: the second compiler costs more than it gives.
            .config("spark.driver.extraJavaOptions", "-XX:TieredStopAtLevel=1")
            .config("spark.databricks.delta.snapshotPartitions", "2")
            .config("spark.sql.shuffle.partitions", "2")
            .config("spark.ui.enabled", "false")
            .config("spark.ui.showConsoleProgress", "false")
            .config("spark.sql.debug.maxToStringFields", "100")
            .getOrCreate()
        )

    def version(self) -> str:
        return f"Spark {self.spark.version}"

    def events(self, table: Path, version: int | None = None) -> DataFrame:
        read = self.spark.read.format("delta")
        return (read if version is None else read.option("versionAsOf", version)).load(str(table))

    def rows(self, table: Path, sql: str, version: int | None = None) -> list[tuple]:
        self.events(table, version).createOrReplaceTempView("events")
        return [tuple(row) for row in self.spark.sql(sql).collect()]

    def described(self, table: Path) -> list[tuple[str, str]]:
        return self.events(table).dtypes

    def sha256(self, text: str) -> str:
        return f"sha2({text}, 256)"

    def scan(self, table: Path, where: str) -> tuple[int, int, str]:
        rows = self.events(table).where(where)
        found = len(rows.collect())
        # What was run, as its metrics have it after the run.
        plan = rows._jdf.queryExecution().executedPlan()
        leaf = plan.collectLeaves().head()
        filters = re.search(r"PartitionFilters: \[(.*?)\]", plan.toString())
        assert filters, plan.toString()
        return found, leaf.metrics().apply("numFiles").value(), filters[1]

    def funnel(self, table: Path, *by: str) -> list[tuple]:
        return [tuple(row) for row in funnel(self.events(table), *by).collect()]

    def operations(self, table: Path) -> list[tuple[str, dict[str, str]]]:
        history = self.spark.sql(f"DESCRIBE HISTORY delta.`{table}`").orderBy("version")
        return [(row.operation, row.operationParameters) for row in history.collect()]

    def stop(self) -> None:
        self.spark.stop()
