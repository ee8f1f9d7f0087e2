import assert from "node:assert/strict";
import { test } from "node:test";

import { between, count, eta, moment, rate, span, tasks } from "../../../airflow_reindex/plugin/static/format.js";

test("numbers are rounded and grouped; what is unknown is empty", () => {
  assert.equal(count(1234567.6), "1,234,568");
  assert.equal(count(0), "0");
  assert.equal(count(null), "");
  assert.equal(count(undefined), "");
  assert.equal(rate(1500, "rows"), "1,500 rows/s");
  assert.equal(rate(0, "rows"), "");
});

test("durations have two units at most, and never sixty of one", () => {
  const cases = [
    [0, "0.0 s"], [9.94, "9.9 s"], [9.96, "10 s"], [59.4, "59 s"], [59.6, "1 min 00 s"], [61, "1 min 01 s"],
    [3599.4, "59 min 59 s"], [3599.6, "1 h 00 min"], [3661, "1 h 01 min"], [90061, "25 h 01 min"],
  ];
  for (const [seconds, text] of cases) assert.equal(span(seconds), text);
  assert.equal(span(null), "");
});

test("an estimate shows its bounds when they differ", () => {
  assert.equal(eta({ seconds: 60, low: 60, high: 61 }), "1 min 00 s");
  assert.equal(eta({ seconds: 60, low: 50, high: 75 }), "1 min 00 s (50 s to 1 min 15 s)");
  assert.equal(eta(null), "");
});

test("moments are UTC, whatever their offset", () => {
  assert.equal(moment("2026-01-01T01:00:00.123456+01:00"), "2026-01-01 00:00:00 UTC");
  assert.equal(moment(null), "");
  assert.equal(between("2026-01-01T00:00:00Z", "2026-01-01T00:01:30Z"), 90);
  assert.equal(between("2026-01-01T00:01:00Z", "2026-01-01T00:00:00Z"), 0);
  assert.equal(between("2026-01-01T00:00:00Z", null), null);
});

test("states are told in words", () => {
  assert.equal(tasks({ success: 2, none: 1, upstream_failed: 3 }), "2 success, 1 not yet, 3 kept back");
  assert.equal(tasks({}), "");
});
