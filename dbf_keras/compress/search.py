"""Makes plans until their files keep the limits, and shows what other limits would come to."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from dbf_keras.backend import keras
from dbf_keras.compress.judge import Judge
from dbf_keras.compress.plan import Plan
from dbf_keras.compress.planning import Built, Limits, Planner
from dbf_keras.compress.report import Point
from dbf_keras.forms import Form

# How often a plan is made anew because its file came out larger, slower or worse than foreseen, what share of a limit
# of bytes or loss is near enough, and by what share a time may differ by chance.
_TRIALS, _NEAR, _CHANCE = 6, 0.97, 0.02

# Shares of the original's bytes that the trade-off curve is drawn through.
_SHARES = (0.6, 0.4, 0.28, 0.2, 0.14, 0.1, 0.07)


class Found(NamedTuple):
    """A plan that was tried.

    Attributes:
        plan: the plan.
        model: the network as planned, fitted.
        data: its file.
        original: that of the original in the same number type.
        slowdown: time of an inference of the file by that of the original's; NaN where that is not known.
        seconds: the time itself.
    """

    plan: Plan
    model: keras.Model
    data: bytes
    original: bytes
    slowdown: float
    seconds: float


class Search:
    """Tries plans of one network.

    Args:
        judge: of the network.
        planner: of the network.
        form: of the files.
        say: takes lines that tell what is done.
        here: whether files are timed, on this machine; or else take what plans foresee.

    Attributes:
        known: the accuracy of the original on the images set aside; NaN without data.
    """

    def __init__(self, judge: Judge, planner: Planner, form: Form, say: Callable[[str], None], here: bool = True):
        self._judge, self._planner, self._form, self._say, self._here = judge, planner, form, say, here
        self.known = judge.accuracy(judge.model)
        self._unforeseen = 0.0  # Bytes of files that plans know nothing of, such as metadata.

    def within(self, limits: Limits) -> Found:
        """The plan that loses least and whose file, as written and timed, keeps the limits.

        Raises:
            ValueError: none was found; says how near the last one came.
        """
        for _ in range(_TRIALS):
            plan, built = self._sized(limits)
            found = self.tried(plan, built)
            over = self._excess(limits, found)
            self._say(f"A file of {len(found.data) / 1e3:.1f} kB: {_described(over)}.")
            if max(over.values(), default=0.0) <= 1:
                return found
            self._unforeseen += len(found.data) - self._foreseen(plan, built)
            self._heed(over)
        raise ValueError(
            f"No file was found that keeps the limits: of the last, {_described(over)}. Raise the limits, or allow a "
            "file that is slower than the original (--slower)."
        )

    def _sized(self, limits: Limits) -> tuple[Plan, Built]:
        """The plan that makes the most of limits of bytes and loss, and the network as planned."""
        asked, best = limits, None
        for _ in range(_TRIALS):
            plan = self._planner.plan(asked)
            built = self._planner.build(plan)
            shares = {}
            if limits.max_kb is not None:
                shares["max_kb"] = self._foreseen(plan, built) / (1e3 * limits.max_kb)
            if limits.max_loss is not None:
                lost = 100 * max(self.known - self._judge.accuracy(built.model), 0.0)
                shares["max_loss"] = lost / limits.max_loss
            most = max(shares.values(), default=1.0)
            if most <= 1 and (best is None or most > best[0]):
                best = most, plan, built
            if _NEAR <= most <= 1:
                break
            for name, share in shares.items():
                asked = dataclasses.replace(asked, **{name: getattr(asked, name) / min(max(share, 0.5), 2.0)})
        return (plan, built) if best is None else best[1:]

    def _foreseen(self, plan: Plan, built: Built) -> float:
        """The bytes of a network's file."""
        return self._planner.file_bytes(plan, built) + self._unforeseen

    def uniform(self, faster: bool) -> Found:
        """The plan of given ratios; if asked, layers stay plain where the file were slower than the original."""
        for _ in range(_TRIALS):
            plan = self._planner.uniform(faster)
            found = self.tried(plan, self._planner.build(plan))
            over = self._excess(Limits(faster=faster), found)
            if max(over.values(), default=0.0) <= 1:
                break
            self._heed(over)
        return found

    def again(self, plan: Plan) -> Found:
        """A plan that was found before."""
        return self.tried(plan, self._planner.build(plan))

    def curve(self) -> Iterator[Point]:
        """What plans within other bytes would come to before any training."""
        for share in _SHARES:
            try:
                plan = self._planner.plan(Limits(max_kb=share * self._planner.plain_bytes / 1e3))
            except ValueError:  # Less than what is not filters.
                return
            accuracy = self._judge.accuracy(self._planner.build(plan).model)
            yield Point(plan.cost.bytes, plan.cost.seconds, accuracy)

    def tried(self, plan: Plan, built: Built) -> Found:
        """What a network as planned comes to."""
        model = built.model
        data, original = self._judge.file(model, self._form), self._planner.original
        before, now = plan.plain.seconds, plan.cost.seconds
        if self._here:
            before, now = self._judge.seconds([original, data])
        return Found(plan, model, data, original, now / before, now)

    def _excess(self, limits: Limits, found: Found) -> dict[str, float]:
        """What a plan takes of each limit, as a share; over 1 if it does not keep it."""
        over = {}
        if limits.max_kb is not None:
            over["kB"] = len(found.data) / (1e3 * limits.max_kb)
        if limits.max_ms is not None:
            over["ms"] = 1e3 * found.seconds / limits.max_ms
        if limits.faster and not math.isnan(found.slowdown):
            over["the original's time"] = found.slowdown / (1 + _CHANCE)
        return over

    def _heed(self, over: Mapping[str, float]) -> None:
        """Tells the planner that a file was slower than foreseen, if it was too slow."""
        excess = max(over.get("ms", 0.0), over.get("the original's time", 0.0))
        if excess > 1:
            self._planner.be_slower(excess)


def _described(over: Mapping[str, float]) -> str:
    return ", ".join(f"{100 * share:.0f} % of {name}" for name, share in over.items()) or "no limits"
