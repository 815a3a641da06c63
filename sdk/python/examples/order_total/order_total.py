"""Order total: what an order is worth, as typed columns of what the app put into `properties`."""

from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any

from millrace_sdk import Adds, Event, Reads, Result, drop, fail, plugin

# Of currencies that have no smaller unit, or one that is not a hundredth.
DIGITS = {"JPY": 0, "KRW": 0, "KWD": 3}


@dataclass
class Config:
    """Options, with their defaults."""

    events: list[str] = field(default_factory=lambda: ["Order Completed"])
    """Events that are orders."""
    currency: str = "EUR"
    """What an order without a currency is in."""
    drop_tests: bool = False
    """Leave orders out whose properties say `"test": true`."""


class Order(Event):
    event: Reads[str]
    properties: Reads[str]
    order_minor: Adds[int]
    """In the smallest unit of the currency, so that sums are exact."""
    order_items: Adds[int]
    order_currency: Adds[str]


class NotAnOrder(Exception):
    """Its products are not what products are."""


@plugin(name="order-total-py", version="0.1.0", codes=["test_order", "bad_order"], config=Config)
def order_total(event: Order, config: Config) -> Result:
    if event.event not in config.events:
        return None
    properties = event.json("properties")
    if not isinstance(properties, dict):
        return fail("bad_order")
    if config.drop_tests and properties.get("test") is True:
        return drop("test_order")
    currency = properties.get("currency", config.currency)
    try:
        items, minor = total(properties.get("products", []), 10 ** DIGITS.get(currency, 2))
    except NotAnOrder:
        return fail("bad_order")
    event.order_items = items
    event.order_minor = minor
    event.order_currency = currency
    return None


def total(products: Any, unit: int) -> tuple[int, int]:
    """How many items, and what they cost."""
    if not isinstance(products, list):
        raise NotAnOrder
    items, sum_of_prices = 0, 0
    for product in products:
        if not isinstance(product, dict):
            raise NotAnOrder
        quantity = product.get("quantity", 1)
        if type(quantity) is not int or quantity < 0:
            raise NotAnOrder
        items += quantity
        sum_of_prices += quantity * minor_of(product.get("price"), unit)
    return items, sum_of_prices


def minor_of(price: Any, unit: int) -> int:
    """A price in its smallest unit; written as a number or as text, never more precise than that."""
    if type(price) not in (int, float, str):
        raise NotAnOrder
    try:
        minor = Decimal(str(price)) * unit
    except InvalidOperation:
        raise NotAnOrder from None
    if not minor.is_finite() or minor != minor.to_integral_value():
        raise NotAnOrder
    return int(minor)
