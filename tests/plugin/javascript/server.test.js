import assert from "node:assert/strict";
import { beforeEach, mock, test } from "node:test";

// As much of a browser as these modules ask for.
class Element {
  constructor(name) {
    Object.assign(this, { name, attributes: {}, children: [], textContent: "", hidden: true });
  }
  setAttribute(key, value) { this.attributes[key] = value; }
  append(...children) { this.children.push(...children); }
  replaceChildren(...children) { this.children = children; }
}
const problem = new Element("div");
globalThis.document = {
  hidden: false, createElement: (name) => new Element(name), getElementById: () => problem,
};
globalThis.window = { location: { pathname: "/airflow/reindex/run", href: "https://host/airflow/reindex/run?x=1" } };

const { link } = await import("../../../airflow_reindex/plugin/static/dom.js");
const { Refused, ask, repeat } = await import("../../../airflow_reindex/plugin/static/server.js");
const { HeatMap } = await import("../../../airflow_reindex/plugin/static/heatmap.js");

const answers = (status, body) => {
  globalThis.fetch = async () => ({ ok: status < 400, status, json: async () => body });
};

beforeEach(() => problem.replaceChildren());

test("links lead nowhere but to this site", () => {
  assert.equal(link("/dags/x", "x").attributes.href, "/dags/x");
  for (const href of ["//evil.example", "https://evil.example", "javascript:alert(1)", "", null, 7]) {
    assert.equal(link(href, "x"), null);
  }
});

test("an answer is JSON, and a refusal offers to sign in, below Airflow's own path", async () => {
  answers(200, { a: 1 });
  assert.deepEqual(await ask("/x"), { a: 1 });
  for (const status of [401, 403]) {
    answers(status, {});
    await assert.rejects(ask("/x"), Refused);
    const [, where] = problem.children;
    assert.equal(where.attributes.href, `/airflow/api/v2/auth/login?next=${encodeURIComponent(window.location.href)}`);
  }
  answers(404, { detail: "there is no such run" });
  await assert.rejects(ask("/x"), Refused);
  assert.deepEqual(problem.children, ["there is no such run"]);
  answers(500, { detail: [{ msg: "not a text" }] });
  await assert.rejects(ask("/x"), /the server answered 500/);
});

test("a server that is away is asked again, slower each time; a refusal ends it", async () => {
  const pauses = [];
  mock.method(globalThis, "setTimeout", (turn, pause) => { pauses.push(pause); queueMicrotask(turn); });
  const outcomes = [new Error("away"), new Error("away"), 500, new Error("away"), new Refused()];
  await new Promise((resolve) => repeat(async () => {
    const next = outcomes.shift();
    if (!outcomes.length) resolve();
    if (next instanceof Error) throw next;
    return next;
  }));
  mock.restoreAll();
  assert.deepEqual(pauses, [2000, 4000, 500, 2000]);
});

test("each chunk has a place, and what is beside the map is none", () => {
  const map = Object.assign(Object.create(HeatMap.prototype), {
    columns: 4, size: 10, low: 10, high: 1000, data: { chunk: [5, 6, 7, 8, 9, 10] },
    canvas: { getBoundingClientRect: () => ({ left: 100, top: 50 }) },
  });
  for (let number = 0; number < 6; number += 1) {
    const [x, y] = map.place(number);
    assert.equal(map.hit({ clientX: 100 + x + 9, clientY: 50 + y + 9 }), number);
  }
  assert.equal(map.hit({ clientX: 141, clientY: 51 }), -1);
  assert.equal(map.hit({ clientX: 121, clientY: 61 }), -1);
  assert.deepEqual([0, 1, 10, 100, 999, 5000].map((rate) => map.shade(rate)), [2, 0, 0, 2, 4, 4]);
});
