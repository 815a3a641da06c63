"""Reads a Delta table with DuckDB, which shares no code with our writer, and prints what it found as JSON.

Usage: duckdb_check.py TABLE

Needs the packages duckdb==1.5.5 and duckdb-extension-delta==1.5.5; loads the extension from the package, not from the
network.
"""

import glob
import json
import os
import sys

import duckdb
import duckdb_extension_delta


def main(table: str) -> None:
    package = os.path.dirname(duckdb_extension_delta.__file__)
    [extension] = glob.glob(os.path.join(package, "extensions", "*", "delta.duckdb_extension"))
    db = duckdb.connect(config={"allow_unsigned_extensions": "true"})
    db.execute("SET TimeZone = 'UTC'")
    db.execute(f"LOAD '{extension}'")
    db.execute("CREATE VIEW t AS SELECT * FROM delta_scan(?)".replace("?", "'" + table.replace("'", "''") + "'"))

    def one(sql: str) -> list:
        return list(db.execute(sql).fetchone())

    count, partitions, offsets, subs, revisions = one(
        "SELECT count(*), sum(_partition)::BIGINT, sum(_offset)::BIGINT, sum(_sub)::BIGINT, sum(_revision)::BIGINT FROM t"
    )
    [distinct] = one("SELECT count(*) FROM (SELECT DISTINCT _partition, _offset, _sub FROM t)")
    least, greatest, text = one(
        "SELECT epoch_us(min(event_time)), epoch_us(max(event_time)), sum(length(properties))::BIGINT FROM t"
    )
    [misplaced] = one("SELECT count(*) FROM t WHERE event_date IS DISTINCT FROM event_time::DATE")
    # Through statistics and partition pruning, not around them.
    pruned = one("SELECT count(*) FROM t WHERE _partition = 1 AND _offset >= 10 AND _offset < 25")[0]
    latest = one("SELECT count(*) FROM t WHERE event_time = (SELECT max(event_time) FROM t)")[0]
    dates = db.execute("SELECT event_date::VARCHAR, count(*) FROM t GROUP BY 1 ORDER BY 1").fetchall()
    columns = [[name, kind] for name, kind, *_ in db.execute("DESCRIBE t").fetchall()]
    json.dump(
        {
            "count": count,
            "sums": {"_partition": partitions, "_offset": offsets, "_sub": subs, "_revision": revisions},
            "distinct": distinct,
            "event_time_us": [least, greatest],
            "properties_chars": text,
            "misplaced": misplaced,
            "pruned": pruned,
            "latest": latest,
            "by_date": dict(dates),
            "columns": columns,
        },
        sys.stdout,
    )


main(sys.argv[1])
