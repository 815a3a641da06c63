"""Whoever reads the table finds what `millrace verify` vouches for. Each check is run by each reader."""

import hashlib
import os
import shutil
from pathlib import Path

from expected import BAD_APP_VERSION, BAD_DEVICE, Expected, Place, place_of, prints_of
from readers import Reader

BAD_RELEASE = f"app_version = '{BAD_APP_VERSION}'"


def same(found: dict[Place, str], expected: dict[Place, str]) -> str:
    """Compares rows by place and hash, and tells of differences their places only. Returns one hash of all of them."""
    missing = sorted(expected.keys() - found.keys())
    extra = sorted(found.keys() - expected.keys())
    other = sorted(place for place in expected.keys() & found.keys() if expected[place] != found[place])
    assert not (missing or extra or other), (
        f"{len(missing)} rows are missing, {len(extra)} should not be there, {len(other)} have other values; "
        f"the first, as (partition, offset, sub): {missing[:3]}, {extra[:3]}, {other[:3]}"
    )
    return hashlib.sha256("".join(found[place] for place in sorted(found)).encode()).hexdigest()


def test_the_run_has_what_the_checks_are_about(expected: Expected) -> None:
    operations = [operation for operation, _ in expected.log.operations()]
    assert operations.count("WRITE") >= 2 and "CORRECT" in operations
    assert 0 < expected.log.checkpoint() < len(operations)
    assert expected.corrections and expected.corrected
    print("operations:", operations, "checkpoint:", expected.log.checkpoint())


def test_what_is_expected_is_what_verify_has_compared(expected: Expected) -> None:
    assert expected.verify["differences"] == 0
    for store in expected.verify["stores"].values():
        assert store["rows_checked"] == len(expected.rows) == len(expected.prints) > 0
        assert store["pending"] == store["unverifiable"] == store["differences"] == 0
    assert expected.demo["delta_rows"] == len(expected.rows)


def test_every_row_is_there_once_and_as_it_must_be(reader: Reader, expected: Expected) -> None:
    assert reader.count(expected.table, "true") == len(expected.rows)
    digest = same(reader.prints(expected.table), expected.prints)
    print(f"{reader.version()}: {len(expected.prints)} rows, all of them hash to {digest}")


def test_columns_have_their_types(reader: Reader, expected: Expected) -> None:
    columns = reader.columns(expected.table)
    assert columns.items() >= expected.columns.items()
    # One that no row has is there all the same.
    assert columns["referrer"] == "string" and columns["time_suspect"] == "bool"


def test_the_rows_are_the_same_from_a_checkpoint(reader: Reader, expected: Expected, tmp_path: Path) -> None:
    table = tmp_path / "delta"
    shutil.copytree(expected.table, table, copy_function=os.link)
    # As after log clean-up: without the checkpoint there is no way to the first files.
    for version in range(expected.log.checkpoint()):
        (table / "_delta_log" / f"{version:020}.json").unlink()
    same(reader.prints(table), expected.prints)


def test_a_date_reads_the_files_of_that_date(reader: Reader, expected: Expected) -> None:
    date, files = expected.busiest_date, expected.log.files()
    rows, read, filters = reader.scan(expected.table, f"event_date = DATE '{date}'")
    assert rows == sum(row["event_date"] == date for row in expected.rows) > 0
    assert read == sum(file.date == date for file in files) < len(files)
    assert "event_date" in filters and date in filters
    print(f"{reader.version()}: {rows} rows in {read} of {len(files)} files, by {filters}")


def test_a_range_of_dates_reads_the_files_of_these_dates(reader: Reader, expected: Expected) -> None:
    files = expected.log.files()
    dates = sorted({file.date for file in files})[-30:-10]
    rows, read, _ = reader.scan(
        expected.table, f"event_date >= DATE '{dates[0]}' AND event_date <= DATE '{dates[-1]}' AND event = 'purchase'"
    )
    assert rows == sum(row["event_date"] in dates and row.get("event") == "purchase" for row in expected.rows) > 0
    # A file without a purchase among its statistics may be left out.
    assert 0 < read <= sum(file.date in dates for file in files)


def test_a_range_of_offsets_reads_the_files_that_may_have_it(reader: Reader, expected: Expected) -> None:
    partition, last, _ = max(map(place_of, expected.corrected))
    first = last - 50
    rows, read, _ = reader.scan(expected.table, f"_partition = {partition} AND _offset BETWEEN {first} AND {last}")
    assert rows == sum(place[0] == partition and first <= place[1] <= last for place in expected.prints) > 0
    may_have = [file for file in expected.log.files() if file.partition == partition]
    assert read == sum(file.first <= last and first <= file.last for file in may_have) < len(may_have)
    print(f"{reader.version()}: {rows} rows in {read} of the {len(may_have)} files of partition {partition}")


def test_the_funnel_is_that_of_the_demo(reader: Reader, expected: Expected) -> None:
    weeks = reader.funnel(expected.table)
    assert weeks == [(week["week"], *week["reached"]) for week in expected.demo["funnel"]]
    assert weeks == expected.funnel()
    assert sum(week[-1] for week in weeks) > 0, "somebody bought something"
    by_release = reader.funnel(expected.table, "app_version")
    assert by_release == expected.funnel("app_version")
    assert {release for _, release, *_ in by_release} >= {BAD_APP_VERSION}
    print(f"{reader.version()}: {len(weeks)} weeks, {len(by_release)} by release; the last: {by_release[-2:]}")


def test_before_the_correction_the_old_device_id_is_there(reader: Reader, expected: Expected) -> None:
    version = expected.before_correction
    corrected = prints_of(expected.corrected)
    assert {row["app_version"] for row in expected.corrected} == {BAD_APP_VERSION}
    same(reader.prints(expected.table, version), expected.prints_before)
    devices = f"SELECT DISTINCT device_id FROM events WHERE {BAD_RELEASE}"
    assert reader.rows(expected.table, devices, version) == [(BAD_DEVICE,)]
    assert reader.count(expected.table, f"device_id = '{BAD_DEVICE}'", version) == len(corrected)
    # And now.
    assert reader.count(expected.table, f"device_id = '{BAD_DEVICE}'") == 0
    now = {device for (device,) in reader.rows(expected.table, devices)}
    assert now == {row["device_id"] for row in expected.corrected} and len(now) > 1
    print(f"{reader.version()}: {len(corrected)} rows of {BAD_DEVICE} at version {version}, of {len(now)} devices now")


def test_the_history_of_the_table_names_each_correction(reader: Reader, expected: Expected) -> None:
    operations = reader.operations(expected.table)
    assert [operation for operation, _ in operations] == [operation for operation, _ in expected.log.operations()]
    named = sorted(
        (int(parameters["revision"]), parameters["author"], parameters["reason"])
        for operation, parameters in operations
        if operation == "CORRECT"
    )
    # One commit each, under the first of its revisions.
    assert named == sorted(
        (min(correction.revisions), correction.author, correction.reason) for correction in expected.corrections
    )
    print(f"{reader.version()}: {named}")
