"""What fits into a budget, and who is halved away, by numbers that can be checked by hand."""

from __future__ import annotations

import math

import pytest

from boxwright.bench.plan.budget import BudgetError, Pace, duration, halve, make_plan, parse_budget, rungs_of, smaller

MINUTE = 60.0
FOUR = {name: Pace(epoch=10, validation=0, seed=0, cell=0) for name in "abcd"}


def test_without_a_budget_all_get_to_the_end():
    plan = make_plan({"a": Pace(10, 2, 5, 30), "b": Pace(20, 4, 5, 40)}, 2, 12, validate_every=3)
    assert (plan.epochs, plan.rungs) == (12, ())
    # Twice 12 epochs, 4 evaluations on val and 1 on test; once what is done once for the cell.
    assert plan.seconds == 2 * (12 * 10 + 4 * 2 + 5 + 12 * 20 + 4 * 4 + 5) + 30 + 40


@pytest.mark.parametrize(
    ("budget", "epochs", "rungs"),
    [
        (800, 8, ()),  # all of it: 2 seeds x 4 cells x 8 epochs x 10 s = 640 s
        (500, 5, ()),  # fewer epochs, but more than half of what was wished
        (450, 5, ()),
        (440, 4, ()),  # 4 are still half
        (350, 5, (2,)),  # 2 x 10 x (4 x 2 + 2 x 3) = 280 of 315
        (160, 2, (1,)),
    ],
)
def test_halving_begins_where_epochs_would_be_less_than_half(budget: float, epochs: int, rungs: tuple[int, ...]):
    plan = make_plan(FOUR, 2, 8, validate_every=1, budget=budget)
    assert (plan.epochs, plan.rungs) == (epochs, rungs)
    assert plan.seconds <= 0.9 * budget


def test_the_dearest_are_thought_to_stay():
    paces = {"a": Pace(10, 0, 0, 0), "b": Pace(30, 0, 0, 0), "c": Pace(20, 0, 0, 0), "d": Pace(40, 0, 0, 0)}
    plan = make_plan(paces, 1, 4, validate_every=1, budget=300)
    assert (plan.epochs, plan.rungs, plan.seconds) == (2, (), 200)
    plan = make_plan(paces, 1, 6, validate_every=1, budget=300)
    assert (plan.epochs, plan.rungs) == (3, (2,))
    assert plan.seconds == 2 * 100 + 1 * (40 + 30)


def test_several_at_a_time_take_a_part_of_the_time_but_times_are_taken_one_by_one():
    paces = {name: Pace(10, 0, 0, 7) for name in "abcd"}
    assert make_plan(paces, 1, 5, 1, parallel=2).seconds == 5 * 40 / 2 + 4 * 7
    assert make_plan(paces, 1, 5, 1, parallel=99).seconds == 5 * 40 / 4 + 4 * 7


def test_two_cells_are_never_halved():
    plan = make_plan({"a": Pace(10, 0, 0, 0), "b": Pace(10, 0, 0, 0)}, 1, 50, 1, budget=100)
    assert (plan.epochs, plan.rungs) == (4, ())


def test_a_budget_for_nothing_says_what_would_do():
    with pytest.raises(BudgetError, match=r"budget of 30 s is too small for 4 cells with 2 seeds.*takes 89 s"):
        make_plan(FOUR, 2, 8, validate_every=1, budget=30)
    make_plan(FOUR, 2, 8, validate_every=1, budget=89)


def test_a_budget_for_nothing_says_what_it_goes_to():
    paces = {"a": Pace(10, 1, 2, 3), "b": Pace(20, 1, 2, 3)}
    # 2 x (30 + 2 + 4) + 6 = 78 s, 87 with the reserve; 12 s are over.
    with pytest.raises(BudgetError) as caught:
        make_plan(paces, 2, 8, validate_every=3, budget=98, spent=12)
    assert str(caught.value) == (
        "the budget of 98 s is too small for 2 cells with 2 seeds. 12 s of it went into a few steps of each cell, "
        "which give the pace. One epoch of each takes 87 s with its measurements, a tenth kept in reserve: "
        "training 60 s, evaluation on val 4 s, detection on test 8 s, timing 6 s. A budget of 99 s suffices."
    )
    assert make_plan(paces, 2, 8, validate_every=3, budget=99, spent=12).epochs == 1


# Large images take 20 s an epoch, small ones 10 s; those of b twice as long.
GRID = {
    f"{detector}-{size}": {"detectors": detector, "backbones": "net", "sizes": size}
    for detector in "ab" for size in (224, 320)
}  # fmt: skip
PACES = {
    name: Pace((1 if cell["sizes"] == 224 else 2) * (10 if cell["detectors"] == "a" else 20), 0, 0, 0)
    for name, cell in GRID.items()
}


@pytest.mark.parametrize(
    ("budget", "options", "epochs"),
    [
        (150, {"seeds": [1]}, 1),  # 90 s of 135
        (60, {"seeds": [1], "sizes": [224]}, 1),  # 30 s of 54
        (34, {"seeds": [1], "sizes": [224]}, 1),
        (33, None, 0),  # one detector with both sizes takes 30 s too
    ],
)
def test_the_nearest_race_that_fits(budget: float, options: dict[str, list[int]] | None, epochs: int):
    found = smaller(GRID, PACES, 2, 8, 1, budget)
    assert (found and found[0]) == options
    assert found is None or (found[1].epochs, found[1].seconds <= 0.9 * budget) == (epochs, True)


def test_steps_of_fewer_cells_take_less_of_the_budget():
    # 40 s for a few steps of 4 cells, 20 s of 2: 70 - 20 leaves 45 s for 30.
    found = smaller(GRID, PACES, 1, 8, 1, 70, spent=40)
    assert found is not None and found[0] == {"sizes": [224]}


def test_where_all_images_are_large_smaller_ones_are_tried():
    large = {name: cell for name, cell in GRID.items() if cell["sizes"] == 320}
    paces = {"a-320": Pace(20, 0, 0, 0), "b-320": Pace(40, 0, 0, 0)}
    found = smaller(large, paces, 1, 8, 1, 40)
    assert found is not None and found[0] == {"sizes": [224]}
    assert found[1].seconds == pytest.approx(60 * 0.49)
    # One cell stays one: a race of two is not made one of one.
    assert smaller(large, paces, 1, 8, 1, 20) is None
    assert smaller({}, {}, 1, 8, 1, 20) is None


def test_rungs_are_halves_of_halves():
    assert rungs_of(16, 3) == (2, 4, 8)
    assert rungs_of(16, 0) == ()
    assert rungs_of(5, 2) == (1, 2)


def test_the_better_half_goes_on():
    rung = halve(3, {"a": (0.1, 1.0), "b": (0.4, 1.0), "c": (0.3, 1.0), "d": (0.2, 1.0)})
    assert rung.epoch == 3
    assert [(one.name, one.kept) for one in rung.standings] == [("b", True), ("c", True), ("d", False), ("a", False)]
    assert rung.standings[0].ap == 0.4


def test_who_is_on_the_frontier_stays_before_who_is_only_better():
    # b is better than c, but a is better and faster than b; no cell is as fast as c.
    rung = halve(3, {"a": (0.4, 1.0), "b": (0.3, 2.0), "c": (0.1, 0.5), "d": (0.05, 3.0)})
    assert [one.name for one in rung.standings] == ["a", "c", "b", "d"]
    assert [one.kept for one in rung.standings] == [True, True, False, False]


@pytest.mark.parametrize(("cells", "kept"), [(2, 2), (3, 2), (4, 2), (5, 3), (9, 5), (1, 1)])
def test_how_many_go_on(cells: int, kept: int):
    rung = halve(1, {str(place): (place / 10, 1.0) for place in range(cells)})
    assert sum(one.kept for one in rung.standings) == kept


def test_no_ap_is_the_worst_and_stays_unknown():
    rung = halve(1, {"a": (math.nan, 2.0), "b": (0.0, 2.0), "c": (0.5, 1.0), "d": (math.nan, 3.0)})
    assert [one.name for one in rung.standings] == ["c", "b", "a", "d"]
    assert math.isnan(rung.standings[-1].ap)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("45s", 45), ("30m", 1800), ("30min", 1800), ("8h", 28800), ("1.5h", 5400), ("1h30m", 5400), ("1h 30m", 5400)],
)
def test_lengths_of_time(text: str, seconds: float):
    assert parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["30", "m", "-5m", "0s", "1h30", "two hours", "1..5h", "nan h"])
def test_what_is_no_length_of_time(text: str):
    with pytest.raises(ValueError, match=r"such as 45s, 30m, 8h or 1h30m; got"):
        parse_budget(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1 s"), (119, "119 s"), (120, "2 min"), (45 * MINUTE, "45 min"), (3600, "1 h"), (5400, "1 h 30 min")],
)
def test_written_for_people(seconds: float, text: str):
    assert duration(seconds) == text
