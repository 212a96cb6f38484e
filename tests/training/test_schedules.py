"""Learning-rate schedules against their definition."""

import math

import pytest

from puffin.training.schedules import DECAYS, Schedule

RUN = {"lr_init": 1e-2, "lr_final": 1e-5, "num_steps": 1000, "warmup": 100, "cooldown": 200, "period": 100}


@pytest.mark.parametrize("kind", DECAYS)
def test_shape(kind):
    """Warm-up is linear up to lr_init, cool-down falls by a constant factor to lr_final. Breaks if it is a step off."""
    lr = Schedule(kind, **RUN)
    assert lr(0) == pytest.approx(1e-4) and lr(49) == pytest.approx(5e-3) and lr(99) == pytest.approx(1e-2)
    assert lr(999) == pytest.approx(1e-5)
    ratios = {round(lr(s + 1) / lr(s), 9) for s in range(801, 998)}
    assert len(ratios) == 1
    assert all(0 < lr(s) <= 1e-2 + 1e-12 for s in range(1000))


def test_values():
    """One hand-computed point of each decay."""

    def at(kind, step):
        return Schedule(kind, **RUN)(step)

    assert at("flat", 500) == 1e-2
    assert at("cos", 450) == pytest.approx(1e-5 + (1e-2 - 1e-5) * 0.5)
    assert at("exp", 450) == pytest.approx(math.sqrt(1e-2 * 1e-5))
    assert at("warm", 200) == pytest.approx(1e-2)  # the second period starts after 100 steps of decay
    assert at("warm", 300) == pytest.approx(1e-5 + (1e-2 - 1e-5) * 0.5)  # and is twice as long
    assert at("one", 100) == pytest.approx(4e-4) and at("one", 310) == pytest.approx(1e-2)


def test_ramps_longer_than_the_run_are_shortened():
    """A run of 3 epochs with the published ramps (4 and 3) must not stay in its warm-up."""
    lr = Schedule("cos", 1e-2, 1e-5, num_steps=30, warmup=40, cooldown=30)
    assert max(lr(s) for s in range(30)) == pytest.approx(1e-2)
    assert lr(29) == pytest.approx(1e-5)


def test_bad_values():
    """Unknown kinds and rates in the wrong order are refused."""
    with pytest.raises(ValueError, match="lr_decay_type"):
        Schedule("line", 1, 0.1, 10)
    with pytest.raises(ValueError, match="lr_init >= lr_final"):
        Schedule("cos", 1e-6, 1e-3, 10)


def test_warm_up_from_a_rate():
    """The published pretraining: from 8.6e-6 linearly to 1e-4, then a cosine down to 8.6e-6.

    Breaks if the warm-up starts at 0, or if a start above the peak is accepted.
    """
    lr = Schedule("cos", 1e-4, 8.6e-6, 500_000, warmup=12_500, lr_start=8.6e-6)
    assert (
        lr(0) == pytest.approx(8.6e-6, rel=1e-3)
        and lr(6249) == pytest.approx((1e-4 + 8.6e-6) / 2)
        and lr(12_499) == pytest.approx(1e-4)
    )
    assert lr(256_250) == pytest.approx((1e-4 + 8.6e-6) / 2) and lr(499_999) == pytest.approx(8.6e-6, rel=1e-6)
    with pytest.raises(ValueError, match="lr_start <= lr_init"):
        Schedule("cos", 1e-4, 8.6e-6, 10, lr_start=1e-3)
