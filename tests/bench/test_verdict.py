"""Frontier, constraints and verdict over small made-up entries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from boxwright.bench.result import ClassQuality, Entry, Quality, Speed, State, Verdict
from boxwright.bench.verdict import (
    QUANTITIES,
    Constraint,
    fastest,
    frontier,
    judge,
    seconds,
    too_little_evidence,
)
from boxwright.units import Interval

CAT = ClassQuality(objects=60, ap=0.5, ap50=0.75, recall=0.875, precision=0.7, threshold=0.4)


def speed(p50: float) -> Speed:
    """p95 is twice p50; p50 is known to a tenth."""
    return Speed(
        p50=Interval(p50, 0.9 * p50, 1.1 * p50),
        p95=Interval(2 * p50, 1.9 * p50, 2.1 * p50),
        stages={"network": p50},
        throughput=2 / p50,
    )


def entry(
    name: str,
    ap: float | None,
    ms: float | None,
    state: State = "finished",
    memory: int | None = None,
) -> Entry:
    quality = None
    if ap is not None:
        sizes = {"small": ap - 0.25, "medium": ap, "large": math.nan}
        ap50 = Interval(ap + 0.25, ap + 0.125, ap + 0.375)
        quality = Quality(Interval(ap, ap - 0.01, ap + 0.01), ap50, (ap, ap), sizes, {"cat": CAT})
    times = {} if ms is None else {"eager": speed(ms / 1000)}
    return Entry(name, "ssd", "vgg16", 320, None, state, epochs=12, quality=quality, speed=times, memory=memory)


def judged(entries: Sequence[Entry], constraints: Sequence[Constraint] = (), wide: float = 0.02) -> Verdict:
    """Where the paired differences in AP are known to `wide`."""
    aps = {entry.name: entry.quality.ap.value for entry in entries if entry.quality}

    def difference(name: str, other: str) -> Interval:
        apart = aps[name] - aps[other]
        return Interval(apart, apart - wide, apart + wide)

    return judge(entries, constraints, difference)


def constraints(*texts: str) -> list[Constraint]:
    return [Constraint.parse(text) for text in texts]


class TestSpeed:
    def test_of_the_fastest_runtime(self):
        both = Entry("a", "ssd", "vgg16", 320, None, "finished", speed={"eager": speed(0.04), "compiled": speed(0.03)})
        assert seconds(both) == 0.03
        assert fastest(both) == ("compiled", both.speed["compiled"])
        assert Constraint.parse("p95<1s").value(both) == 0.06

    def test_a_runtime_without_a_time_is_not_it(self):
        unknown = Entry("a", "ssd", "vgg16", 320, None, "finished", speed={"compiled": speed(math.nan)})
        assert fastest(unknown) is None
        assert math.isnan(seconds(unknown))


class TestFrontier:
    def test_fastest_first_without_the_beaten(self):
        entries = [entry("slow", 0.6, 90), entry("beaten", 0.5, 50), entry("middle", 0.55, 40), entry("fast", 0.3, 10)]
        assert frontier(entries) == ("fast", "middle", "slow")

    def test_as_fast_and_worse_is_beaten(self):
        assert frontier([entry("a", 0.5, 10), entry("b", 0.6, 10)]) == ("b",)

    def test_as_good_and_slower_is_beaten(self):
        assert frontier([entry("a", 0.5, 20), entry("b", 0.5, 10)]) == ("b",)

    def test_twins_are_both_on_it(self):
        assert set(frontier([entry("a", 0.5, 10), entry("b", 0.5, 10)])) == {"a", "b"}

    def test_only_who_came_to_the_end_and_was_measured(self):
        entries = [
            entry("stopped", 0.9, 1, state="stopped"),
            entry("failed", 0.9, 1, state="failed"),
            entry("unseen", None, 1),
            entry("untimed", 0.9, None),
            entry("unknown", math.nan, 1),
            entry("external", 0.4, 30, state="external"),
        ]
        assert frontier(entries) == ("external",)

    def test_of_no_cells(self):
        assert frontier([]) == ()


class TestParse:
    @pytest.mark.parametrize(
        ("text", "quantity", "label", "operator", "bound"),
        [
            ("p95<30ms", "p95", None, "<", 0.03),
            ("p50<=0.1s", "p50", None, "<=", 0.1),
            ("p50 < 250 us", "p50", None, "<", 0.00025),
            ("first<5s", "first", None, "<", 5),
            ("ap>0.5", "ap", None, ">", 0.5),
            ("ap>.5", "ap", None, ">", 0.5),
            ("ap50>=70%", "ap50", None, ">=", 0.7),
            ("ap_small>.3", "ap_small", None, ">", 0.3),
            ("recall[cat]>0.9", "recall", "cat", ">", 0.9),
            ("precision[traffic light] > 80 %", "precision", "traffic light", ">", 0.8),
            ("ap[a[1]>2]>.5", "ap", "a[1]>2", ">", 0.5),
            ("ap50[cat]>.5", "ap50", "cat", ">", 0.5),
            ("throughput>20", "throughput", None, ">", 20),
            ("throughput>20/s", "throughput", None, ">", 20),
            ("memory<1GB", "memory", None, "<", 10**9),
            ("memory<1.5kB", "memory", None, "<", 1500),
            ("device_memory<2GiB", "device_memory", None, "<", 2**31),
            ("file<20mb", "file", None, "<", 20_000_000),
            ("file<512B", "file", None, "<", 512),
            ("parameters<5M", "parameters", None, "<", 5_000_000),
            ("flops<3e9", "flops", None, "<", 3e9),
            ("flops<3G", "flops", None, "<", 3e9),
        ],
    )
    def test_good_ones(self, text: str, quantity: str, label: str | None, operator: str, bound: float):
        found = Constraint.parse(text)
        assert (found.quantity, found.label, found.operator, found.bound) == (quantity, label, operator, bound)
        assert str(found) == text

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", 'expected a constraint like "p95<30ms"'),
            ("p95", 'expected a constraint like "p95<30ms"'),
            ("p95=30ms", 'expected a constraint like "p95<30ms"'),
            ("p95<fast", 'expected a constraint like "p95<30ms"'),
            ("p95<-3ms", 'expected a constraint like "p95<30ms"'),
            ("p59<30ms", r'no quantity "p59" \(did you mean "p95"\?\); the quantities are ap, ap50, .*throughput'),
            ("memroy<1GB", 'did you mean "memory"'),
            ("beauty>3", 'there is no quantity "beauty"; the quantities are ap'),
            ("p95<30", r'expected the unit of p95 \(us, ms, s\), got ""'),
            ("memory<3M", r'expected the unit of memory \(B, kB, MB, GB, KiB, MiB, GiB\), got "M"'),
            ("ap>.5ms", r'expected the unit of ap \(none, %\), got "ms"'),
            ("parameters<5MB", 'expected the unit of parameters'),
            ("ap>50", "ap is a fraction; expected 0 to 1"),
            ("recall>.9", r"expected recall\[CLASS\]"),
            ("p95[cat]<30ms", r"p95 is not known of a single class; expected ap\[CLASS\] or ap50\["),
        ],
    )  # fmt: skip
    def test_bad_ones(self, text: str, message: str):
        with pytest.raises(ValueError, match=message):
            Constraint.parse(text)

    def test_a_class_that_the_data_does_not_know(self):
        constraint = Constraint.parse("recall[cta]>.9")
        with pytest.raises(ValueError, match=r'no class "cta" \(did you mean "cat"\?\); it has dog, cat'):
            constraint.check(("dog", "cat"))

    def test_a_class_that_it_knows(self):
        Constraint.parse("recall[cat]>.9").check(("dog", "cat"))
        Constraint.parse("p95<30ms").check(())


class TestConstraint:
    one = Entry(
        "a", "ssd", "vgg16", 320, None, "finished",
        quality=entry("", 0.5, None).quality, speed={"eager": speed(0.02)},
        parameters=5_000_000, flops=3_000_000_000, file=20_000_000, memory=2**30, device_memory=10**9, first=2.5,
    )  # fmt: skip

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("ap>0", 0.5), ("ap50>0", 0.75), ("ap_small>0", 0.25), ("ap_medium>0", 0.5), ("ap[cat]>0", 0.5),
            ("ap50[cat]>0", 0.75), ("recall[cat]>0", 0.875), ("precision[cat]>0", 0.7), ("p50<1s", 0.02),
            ("p95<1s", 0.04), ("throughput>1", 100), ("first<1s", 2.5), ("memory<1B", 2**30),
            ("device_memory<1B", 1e9), ("file<1B", 2e7), ("parameters<1", 5e6), ("flops<1", 3e9),
        ],
    )  # fmt: skip
    def test_value(self, text: str, value: float):
        assert Constraint.parse(text).value(self.one) == value

    @pytest.mark.parametrize("text", ["ap_large>0", "recall[dog]>0"])
    def test_what_this_data_does_not_show_is_not_known(self, text: str):
        assert math.isnan(Constraint.parse(text).value(self.one))

    @pytest.mark.parametrize("text", [f"{name}{'[cat]' * (kind.read is None)}" for name, kind in QUANTITIES.items()])
    def test_of_an_entry_that_failed_nothing_is_known_or_met(self, text: str):
        failed = Entry("a", "ssd", "vgg16", 320, None, "failed")
        unit = list(QUANTITIES[text.partition("[")[0]].units)[0]
        for constraint in constraints(f"{text}<1{unit}", f"{text}>=0{unit}"):
            assert math.isnan(constraint.value(failed))
            assert not constraint.met(failed)
            assert constraint.miss(failed) == math.inf

    @pytest.mark.parametrize(
        ("text", "met", "miss"),
        [
            ("p50<30ms", True, 0),
            ("p50<20ms", False, 0),
            ("p50<=20ms", True, 0),
            ("p50<16ms", False, 0.25),
            ("p50>16ms", True, 0),
            ("ap>.5", False, 0),
            ("ap>=50%", True, 0),
            ("ap>=80%", False, 0.375),
            ("throughput>400", False, 0.75),
            ("p50<0ms", False, math.inf),
        ],
    )
    def test_met_or_missed_by(self, text: str, met: bool, miss: float):
        constraint = Constraint.parse(text)
        assert constraint.met(self.one) is met
        assert constraint.miss(self.one) == pytest.approx(miss)

    @pytest.mark.parametrize(
        ("text", "shortfall"),
        [
            ("p95<30ms", "p95 is 40.0 ms where p95<30ms was asked (33.3 % off)"),
            ("p95<0.03s", "p95 is 0.0400 s where p95<0.03s was asked (33.3 % off)"),
            ("ap>.8", "ap is 0.500 where ap>.8 was asked (37.5 % off)"),
            ("recall[cat]>90%", "recall[cat] is 87.5 % where recall[cat]>90% was asked (2.78 % off)"),
            ("memory<1GB", "memory is 1.07 GB where memory<1GB was asked (7.37 % off)"),
            ("throughput>200", "throughput is 100 where throughput>200 was asked (50.0 % off)"),
            ("p50<0ms", "p50 is 20.0 ms where p50<0ms was asked"),
            ("ap_large>.5", "ap_large is not known, where ap_large>.5 was asked"),
        ],
    )
    def test_shortfall_is_in_the_users_units(self, text: str, shortfall: str):
        assert Constraint.parse(text).shortfall(self.one) == shortfall


class TestWinner:
    def test_the_best_where_no_difference_may_be_0(self):
        verdict = judged([entry("a", 0.5, 10), entry("b", 0.6, 50), entry("c", 0.55, 20)])
        assert (verdict.winner, verdict.runner_up, verdict.tied, verdict.nearest) == ("b", "c", (), None)
        assert verdict.frontier == ("a", "c", "b")
        assert verdict.reasons == (
            "b has the best AP, 0.600 [0.590, 0.610], and no other is tied with it.",
            "c comes next: AP 0.550 [0.540, 0.560], p50 20.0 ms.",
        )

    def test_a_tie_goes_to_the_faster(self):
        verdict = judged([entry("a", 0.548, 92), entry("b", 0.541, 41), entry("c", 0.4, 5)])
        assert (verdict.winner, verdict.runner_up, verdict.tied) == ("b", "a", ("a",))
        assert verdict.reasons[0] == (
            "b is tied in AP with the best, a (0.541 and 0.548, difference -0.007 [-0.027, +0.013]), "
            "and its p50 is 41.0 ms instead of 92.0."
        )

    def test_the_page_has_the_sentences_of_today(self):
        cells = [entry("ssd-320", 0.541, 30), entry("retinanet-320", 0.548, 45), entry("faster_rcnn-320", 0.6, 69)]
        reasons = judged(cells, constraints("p95<100ms")).reasons
        page = (Path(__file__).parents[2] / "docs" / "bench.md").read_text(encoding="utf-8")
        assert "\n".join(["```text", *reasons, "```"]) in page

    def test_a_tie_in_both_goes_to_the_better(self):
        verdict = judged([entry("a", 0.548, 45), entry("b", 0.541, 41)])
        assert (verdict.winner, verdict.runner_up, verdict.tied) == ("a", "b", ("b",))
        assert verdict.reasons[0] == (
            "a has the best AP, 0.548 [0.538, 0.558], and none tied with it has a measurably lower p50."
        )

    def test_who_is_tied_with_the_winner_need_not_be_with_the_best(self):
        verdict = judged([entry("best", 0.56, 90), entry("b", 0.545, 40), entry("c", 0.53, 10)])
        assert (verdict.winner, verdict.runner_up) == ("b", "best")
        assert verdict.tied == ("best", "c")

    def test_without_times_ap_alone_decides(self):
        verdict = judged([entry("a", 0.548, None), entry("b", 0.541, None)])
        assert (verdict.winner, verdict.frontier) == ("a", ())
        assert "its time is not known" in verdict.reasons[-1]

    def test_a_time_that_is_known_beats_one_that_is_not(self):
        verdict = judged([entry("a", 0.548, None), entry("b", 0.541, 90)])
        assert verdict.winner == "b"
        assert verdict.reasons[0].endswith("whose time is not known, and its p50 is 90.0 ms.")

    def test_an_external_model_can_win(self):
        assert judged([entry("a", 0.5, 10), entry("external", 0.6, 20, state="external")]).winner == "external"

    def test_who_was_stopped_cannot(self):
        verdict = judged([entry("a", 0.5, 10), entry("b", 0.6, 5, state="stopped")])
        assert (verdict.winner, verdict.runner_up, verdict.frontier) == ("a", None, ("a",))
        assert verdict.reasons == ("a has the best AP, 0.500 [0.490, 0.510], and is the only one.",)

    def test_order_does_not_matter(self):
        entries = [entry("a", 0.548, 92), entry("b", 0.541, 41), entry("c", 0.55, 43), entry("d", 0.3, 4)]
        first, second = judged(entries), judged(entries[::-1])
        assert (first.winner, first.runner_up, set(first.tied)) == (second.winner, second.runner_up, set(second.tied))


class TestDifferences:
    entries = [entry("a", 0.5, 10), entry("b", 0.52, 50), entry("c", 0.3, 20), entry("d", 0.4, 9, state="stopped")]

    def test_overlapping_intervals_are_no_tie(self):
        # Those of a and b themselves, [0.490, 0.510] and [0.510, 0.530], touch; that of their difference is off 0.
        verdict = judged(self.entries, wide=0.015)
        assert (verdict.winner, verdict.tied) == ("b", ())

    def test_intervals_apart_can_be_a_tie(self):
        # What tells is the difference alone, however narrow the intervals of each.
        verdict = judged(self.entries, wide=0.3)
        assert (verdict.winner, verdict.tied) == ("a", ("b", "c"))

    def test_to_the_best_and_to_the_leader_of_every_cell_whose_ap_is_known(self):
        verdict = judged([*self.entries, entry("e", None, None, state="failed")], wide=0.03)
        assert (verdict.best, verdict.leader) == ("b", "a")
        assert {name: one.value for name, one in verdict.to_best.items()} == pytest.approx(
            {"a": -0.02, "b": 0, "c": -0.22, "d": -0.12}
        )
        assert verdict.to_leader["b"] == pytest.approx((0.02, -0.01, 0.05))

    def test_the_best_is_among_those_that_meet_the_constraints(self):
        assert judged(self.entries, constraints("p50<30ms")).best == "a"
        nothing = judged(self.entries, constraints("p50<1ms"))
        assert (nothing.best, nothing.to_leader) == ("b", {})


class TestEvidence:
    """Each reason alone keeps the leader from being called the winner."""

    entries = [entry("a", 0.5, 10), entry("b", 0.4, 50)]

    @staticmethod
    def changed(entry: Entry, epochs: int = 12, seeds: int = 2, objects: int = 60, lower: float = 0.0) -> Entry:
        quality = entry.quality
        assert quality is not None
        ap = Interval(*(end - lower for end in quality.ap))
        classes = {"cat": replace(CAT, objects=objects - 20), "dog": replace(CAT, objects=20)}
        quality = replace(quality, ap=ap, seeds=(ap.value,) * seeds, classes=classes)
        return replace(entry, epochs=epochs, quality=quality)

    def test_enough(self):
        verdict = judged([self.changed(entry, epochs=3, objects=50, lower=0.39) for entry in self.entries])
        assert (verdict.too_little_evidence, verdict.winner, verdict.leader) == ((), "a", "a")

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"objects": 49}, "49 objects on test (50 are needed)"),
            ({"seeds": 1}, "1 seed (2 are needed)"),
            ({"epochs": 2}, "2 epochs (3 are needed)"),
            ({"lower": 0.405}, "best AP 0.095 (0.1 is needed)"),
        ],
    )
    def test_too_little(self, changes: dict, reason: str):
        verdict = judged([self.changed(entry, **changes) for entry in self.entries])
        assert verdict.too_little_evidence == (reason,)
        assert (verdict.winner, verdict.leader, verdict.runner_up) == (None, "a", "b")

    def test_the_cell_with_the_fewest_seeds_and_epochs_counts(self):
        few = [self.entries[0], self.changed(self.entries[1], epochs=1, seeds=1)]
        assert judged(few).too_little_evidence == ("1 seed (2 are needed)", "1 epoch (3 are needed)")

    def test_an_external_model_needs_no_seeds_and_epochs(self):
        external = replace(self.changed(self.entries[1], epochs=0, seeds=1), state="external")
        assert judged([self.entries[0], external]).winner == judged([external, self.entries[0]]).winner == "a"
        assert judged([external]).winner == "b"

    def test_a_high_ap_of_one_is_enough(self):
        assert judged([self.entries[0], self.changed(self.entries[1], lower=0.35)]).winner == "a"

    def test_where_nothing_meets_the_constraints_it_is_said_too(self):
        verdict = judged([self.changed(entry, seeds=1) for entry in self.entries], constraints("ap>.9"))
        assert verdict.too_little_evidence and (verdict.leader, verdict.nearest) == (None, "a")

    def test_before_any_ap_is_known(self):
        assert too_little_evidence(50, 2, 3, math.nan) == ()
        assert too_little_evidence(0, 1, 1, math.nan) == (
            "0 objects on test (50 are needed)", "1 seed (2 are needed)", "1 epoch (3 are needed)"
        )  # fmt: skip


class TestUnderConstraints:
    entries = [entry("a", 0.4, 10, memory=10**9), entry("b", 0.5, 50, memory=10**9), entry("c", 0.6, 100)]

    def test_the_best_of_those_that_meet_them(self):
        verdict = judged(self.entries, constraints("p95<=100ms"))
        assert (verdict.winner, verdict.runner_up, verdict.nearest) == ("b", "a", None)
        assert verdict.frontier == ("a", "b", "c")
        assert verdict.reasons[0] == "2 of 3 meet p95<=100ms."
        assert verdict.reasons[-1] == (
            "c is better, 0.600 [0.590, 0.610], but p95 is 200 ms where p95<=100ms was asked (100 % off)."
        )

    def test_all_meet(self):
        assert judged(self.entries, constraints("p50<1s", "ap>.3")).reasons[0] == "All 3 meet p50<1s and ap>.3."

    def test_one_meets(self):
        assert judged(self.entries, constraints("p50<20ms")).reasons[0] == "1 of 3 meets p50<20ms."

    def test_the_tied_meet_them_too(self):
        entries = [entry("a", 0.5, 10), entry("b", 0.5, 100)]
        assert judged(entries, constraints("p50<20ms")).tied == ()

    def test_nothing_meets(self):
        verdict = judged(self.entries, constraints("p95<10ms", "ap>80%"))
        # a misses by 1 and 1/2, b by 9 and 3/8, c by 19 and 1/4.
        assert (verdict.winner, verdict.runner_up, verdict.tied, verdict.nearest) == (None, None, (), "a")
        assert verdict.frontier == ("a", "b", "c")
        assert verdict.reasons == (
            "Nothing meets p95<10ms and ap>80%.",
            "a comes nearest: AP 0.400 [0.390, 0.410], p50 10.0 ms.",
            "Its p95 is 20.0 ms where p95<10ms was asked (100 % off).",
            "Its ap is 40.0 % where ap>80% was asked (50.0 % off).",
        )

    def test_what_is_not_known_is_farthest(self):
        # c would be the best, but its memory is not known.
        assert judged(self.entries, constraints("memory<1MB")).nearest == "b"

    def test_of_what_misses_by_as_much_the_best(self):
        assert judged(self.entries[:2], constraints("memory<1MB")).nearest == "b"


class TestNoCell:
    def test_no_cell_at_all(self):
        assert judged([]).reasons == ("The race has no cells.",)

    def test_none_trained_to_the_end_and_measured(self):
        verdict = judged(
            [entry("a", None, None, state="failed"), entry("b", 0.3, 9, state="stopped"), entry("c", None, 5)],
            constraints("ap>.1"),
        )
        assert (verdict.winner, verdict.runner_up, verdict.nearest, verdict.frontier) == (None, None, None, ())
        assert verdict.reasons == (
            "No cell can be chosen, for the AP of none is known: 1 failed, 1 stopped, 1 finished.",
        )
