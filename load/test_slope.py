"""What counts as growing."""

import random

import pytest

from load.slope import slope_of

HOUR_S = 3_600.0


def _samples(value: object, count: int = 720) -> list[tuple[float, float]]:
    assert callable(value)
    return [(at * HOUR_S / count, value(at / count)) for at in range(count)]


@pytest.mark.parametrize(
    ("name", "value", "growth"),
    [
        ("level", lambda _: 100.0, 0.0),
        ("rises all the time", lambda share: 100 + 40 * share, 30.0),
        ("rises only while it warms up", lambda share: 100 + min(share, 0.2) * 400, 0.0),
        ("falls", lambda share: 100 - 40 * share, -30.0),
        ("peaks a tenth of the time", lambda share: 100.0 if share * 720 % 10 >= 1 else 164.0, 0.0),
        ("goes up and down with every upload", lambda share: 100.0 + 32 * (share * 720 % 2), 0.0),
    ],
)
def test_the_line_tells_by_how_much_a_quantity_grows(name: str, value: object, growth: float) -> None:
    slope = slope_of(_samples(value))
    assert slope.growth == pytest.approx(growth, abs=0.5), name
    assert slope.is_flat(8.0) is (growth <= 8.0)


def test_a_leak_of_a_few_bytes_a_call_is_found_under_noise() -> None:
    draw = random.Random(1)
    leaking = slope_of(_samples(lambda share: 100 + 16 * share + draw.uniform(0, 32)))
    steady = slope_of(_samples(lambda _: 100 + draw.uniform(0, 32)))
    assert not leaking.is_flat(8.0)
    assert steady.is_flat(8.0)


def test_of_hardly_any_samples_nothing_is_said() -> None:
    for few in ([], [(0.0, 1.0)], [(0.0, 1.0), (1.0, 1.0), (2.0, 1.0)]):
        with pytest.raises(ValueError, match="sample"):
            slope_of(few)
