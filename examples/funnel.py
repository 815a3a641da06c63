"""The checkout funnel by week: how many devices went through each step, after all the steps before it.

    pip install pyspark==4.0.1
    spark-submit --packages io.delta:delta-spark_2.13:4.0.1 examples/funnel.py millrace-data/delta [COLUMN]

With a COLUMN, as app_version or platform, there is a funnel for each of its values. Needs a JDK of version 17 or 21.
"""

import sys

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

STEPS = ["product_view", "add_to_cart", "cart", "shipping_details", "payment_details", "purchase"]


def funnel(events: DataFrame, *by: str) -> DataFrame:
    """A row for each week, and value of the columns `by`, with the number of devices that reached each step."""
    clicks = events.where(F.col("event").isin(STEPS)).select(
        # ISO weeks, as in 2026-W07.
        F.expr("format_string('%d-W%02d', extract(YEAROFWEEK FROM event_time), weekofyear(event_time))").alias("week"),
        *by,
        "device_id",
        "event_time",
        (F.array_position(F.array(*map(F.lit, STEPS)), F.col("event")) - 1).cast("int").alias("step"),
    )
    # A device's clicks in their order, and how many steps it went through: a click counts if it is the next step.
    in_order = F.array_sort(F.collect_list(F.struct("event_time", "step")))
    reached = F.aggregate(
        in_order,
        F.lit(0),
        lambda reached, click: F.when(click["step"] == reached, reached + 1).otherwise(reached),
    )
    devices = clicks.groupBy("week", *by, "device_id").agg(reached.alias("reached"))
    return (
        devices.groupBy("week", *by)
        .agg(*(F.count_if(F.col("reached") > step).alias(name) for step, name in enumerate(STEPS)))
        .orderBy("week", *by)
    )


def main(table: str, *by: str) -> None:
    spark = (
        SparkSession.builder.appName("checkout funnel")
        .config("spark.sql.extensions", "io.delta.sql.DeltaSparkSessionExtension")
        .config("spark.sql.catalog.spark_catalog", "org.apache.spark.sql.delta.catalog.DeltaCatalog")
        # Weeks and days are those of UTC, as in the table's event_date.
        .config("spark.sql.session.timeZone", "UTC")
        .getOrCreate()
    )
    events = spark.read.format("delta").load(table)
    # For a part of it say so in event_date, and only the files of those days are read:
    # events = events.where("event_date >= '2026-11-01'")
    funnel(events, *by).show(n=1000, truncate=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
