"""Compute the gate's rates of error from recorded trials and from replays.

A replay draws processes with replacement from the processes of the quiet trials without an injected slowdown, adds an effect to
the log-ratios of one case, and lets `rule.decide` judge, as in a live trial. An effect of 0.05 is a slowdown of 5 %. In lock
step, pairs take the place of processes, and a replay does not compare base with base, which can only make a verdict UNSTABLE.
"""

import math
import random
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from scipy.stats import binomtest

from .injection import OFF
from .records import is_current
from .rule import IMPROVED, LOOKS, REGRESSED, UNSTABLE, decide, estimate

EFFECTS = (0.0, 0.01, -0.01, 0.02, -0.02, 0.03, 0.04, 0.05, -0.05, 0.10, -0.10, 0.20, -0.20)
REPLAYS = 1000  # of each effect
FEW = 5  # trials of a commit that show the size of its injected slowdown
CAUGHT = 0.95  # rate from which a slowdown counts as caught

# Way of measuring -> what the names of its kinds of trial begin with, after "busy ".
ONE_PROCESS, LOCKSTEP = "both versions in one process", "pairs of processes in lock step"
WAYS = {ONE_PROCESS: "", LOCKSTEP: "lockstep "}

Processes = Sequence[Mapping[str, float]]  # for each process, case -> log-ratio


def interval(events: int, trials: int) -> tuple[float, float]:
    """Return Clopper and Pearson's interval for the rate events / trials; each end is a one-sided bound of 95 %."""
    if trials == 0:
        return 0.0, 1.0
    exact = binomtest(events, trials).proportion_ci(0.90, "exact")
    return float(exact.low), float(exact.high)


def evaluate(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the tables of rates, one for each way of measuring that `way` names.

    There is a row per rule, signal, effect and condition of the machine ("quiet", "busy", "any").
    """
    return [{"way": way, **each} for way, prefix in WAYS.items() for each in evaluate_way(record, prefix)]


def evaluate_way(record: Mapping[str, Any], prefix: str) -> list[dict[str, Any]]:
    """Return the rows for one way of measuring, whose kinds of trial begin with `prefix`."""
    rows = []
    for state, busy in (("quiet", ""), ("busy", "busy ")):
        rows += live(record, f"{busy}{prefix}same", "time", 0.0, state)
        rows += live(record, f"{busy}{prefix}slower", "time", 0.05, state)
    rows += live(record, f"{prefix}instructions same", "instructions", 0.0, "any")
    rows += live(record, f"{prefix}instructions slower", "instructions", 0.01, "any")
    processes = pool(record, prefix)
    return rows + ([replayed(processes, effect) for effect in EFFECTS] if len(processes) >= LOOKS[-1] else [])


def live(record: Mapping[str, Any], kind: str, signal: str, effect: float, state: str) -> list[dict[str, Any]]:
    """Return the rows for one kind of trial: of the gate and, for time, of the other rules on the same rounds.

    Those of the gate are of trials that today's rule judged; the other rules never changed.
    """
    trials = [trial for trial in record["trials"] if trial["kind"] == kind]
    ours = [trial for trial in trials if is_current(trial)]
    rows = []
    if ours:
        rows += caught(record, ours, signal, effect, state) if effect else [false_alarms(ours, signal, state)]
    for rule in ("asv", "t-test") if trials and signal == "time" else ():
        flagged = [case["flags"][rule] for trial in trials for case in trial["cases"].values()]
        rows.append(row(rule, signal, effect, "live", state, "each case", flagged))
    return rows


def false_alarms(trials: Sequence[Mapping[str, Any]], signal: str, state: str) -> dict[str, Any]:
    """Return the row for trials without a slowdown; a trial has a verdict if any of its cases has it."""
    verdicts = [{case["verdict"] for case in trial["cases"].values()} for trial in trials]
    seen = {verdict: [verdict in trial for trial in verdicts] for verdict in (REGRESSED, UNSTABLE, IMPROVED)}
    return row("gate", signal, 0.0, "live", state, "any case", seen[REGRESSED], seen[UNSTABLE], seen[IMPROVED])


def caught(
    record: Mapping[str, Any], trials: Sequence[Mapping[str, Any]], signal: str, effect: float, state: str
) -> list[dict[str, Any]]:
    """Return a row per case for trials with an injected slowdown, with the mean of the measured changes."""
    rows = []
    for case in trials[0]["cases"]:
        figures = of_size(record, [trial for trial in trials if case in trial["cases"]], case, effect)
        if not figures:
            continue
        kinds = record.get("planted", {}).get(signal, {})
        named = f"{case} ({kinds[case][0]})" if case in kinds else case  # in lock step, a benchmark's name says its kind
        slower, unsettled, faster = ([one["verdict"] == which for one in figures] for which in (REGRESSED, UNSTABLE, IMPROVED))
        found = row("gate", signal, effect, "live", state, named, slower, unsettled, faster)
        rows.append(found | {"seen": statistics.fmean(map(measured_change, figures))})
    return rows


def of_size(
    record: Mapping[str, Any], trials: Sequence[Mapping[str, Any]], case: str, effect: float
) -> list[Mapping[str, Any]]:
    """Return what `trials` recorded of a case, without those of commits at which the injected slowdown missed its size.

    It missed if over all trials of the commit with a slowdown, of any verdict, the mean change was off by more than OFF. With
    fewer than FEW trials of a commit that may be chance, so those stay.
    """
    kind = trials[0]["kind"].removeprefix("busy ")
    by_commit: dict[str, list[float]] = {}
    for trial in record["trials"]:
        if trial["kind"].removeprefix("busy ") == kind and case in trial["cases"]:
            by_commit.setdefault(trial["commit"], []).append(measured_change(trial["cases"][case]))
    missed = {
        commit
        for commit, changes in by_commit.items()
        if len(changes) >= FEW and abs(statistics.fmean(changes) - effect) > OFF * effect
    }
    return [trial["cases"][case] for trial in trials if trial["commit"] not in missed]


def measured_change(case: Mapping[str, Any]) -> float:
    """Return the relative change that a trial measured in one of its cases."""
    return estimate(case["logs"]).change if "logs" in case else float(case["change"])


def row(rule: str, signal: str, effect: float, source: str, state: str, case: str, slower: Sequence[bool],
        unstable: Sequence[bool] = (), faster: Sequence[bool] = ()) -> dict[str, Any]:  # fmt: skip
    """Return one row: its key, and in how many trials the case was called slower, unstable and faster."""
    key = {"rule": rule, "signal": signal, "effect": effect, "source": source, "machine": state, "case": case}
    return key | {"trials": len(slower), "regressed": sum(slower), "unstable": sum(unstable), "improved": sum(faster)}


def pool(record: Mapping[str, Any], prefix: str = "") -> Processes:
    """Return the log-ratios of the quiet trials without a slowdown: the processes of each trial's first look.

    How many these are depends on no rule, so the trials that a former one judged are among them.
    """
    trials = [trial["cases"] for trial in record["trials"] if trial["kind"] == f"{prefix}same"]
    return [{case: figures["logs"][i] for case, figures in cases.items()} for cases in trials for i in range(LOOKS[0])]


def replay(processes: Processes, effect: float, seed: int) -> set[str]:
    """Replay once; return the verdict on the case that has the effect or, if that is 0, those on all cases."""
    chance = random.Random(seed)
    names = list(processes[0])
    slowed = names[seed % len(names)]

    def draw(wanted: Sequence[str], count: int) -> dict[str, list[float]]:
        drawn = chance.choices(processes, k=count)
        return {name: [one[name] + (math.log1p(effect) if name == slowed else 0.0) for one in drawn] for name in wanted}

    decisions = decide(names, draw)
    return {decisions[name].verdict for name in names if name == slowed or not effect}


def replayed(processes: Processes, effect: float, times: int | None = None) -> dict[str, Any]:
    """Return the row for one effect from `times` replays (None: REPLAYS); at effect 0, any case counts."""
    verdicts = [replay(processes, effect, seed) for seed in range(times or REPLAYS)]
    slower, unsettled, faster = ([which in each for each in verdicts] for which in (REGRESSED, UNSTABLE, IMPROVED))
    case = "one of them" if effect else "any case"
    return row("gate", "time", effect, "replayed", "quiet", case, slower, unsettled, faster)


def smallest_caught(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the smallest slowdown of time that is caught at least 95 % of the time, by a one-sided bound of 95 %."""
    effects = [
        row["effect"]
        for row in rows
        if row["source"] == "replayed" and row["effect"] > 0 and interval(row["regressed"], row["trials"])[0] >= CAUGHT
    ]
    return min(effects, default=None)


def in_short(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each condition of the machine: the gate's errors in live trials of time, with their upper bounds.

    Of an injected slowdown, the line is on the case whose bound is the highest.
    """

    def passed(row: Mapping[str, Any]) -> int:
        return int(row["trials"] - row["regressed"] - row["unstable"])

    def bounded(events: int, trials: int) -> str:
        bound = math.ceil(1e4 * interval(events, trials)[1]) / 1e4  # never below the true one
        return f"{events} of {trials} (below {bound:.2%})"

    lines = []
    for state in ("quiet", "busy"):
        ours = [
            row
            for row in rows
            if (row["rule"], row["signal"], row["source"], row["machine"]) == ("gate", "time", "live", state)
        ]
        same, slower = [row for row in ours if not row["effect"]], [row for row in ours if row["effect"]]
        if same and slower:
            worst = max(slower, key=lambda row: interval(passed(row), row["trials"])[1])
            alarms, misses = bounded(same[0]["regressed"], same[0]["trials"]), bounded(passed(worst), worst["trials"])
            lines.append(
                f"* {state.capitalize()}: equal versions called slower, {alarms}; {worst['effect']:+.0%} passed, {misses}"
            )
    return lines


def markdown(record: Mapping[str, Any]) -> str:
    """Return, in Markdown, the smallest slowdown that is caught and the table of rates for each way of measuring."""
    rows = record.get("rates", [])
    return "\n\n".join(table(way, [row for row in rows if row.get("way", ONE_PROCESS) == way]) for way in WAYS)


def table(way: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the smallest slowdown that is caught, the errors in short and the table of `rows`, for one way of measuring."""
    title = f"*{way[0].upper()}{way[1:]}.*"
    if not rows:
        return f"{title} Not calibrated yet."
    smallest = smallest_caught(rows)
    first = (
        f"The smallest slowdown caught at least 95 % of the time: **{smallest:.0%}** (replayed)."
        if smallest
        else "The smallest slowdown caught at least 95 % of the time is not known yet."
    )
    lines = [
        f"{title} {first}",
        "",
        *in_short(rows),
        "",
        "| rule | signal | effect | on | machine | trials | called slower | unstable | called faster |",
    ]
    lines.append("| --- | --- | ---: | --- | --- | ---: | ---: | ---: | ---: |")
    for each in rows:
        known = ("regressed", "unstable", "improved") if each["rule"] == "gate" else ("regressed",)  # the others have no more
        rates = [*(rate(each[event], each["trials"]) for event in known), *["–"] * (3 - len(known))]
        effect = f"{each['effect']:+.0%}" if each["effect"] else "none"
        seen = f" (seen {each['seen']:+.1%})" if "seen" in each else ""
        cells = (each["rule"], each["signal"], effect + seen, each["case"], f"{each['machine']}, {each['source']}")
        lines.append("| " + " | ".join([*cells, str(each["trials"]), *rates]) + " |")
    return "\n".join(lines)


def rate(events: int, trials: int) -> str:
    """Return events / trials in percent, with its interval, as text."""
    low, high = interval(events, trials)
    return f"{events / trials:.1%} [{low:.1%}, {high:.1%}]"
