"""Send some malformed frames and requests to the emulator, with a fixed seed."""

import random

import pytest

from fuzz_tests.campaign import ADMIN_TEMPLATES, SETUP, run_fuzz
from fuzz_tests.growth import Growth, measure_growth
from fuzz_tests.malformed import make_frame, make_http_request, mutate


@pytest.mark.timeout(300)
async def test_malformed_input_does_no_harm() -> None:
    result = await run_fuzz(3000, seed=7)
    assert result.violations == []
    assert result.sent.total() == 3000
    assert result.sent["AMQP frames"] == 1500


def test_same_seed_makes_the_same_input() -> None:
    def make(seed: int) -> list[bytes]:
        chance = random.Random(seed)
        return [
            data
            for _ in range(50)
            for data in (
                make_frame(chance),
                make_http_request(ADMIN_TEMPLATES[1], chance),
                mutate(SETUP, chance),
            )
        ]

    assert make(7) == make(7) != make(8)


def test_growth_is_measured_after_the_warm_up() -> None:
    samples = [(float(second), 5.0 * second) for second in range(60)]
    samples += [(float(second), second / 60 + second % 2) for second in range(60, 300)]
    growth = measure_growth(samples)
    assert growth is not None
    assert growth.per_minute == pytest.approx(1)
    assert growth.exceeds(0.9)
    assert not growth.exceeds(1.1)
    assert measure_growth(samples[:160]) is None
    assert not Growth(3.0, 2.0).exceeds(0.0)
