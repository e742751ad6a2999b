#!/usr/bin/env python3
"""Recompute a results folder from its records, without any of Muster's own code.

    check_results.py DIR [--hlog]

Reads summary.csv with csv and raw.jsonl with json, as existing scripts do. Recomputes the columns of every accepted row from its
records (except url, hardware and the verdict, which are not in the records). With --hlog it also reads histograms.hlog with the
PyPI package hdrhistogram (another implementation of HdrHistogram), and compares percentiles and counts. The exit code is 0 if
everything agrees; otherwise it prints every difference.
"""

import argparse
import csv
import json
import math
import pathlib
import sys
from collections import defaultdict

HISTORICAL = (
    "mode url num_requests batch_size wait_seconds repetition timestamp hardware successful failed error_rate "
    "total_wall_time connect_p50 connect_p95 connect_p99 reset_p50 reset_p95 reset_p99 step_p50 step_p95 step_p99 "
    "total_min total_max total_avg total_p50 total_p90 total_p95 total_p99 requests_per_second effective_concurrency "
    "unique_pids unique_sessions unique_hosts"
).split()
OURS = (
    "agents attempt timed_out lost never_started open_max response_p50 response_p99 wire_p50 wire_p99 launch_window "
    "launch_lag_p99 receive_lag_p99 start_skew over_range limit verdict verdict_reasons accepted handshake_rtt_p50 "
    "handshake_rtt_p99 syn_retransmissions done fullest_worker untidy outage beyond_p50 beyond_p99 wire_beyond_p50 "
    "wire_beyond_p99 generator_delay_p99 ping_late_p99"
).split()
RAW_KEYS = (
    "request_id mode timestamp wait_requested batch_size hardware connect_latency reset_latency step_latency "
    "total_latency waited_seconds pid session_hash host_url success error_type error_message repetition attempt agent "
    "outcome phase launch_lag response_time wire_latency receive_lag close_latency step_latencies start_offset "
    "step_wire_latencies step_receive_lags reset_wire_latency reset_receive_lag generator_delay "
    "connect_generator_delay handshake_rtt "
    "syn_retransmissions asked done untidy open_generator_delay pings ping_late silence silence_generator_delay"
).split()
FORMAT = 2
OF_STAMPS = {"wire_p50", "wire_p99", "receive_lag_p99", "wire_beyond_p50", "wire_beyond_p99"}
# Where nothing was measured, columns of the historical script contain a number; all others are empty.
FROM_RECORDS = {"generator_delay_p99": "generator_delay", "ping_late_p99": "ping_late"}
HOUR_US = 3_600_000_000


def micros(seconds):
    return None if seconds is None else round(seconds * 1e6)


def quantile(values, q):
    """The value that a fraction q of all values does not exceed (HdrHistogram's definition)."""
    values = sorted(values)
    return values[max(math.ceil(q * len(values)), 1) - 1] if values else 0


def close_to(cell, us):
    """Within the precision of a histogram with 3 significant digits."""
    return abs(float(cell) * 1e6 - us) <= us / 1000 + 1


def range_us(plan):
    """The end of the histograms' range in a run: one hour, or as many hours as its longest session may take."""
    s = plan["session"]
    step = s["think_us"] + max(plan["grid"]["waits_us"]) + s["step_timeout_us"]
    longest = s["connect_timeout_us"] + s["reset_timeout_us"] + s["steps"] * step + s["close_timeout_us"]
    if s["total_timeout_us"] is not None:
        longest = min(longest, s["total_timeout_us"])
    return max(math.ceil((longest + s["launch"].get("over_us", 0)) / HOUR_US), 1) * HOUR_US


def metrics(rows, high_us):
    """The values of each histogram in microseconds, including those above its range, and the number of the latter."""
    values = defaultdict(list)
    for row in rows:
        lag, response = micros(row["launch_lag"]), micros(row["response_time"])
        if lag is not None:
            values["launch_lag"].append(lag)
        if row["outcome"] == "succeeded":
            for name in ("connect", "reset", "close", "total"):
                values[name].append(micros(row[f"{name}_latency"]))
            values["beyond"].append(max(micros(row["total_latency"]) - micros(row["asked"]), 0))
            waits = micros(row["wait_requested"])
            values["wire_beyond"].extend(max(micros(step) - waits, 0) for step in row["step_wire_latencies"])
            values["step"].extend(micros(step) for step in row["step_latencies"])
            if row["handshake_rtt"] is not None:
                values["handshake_rtt"].append(micros(row["handshake_rtt"]))
            values["wire"].extend(micros(step) for step in row["step_wire_latencies"])
            values["receive_lag"].extend(micros(step) for step in row["step_receive_lags"])
            if row["reset_receive_lag"] is not None:
                values["receive_lag"].append(micros(row["reset_receive_lag"]))
            values["response"].append(response)
        elif row["outcome"] == "timed_out":
            values["response"].append(response)
        elif row["outcome"] == "failed":
            values["failed"].append(response)
    over = sum(value > high_us for all_values in values.values() for value in all_values)
    return values, over


def open_max(rows):
    changes = []
    for row in rows:
        if row["start_offset"] is not None and row["reset_latency"] is not None:
            # A session is open from its first answer.
            start = micros(row["start_offset"])
            opened = start + micros(row["connect_latency"]) + micros(row["reset_latency"])
            ended = start + micros(row["total_latency"])
            changes += [(opened, 1), (max(ended, opened), -1)]
    now = most = 0
    for _, change in sorted(changes):
        now += change
        most = max(most, now)
    return most


class Checker:
    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.problems = []
        self.checked = 0

    def expect(self, what, condition, detail):
        self.checked += 1
        if not condition:
            self.problems.append(f"{what}: {detail}")

    def run(self, hlog):
        document = json.loads((self.folder / "run.json").read_text())
        if document["format"] != FORMAT:
            sys.exit(f"{self.folder}: run.json is of format {document['format']}, this script recomputes format {FORMAT}: "
                     f"use the script of version {document['version']}")
        with open(self.folder / "summary.csv", newline="") as file:
            reader = csv.DictReader(file)
            summary = list(reader)
        header = reader.fieldnames
        self.expect("header", header[: len(HISTORICAL) + len(OURS)] == HISTORICAL + OURS, header)
        steps = document["plan"]["session"]["steps"]
        self.high_us = range_us(document["plan"])
        batches = defaultdict(list)
        raw_path = self.folder / "raw.jsonl"
        if not raw_path.exists():
            packed = raw_path.with_suffix(".jsonl.zst")
            sys.exit(f"unpack it first: zstd -d {packed}" if packed.exists() else f"no raw.jsonl in {self.folder}: "
                     "nothing to recompute from (output.raw was \"none\")")
        with open(raw_path) as file:
            for line in file:
                row = json.loads(line)
                if list(row)[: len(RAW_KEYS)] != RAW_KEYS:
                    self.expect("raw keys", False, list(row))
                batches[key(row["mode"], row["batch_size"], row["wait_requested"], row["repetition"])].append(row)
        accepted = [row for row in summary if row["accepted"] == "true"]
        self.expect("batches", len(batches) == len(accepted), f"{len(batches)} in raw.jsonl, {len(accepted)} accepted")
        for row in accepted:
            name = key(row["mode"], row["batch_size"], row["wait_seconds"], row["repetition"])
            self.batch(row, batches[name], steps, name)
        if hlog:
            self.histograms(batches)

    def batch(self, row, rows, steps, name):
        def equal(column, value):
            self.expect(f"{name} {column}", row[column] == str(value), f"{row[column]!r}, records say {value!r}")

        def near(column, value):
            self.expect(
                f"{name} {column}",
                math.isclose(float(row[column]), value, rel_tol=1e-6, abs_tol=1e-6),
                f"{row[column]}, records say {value}",
            )

        for column in HISTORICAL[10:30]:
            float(row[column])  # as historical scripts do
        planned = int(row["num_requests"])
        self.expect(f"{name} lines", sorted(r["request_id"] for r in rows) == list(range(planned)), len(rows))
        good = [r for r in rows if r["success"]]
        equal("batch_size", planned)
        equal("successful", len(good))
        equal("failed", planned - len(good))
        near("error_rate", (planned - len(good)) / planned)
        for column, outcome in (("timed_out", "timed_out"), ("lost", "lost"), ("never_started", "never_started")):
            equal(column, sum(r["outcome"] == outcome for r in rows))
        self.expect(f"{name} hardware", all(r["hardware"] == row["hardware"] for r in rows), row["hardware"])
        self.expect(f"{name} attempt", all(str(r["attempt"]) == row["attempt"] for r in rows), row["attempt"])
        self.expect(f"{name} timestamp", row["timestamp"].endswith("Z"), row["timestamp"])
        self.expect(f"{name} success", all(r["success"] == (r["outcome"] == "succeeded") for r in rows), "")

        started = [r for r in rows if r["start_offset"] is not None]
        wall = max((micros(r["start_offset"]) + micros(r["total_latency"]) for r in started), default=0) / 1e6
        near("total_wall_time", wall)
        near("requests_per_second", len(good) / wall if wall else 0.0)
        wait = float(row["wait_seconds"])
        near("effective_concurrency", planned * steps * wait / wall if wall else 0.0)
        starts = [micros(r["start_offset"]) for r in started]
        if starts:
            near("launch_window", (max(starts) - min(starts)) / 1e6)
        else:
            equal("launch_window", "")
        equal("open_max", open_max(rows))

        values, over = metrics(rows, self.high_us)
        equal("over_range", over)
        clipped = {name: [min(v, self.high_us) for v in all_values] for name, all_values in values.items()}
        replies = sum(len(r["step_latencies"]) for r in good)
        stamped = sum(len(r["step_wire_latencies"]) for r in good)
        for column in HISTORICAL + OURS:
            metric, _, percent = column.rpartition("_p")
            if column in FROM_RECORDS:
                known = [micros(r[FROM_RECORDS[column]]) for r in rows if r[FROM_RECORDS[column]] is not None]
                equal(column, f"{quantile(known, 0.99) / 1e6:.6f}" if known else "")
            elif column not in HISTORICAL and metric and percent.isdigit() and not values.get(metric):
                equal(column, "")
            elif column in OF_STAMPS and (replies == 0 or stamped * 1000 < replies * 999):
                equal(column, "")
            elif metric and percent.isdigit():
                exact = quantile(clipped.get(metric, []), int(percent) / 100)
                self.expect(f"{name} {column}", close_to(row[column], exact), f"{row[column]}, records say {exact} us")
        totals = values.get("total", [])
        near("total_min", min(totals, default=0) / 1e6)
        near("total_max", max(totals, default=0) / 1e6)
        near("total_avg", sum(totals) / len(totals) / 1e6 if totals else 0.0)
        equal("unique_pids", len({r["pid"] for r in good if r["pid"] is not None}))
        equal("unique_sessions", len({r["session_hash"] for r in good if r["session_hash"] is not None}))
        equal("unique_hosts", len({r["host_url"] for r in good if r["host_url"] is not None}))
        equal("agents", len({r["agent"] for r in rows}))
        again = [r["syn_retransmissions"] for r in rows if r["syn_retransmissions"] is not None]
        equal("syn_retransmissions", sum(again) if again else "")
        equal("done", sum(r["done"] for r in rows))
        equal("untidy", sum(r["untidy"] is not None for r in rows))
        workers = defaultdict(int)
        for r in rows:
            if r["pid"] is not None and r["reset_latency"] is not None:
                workers[r["host_url"], r["pid"]] += 1
        equal("fullest_worker", max(workers.values(), default=""))
        for r in rows:
            self.split(name, r)
        for r in good:
            if r["mode"] == "ws":
                parts = [r["connect_latency"], r["reset_latency"], r["close_latency"], *r["step_latencies"]]
                if sum(parts) > r["total_latency"] + 1e-3:
                    self.expect(f"{name} session {r['request_id']}", False, "phases are longer than the whole")
            if not math.isclose(sum(r["step_latencies"]), r["step_latency"], abs_tol=1e-5):
                self.expect(f"{name} session {r['request_id']}", False, "step_latency is not the sum of its steps")

    def split(self, name, r):
        """Wire latency plus receive lag of each reply is its latency, and no delay of ours is longer than its session."""
        pairs = list(zip(r["step_latencies"], r["step_wire_latencies"], r["step_receive_lags"]))
        self.expect(f"{name} session {r['request_id']}", len(pairs) in (0, len(r["step_latencies"])), "steps without stamps")
        if r["reset_wire_latency"] is not None:
            pairs.append((r["reset_latency"], r["reset_wire_latency"], r["reset_receive_lag"]))
        for whole, wire, lag in pairs:
            # The program's clock starts before the request is written and stops before the split is taken.
            if not -0.05 <= whole - wire - lag <= 0.25:
                self.expect(f"{name} session {r['request_id']}", False, f"{wire} and {lag} are not {whole}")
        if pairs and not math.isclose(r["wire_latency"] or 0.0, sum(r["step_wire_latencies"]), abs_tol=1e-5):
            self.expect(f"{name} session {r['request_id']}", False, "wire_latency is not the sum of its steps")
        if r["generator_delay"] is not None and r["total_latency"] is not None:
            self.expect(f"{name} session {r['request_id']}", r["generator_delay"] <= r["total_latency"] + 0.05, "delay")

    def histograms(self, batches):
        from hdrh.histogram import HdrHistogram
        from hdrh.log import HistogramLogReader

        reference = HdrHistogram(1, self.high_us, 3)
        reader = HistogramLogReader(str(self.folder / "histograms.hlog"), reference)
        seen = defaultdict(dict)
        while (histogram := reader.get_next_interval_histogram()) is not None:
            name, _, metric = histogram.get_tag().rpartition("-")
            seen[name][metric] = histogram
        self.expect("tags", set(seen) == set(batches), sorted(set(seen) ^ set(batches)))
        for name, rows in batches.items():
            values, _ = metrics(rows, self.high_us)
            for metric, histogram in seen[name].items():
                exact = [value for value in values.get(metric, []) if value <= self.high_us]
                count = histogram.get_total_count()
                self.expect(f"{name}-{metric} count", count == len(exact), f"{count}, records say {len(exact)}")
                for q in (50, 99):
                    found = histogram.get_value_at_percentile(q) if exact else 0
                    # That implementation rounds the rank to the nearest, ours rounds up. Where values are far apart, the two
                    # give neighbouring values.
                    rounded = sorted(exact)[max(int(q / 100 * len(exact) + 0.5), 1) - 1] if exact else 0
                    wanted = {rounded, quantile(exact, q / 100)}
                    same = any(abs(found - value) <= value / 1000 + 1 for value in wanted)
                    self.expect(f"{name}-{metric} p{q}", same, f"{found}, records say {wanted}")


def key(mode, size, wait, repetition):
    return f"{mode}-{int(size)}-{float(wait)}-{int(repetition)}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--hlog", action="store_true", help="also read histograms.hlog (needs PyPI hdrhistogram)")
    arguments = parser.parse_args()
    checker = Checker(arguments.folder)
    checker.run(arguments.hlog)
    for problem in checker.problems[:50]:
        print(problem)
    print(f"{arguments.folder}: {checker.checked} checks, {len(checker.problems)} disagree")
    return 1 if checker.problems else 0


if __name__ == "__main__":
    sys.exit(main())
