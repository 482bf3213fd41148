"""The gate's rates of error, from recorded trials and from replaying what their processes saw.

A replay draws processes with replacement from those of the recorded trials without a planted slowdown (quiet ones), adds an
effect to one of the cases, and has `verdict.decide` judge, as in a live trial.
"""

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from scipy import stats

from .rule import IMPROVED, LOOKS, REGRESSED, UNSTABLE, decide

EFFECTS = (0.0, 0.01, -0.01, 0.02, -0.02, 0.03, 0.04, 0.05, -0.05, 0.10, -0.10, 0.20, -0.20)
REPLAYS = 1000  # of each effect
CAUGHT = 0.95

Processes = Sequence[Mapping[str, float]]


def interval(events: int, trials: int) -> tuple[float, float]:
    """Clopper and Pearson's interval: each end is a one-sided bound of 95 %."""
    if trials == 0:
        return 0.0, 1.0
    low = float(stats.beta.ppf(0.05, events, trials - events + 1)) if events else 0.0
    high = float(stats.beta.ppf(0.95, events + 1, trials - events)) if events < trials else 1.0
    return low, high


def evaluate(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All rates: a row per signal, effect, kind of machine and rule."""
    rows = []
    for state in ("quiet", "busy"):
        prefix = "busy " if state == "busy" else ""
        rows += live(record, f"{prefix}same", "time", 0.0, state) + live(record, f"{prefix}slower", "time", 0.05, state)
    rows += live(record, "instructions same", "instructions", 0.0, "any")
    rows += live(record, "instructions slower", "instructions", 0.01, "any")
    processes = pool(record)
    return rows + ([replayed(processes, effect) for effect in EFFECTS] if len(processes) >= LOOKS[-1] else [])


def live(record: Mapping[str, Any], kind: str, signal: str, effect: float, state: str) -> list[dict[str, Any]]:
    """The rows of one kind of trial: the gate's, by planted case, and other rules' beside it."""
    trials = [trial for trial in record["trials"] if trial["kind"] == kind]
    if not trials:
        return []
    rows = []
    if not effect:  # a trial is a false alarm if any of its cases is
        verdicts = [{found["verdict"] for found in trial["cases"].values()} for trial in trials]
        rows.append(row("gate", signal, effect, "live", state, "any case", [REGRESSED in found for found in verdicts],
                        [UNSTABLE in found for found in verdicts], [IMPROVED in found for found in verdicts]))  # fmt: skip
    else:
        for case in trials[0]["cases"]:
            found = [trial["cases"][case] for trial in trials]
            caught = [each["verdict"] == REGRESSED for each in found]
            planted = record["planted"]["time" if signal == "time" else "instructions"][case][0]
            changes = [
                math.expm1(sum(each["logs"]) / len(each["logs"])) if "logs" in each else each["change"] for each in found
            ]
            rows.append(row("gate", signal, effect, "live", state, f"{case} ({planted})", caught,
                            [each["verdict"] == UNSTABLE for each in found]))  # fmt: skip
            rows[-1]["seen"] = sum(changes) / len(changes)
    for rule in ("asv", "t-test") if signal == "time" else ():
        flagged = [found["flags"][rule] for trial in trials for found in trial["cases"].values()]
        rows.append(row(rule, signal, effect, "live", state, "each case", flagged))
    return rows


def row(rule: str, signal: str, effect: float, source: str, state: str, case: str, slower: Sequence[bool],
        unstable: Sequence[bool] = (), faster: Sequence[bool] = ()) -> dict[str, Any]:  # fmt: skip
    """One row of rates."""
    what = {"rule": rule, "signal": signal, "effect": effect, "source": source, "machine": state, "case": case}
    return what | {"trials": len(slower), "regressed": sum(slower), "unstable": sum(unstable), "improved": sum(faster)}


def pool(record: Mapping[str, Any]) -> Processes:
    """What each process of the first look of quiet trials without a slowdown saw, for all cases."""
    trials = [trial["cases"] for trial in record["trials"] if trial["kind"] == "same"]
    return [{case: found["logs"][i] for case, found in cases.items()} for cases in trials for i in range(LOOKS[0])]


def replay(processes: Processes, effect: float, seed: int) -> tuple[str, bool]:
    """The verdict on the case that has the effect, and whether another one is called slower."""
    chance = random.Random(seed)
    names = list(processes[0])
    slowed = names[seed % len(names)]

    def draw(wanted: Sequence[str], count: int) -> dict[str, list[float]]:
        drawn = chance.choices(processes, k=count)
        return {name: [each[name] + (math.log1p(effect) if name == slowed else 0.0) for each in drawn] for name in wanted}

    decisions = decide(names, draw)
    others = any(decisions[name].verdict == REGRESSED for name in names if name != slowed)
    return decisions[slowed].verdict, others


def replayed(processes: Processes, effect: float, times: int | None = None) -> dict[str, Any]:
    """The rates of one effect, replayed; without an effect any case called slower is a false alarm."""
    found = [replay(processes, effect, seed) for seed in range(times or REPLAYS)]
    slower = [verdict == REGRESSED or (effect == 0 and others) for verdict, others in found]
    unstable, faster = ([verdict == which for verdict, _ in found] for which in (UNSTABLE, IMPROVED))
    case = "one of them" if effect else "any case"
    return row("gate", "time", effect, "replayed", "quiet", case, slower, unstable, faster)


def smallest_caught(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """The smallest slowdown of time that is caught at least 95 % of the time, as a one-sided bound of 95 % says."""
    caught = [
        each["effect"]
        for each in rows
        if each["source"] == "replayed" and each["effect"] > 0 and interval(each["regressed"], each["trials"])[0] >= CAUGHT
    ]
    return min(caught, default=None)


def markdown(record: Mapping[str, Any]) -> str:
    """The table of rates, led by the one number that a user reads first."""
    rows = record.get("rates", [])
    smallest = smallest_caught(rows)
    first = (
        f"The smallest slowdown caught at least 95 % of the time: **{smallest:.0%}** (replayed)."
        if smallest
        else "Not known yet."
    )
    lines = [first, "", "| rule | signal | effect | on | machine | trials | called slower | unstable | called faster |"]
    lines.append("| --- | --- | ---: | --- | --- | ---: | ---: | ---: | ---: |")
    for each in rows:
        rates = [rate(each[event], each["trials"]) for event in ("regressed", "unstable", "improved")]
        effect = f"{each['effect']:+.0%}" if each["effect"] else "none"
        seen = f" (seen {each['seen']:+.1%})" if "seen" in each else ""
        cells = (each["rule"], each["signal"], effect + seen, each["case"], f"{each['machine']}, {each['source']}")
        lines.append("| " + " | ".join([*cells, str(each["trials"]), *rates]) + " |")
    return "\n".join(lines)


def rate(events: int, trials: int) -> str:
    """A rate with its interval."""
    low, high = interval(events, trials)
    return f"{events / trials:.1%} [{low:.1%}, {high:.1%}]"
