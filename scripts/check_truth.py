#!/usr/bin/env python3
"""Compare a run's latencies with those that the server itself recorded.

    check_truth.py DIR --truth FILE [--kind held|achieved] [--within PERCENT] [--json]

Joins DIR/raw.jsonl with the log that `refserver --truth FILE` wrote, session by session (session_hash), for succeeded
sessions. The server's own time of a reply is `held` (from the kernel's receive timestamp of the request to just before
the write of the reply) or `achieved` (from the read of the request, so without the time that it waited to be read). The script
compares these with it:

  wire     reset_wire_latency and step_wire_latencies: from the write of the request to the kernel's timestamp of the reply
  program  reset_latency and step_latencies: until the program had read the reply, as every load tester measures

The network lies between the two sides, so a figure should be above the server's by a round trip. Percentiles are the values of
rank ceil(q n) of the joined values; the difference of one session is figure - server. A session agrees if the difference is
within 1 % or 1 us, whichever is more (this includes the precision of a histogram with 3 digits).

At the end, the script prints how far apart the agents of each batch began, by the server's clock. "First accepted" is the spread
over the agents of accepted_us of the session that each began first. The server accepts a session start_offset after its agent's
start, plus some delay of the connection. "Starts" is the spread of accepted_us without the offset, of the least delayed session
of each agent. Beside them stands start_skew of summary.csv, the run's own value.

The exit code is 1 if --within is given and a wire percentile differs by more than that, or if nothing could be compared.
"""

import argparse
import csv
import json
import math
import pathlib
import sys
from collections import defaultdict

QUANTILES = (0.5, 0.9, 0.99)


def micros(seconds):
    return None if seconds is None else round(seconds * 1e6)


def quantile(values, q):
    """The value that a fraction q of all values does not exceed (HdrHistogram's definition)."""
    values = sorted(values)
    return values[max(math.ceil(q * len(values)), 1) - 1]


def lines(path):
    with open(path) as file:
        for number, line in enumerate(file, 1):
            try:
                yield json.loads(line)
            except ValueError as error:
                sys.exit(f"{path}, line {number}: {error}")


def truth_of(path):
    """The server's lines by session_hash, and the number of those that exist twice and so can't be used."""
    sessions, twice = {}, set()
    for line in lines(path):
        if line["session_hash"] in sessions:
            twice.add(line["session_hash"])
        sessions[line["session_hash"]] = line
    for session_hash in twice:
        del sessions[session_hash]
    return sessions, len(twice)


def pairs_of(rows, sessions, kind):
    """(figure, server) in microseconds by figure and phase; replies without a partner are counted by reason."""
    pairs, left_out = defaultdict(list), defaultdict(int)
    for row in rows:
        if row["outcome"] != "succeeded":
            left_out["sessions that did not succeed"] += 1
            continue
        line = sessions.get(row["session_hash"])
        if line is None:
            left_out["sessions that are not in the server's log"] += 1
            continue
        if line.get("replies_omitted"):
            left_out["sessions with more replies than the server's log lists"] += 1
            continue
        replies = {phase: [reply[f"{kind}_us"] for reply in line["replies"] if reply["phase"] == phase]
                   for phase in ("reset", "step")}
        figures = {
            ("wire", "reset"): [row.get("reset_wire_latency")],
            ("wire", "step"): row.get("step_wire_latencies") or [None] * len(row["step_latencies"]),
            ("program", "reset"): [row["reset_latency"]],
            ("program", "step"): row["step_latencies"],
        }
        for (figure, phase), seconds in figures.items():
            if len(seconds) != len(replies[phase]):
                left_out[f"sessions with another number of {phase}s on the server"] += 1
                continue
            for ours, theirs in zip(map(micros, seconds), replies[phase]):
                if theirs is None:
                    left_out[f"{phase}s without {kind}_us"] += 1
                elif ours is None:
                    left_out[f"{phase}s without {figure} latency"] += 1
                else:
                    pairs[figure, phase].append((ours, theirs))
    return pairs, left_out


def compared(pairs):
    ours, theirs = zip(*pairs)
    apart = [abs(a - b) for a, b in pairs]
    percentiles = []
    for q in QUANTILES:
        a, b = quantile(ours, q), quantile(theirs, q)
        percentiles.append({"q": q, "figure_us": a, "server_us": b, "off_percent": 100 * (a - b) / b if b else None})
    return {
        "n": len(pairs),
        "percentiles": percentiles,
        "apart_us": {"p50": quantile(apart, 0.5), "p99": quantile(apart, 0.99), "max": max(apart)},
        "below": sum(a < b for a, b in pairs),
        "agree": sum(abs(a - b) <= max(b / 100, 1) for a, b in pairs) / len(pairs),
    }


def starts_of(rows, sessions, summary):
    """For each batch: how far apart its agents began, by the server's clock and by the run's own value."""
    stated = {(r["mode"], int(r["batch_size"]), float(r["wait_seconds"]), int(r["repetition"])): r
              for r in summary if r["accepted"] == "true"}
    first = defaultdict(lambda: defaultdict(list))
    for row in rows:
        line = sessions.get(row["session_hash"])
        if line is None or row["start_offset"] is None:
            continue
        agents = first[row["mode"], row["batch_size"], row["wait_requested"], row["repetition"]]
        agents[row["agent"]].append((micros(row["start_offset"]), line["accepted_us"]))
    starts = []
    for (mode, size, wait, repetition), agents in sorted(first.items()):
        skew = stated.get((mode, size, wait, repetition), {}).get("start_skew") or None
        accepted = [min(began)[1] for began in agents.values()]
        least = [min(at - offset for offset, at in began) for began in agents.values()]
        starts.append({
            "mode": mode, "batch_size": size, "wait_seconds": wait, "repetition": repetition, "agents": len(agents),
            "accepted_spread_us": max(accepted) - min(accepted), "start_spread_us": max(least) - min(least),
            "start_skew_us": None if skew is None else micros(float(skew)),
        })
    return starts


def print_tables(report):
    kind = report["kind"]
    print(f"{report['sessions']:,} sessions in the records, {report['logged']:,} in the server's log; server = {kind}_us\n")
    print("| figure | phase | n | " + " | ".join(f"p{100 * q:g}, server's, off" for q in QUANTILES) +
          " | apart p50 | p99 | max us | below server's | agree |")
    print("| --- | --- | ---: |" + " ---: |" * (len(QUANTILES) + 5))
    for row in report["rows"]:
        cells = []
        for p in row["percentiles"]:
            off = "-" if p["off_percent"] is None else f"{p['off_percent']:+.2f} %"
            cells.append(f"{p['figure_us']:,} {p['server_us']:,} {off}")
        apart = row["apart_us"]
        print(f"| {row['figure']} | {row['phase']} | {row['n']:,} | {' | '.join(cells)} | {apart['p50']:,} | "
              f"{apart['p99']:,} | {apart['max']:,} | {row['below']:,} | {100 * row['agree']:.1f} % |")
    for reason, n in report["left_out"].items():
        print(f"left out: {n:,} {reason}")
    print("\n| batch | agents | first accepted, spread us | starts, spread us | start_skew us |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for s in report["starts"]:
        skew = "not measured" if s["start_skew_us"] is None else f"{s['start_skew_us']:,}"
        print(f"| {s['mode']} {s['batch_size']:,}, wait {s['wait_seconds']:g} s, repetition {s['repetition']} | "
              f"{s['agents']} | {s['accepted_spread_us']:,} | {s['start_spread_us']:,} | {skew} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="DIR", type=pathlib.Path)
    parser.add_argument("--truth", metavar="FILE", type=pathlib.Path, required=True)
    parser.add_argument("--kind", choices=("held", "achieved"), default="held")
    parser.add_argument("--within", metavar="PERCENT", type=float, help="exit 1 when a wire percentile is further off")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of tables")
    arguments = parser.parse_args()
    raw = arguments.folder / "raw.jsonl"
    if not raw.exists():
        packed = raw.with_suffix(".jsonl.zst")
        sys.exit(f"unpack it first: zstd -d {packed}" if packed.exists() else f"no raw.jsonl in {arguments.folder}")
    rows = list(lines(raw))
    sessions, twice = truth_of(arguments.truth)
    pairs, left_out = pairs_of(rows, sessions, arguments.kind)
    if twice:
        left_out["session hashes that are in the server's log more than once"] = twice
    with open(arguments.folder / "summary.csv", newline="") as file:
        starts = starts_of(rows, sessions, list(csv.DictReader(file)))
    report = {
        "kind": arguments.kind, "sessions": len(rows), "logged": len(sessions),
        "rows": [{"figure": figure, "phase": phase, **compared(values)} for (figure, phase), values in pairs.items()],
        "left_out": dict(left_out), "starts": starts,
    }
    if arguments.json:
        print(json.dumps(report, indent=1))
    else:
        print_tables(report)
    wire = [row for row in report["rows"] if row["figure"] == "wire"]
    if not wire:
        print("no wire latency could be compared", file=sys.stderr)
        return 1
    if arguments.within is None:
        return 0
    off = [f"{row['phase']} p{100 * p['q']:g}" for row in wire for p in row["percentiles"]
           if abs(p["figure_us"] - p["server_us"]) > p["server_us"] * arguments.within / 100]
    if off:
        print(f"further off than {arguments.within:g} %: {', '.join(off)}", file=sys.stderr)
    return 1 if off else 0


if __name__ == "__main__":
    sys.exit(main())
