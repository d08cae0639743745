import math

import pytest

from hpaloc import schedule

LOSS = {
    "bce_epochs": 2,
    "soft_f1": "samples",
    "weighted_bce": 0.5,
    "scale_up": 50,
    "scale_up_at": {"epoch": 4},
}
PLATEAU = {"name": "plateau", "factor": 0.5, "patience_steps": 8, "min_learning_rate": 0.03}


def test_the_loss_switches_after_the_bce_epochs_and_scales_up_from_an_epoch_on() -> None:
    phases = [schedule.phase_of(LOSS, epoch, step=epoch * 10) for epoch in range(1, 6)]
    assert phases == ["bce", "bce", "soft_f1", "soft_f1_scaled", "soft_f1_scaled"]
    assert schedule.weighted_bce_factor(LOSS, "soft_f1") == 0.5
    assert schedule.weighted_bce_factor(LOSS, "soft_f1_scaled") == 25


def test_scale_up_at_a_step_happens_within_an_epoch_but_not_during_bce() -> None:
    loss = LOSS | {"scale_up_at": {"step": 25}}
    assert schedule.phase_of(loss, 3, 24) == "soft_f1"
    assert schedule.phase_of(loss, 3, 25) == "soft_f1_scaled"
    assert schedule.phase_of(loss, 2, 25) == "bce"


def test_a_recipe_without_soft_f1_stays_with_bce() -> None:
    loss = LOSS | {"soft_f1": None}
    assert {schedule.phase_of(loss, epoch, 9) for epoch in range(1, 9)} == {"bce"}
    assert schedule.last_phase(loss) == "bce"


def test_training_stops_after_epochs_without_movement_since_the_last_switch() -> None:
    phases = ["bce"] * 2 + ["soft_f1"] + ["soft_f1_scaled"] * 4
    # The best score of all came before the switch: only epochs since then count.
    scores = [0.1, 0.2, 0.9, 0.3, 0.4, 0.4, 0.35]
    stops = [schedule.should_stop(phases[:n], scores[:n], LOSS, 2) for n in range(1, 8)]
    assert stops == [False] * 6 + [True]


def test_training_does_not_stop_before_the_last_switch() -> None:
    assert not schedule.should_stop(["soft_f1"] * 30, [0.5] * 30, LOSS, 2)
    alone = LOSS | {"scale_up_at": None}
    assert schedule.should_stop(["soft_f1"] * 3, [0.5] * 3, alone, 2)


def plateau_rates(losses: list[float], patience: int = 8) -> list[float]:
    settings = PLATEAU | {"patience_steps": patience}
    state, rates = schedule.new_plateau(0.1), []
    for loss in losses:
        state = schedule.plateau_step(state, loss, settings)
        rates.append(state["learning_rate"])
    return rates


def test_plateau_halves_the_rate_after_the_patience_and_again_down_to_the_minimum() -> None:
    rates = plateau_rates([0.5] * 30)
    # The first step is an improvement on nothing; eight more without one are a plateau.
    assert [rates.index(rate) for rate in (0.05, 0.03)] == [8, 16]
    assert rates[-1] == 0.03


def test_plateau_keeps_the_rate_while_the_loss_falls() -> None:
    assert set(plateau_rates([1 - 0.01 * step for step in range(60)])) == {0.1}


def test_one_lucky_batch_does_not_make_a_plateau() -> None:
    # The loss falls so slowly that it needs 250 steps to reach the lucky one for good.
    falling = [1 - 0.002 * step for step in range(200)]
    falling[50] = 0.4
    assert set(plateau_rates(falling, patience=80)) == {0.1}


def test_cosine_warms_up_and_ends_at_zero() -> None:
    rate = [schedule.cosine_rate(0.2, step, 10, 5, 1) for step in range(1, 51)]
    assert rate[0] == pytest.approx(0.02)
    assert max(rate) == rate[9] == pytest.approx(0.2)
    assert rate[29] == pytest.approx(0.1)
    assert rate[-1] == pytest.approx(0, abs=1e-12)
    assert all(math.isfinite(schedule.cosine_rate(0.2, step, 10, 1, 1)) for step in (1, 10, 11))
