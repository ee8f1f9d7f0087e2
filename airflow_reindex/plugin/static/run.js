// The page of a run.
import { bar, byId, facts, link, make, pages, setText, table } from "./dom.js";
import { FailureTable } from "./failures.js";
import { between, count, eta, moment, rate, span, tasks } from "./format.js";
import { heatMap } from "./heatmap.js";
import { ask, repeat } from "./server.js";
import { follow } from "./theme.js";

const [dag, run] = window.location.pathname.split("/").slice(-2);
const base = `../../run/${dag}/${run}`;
const failures = new FailureTable(base);
const map = heatMap((chunk) => failures.search(String(chunk)));
const RANGES = 100;
let turn = 0;
let rangeOffset = 0;
let before = "";

function header(seen) {
  const status = byId("status");
  setText(status, seen.status);
  status.className = `badge ${seen.status}`;
  setText(byId("title"), `${seen.kind}: ${seen.run_id}`);
  document.title = `${seen.status} · ${seen.run_id}`;
  setText(byId("subject"), `${seen.source} → ${seen.dest}`);
  const progress = byId("bar");
  if (seen.progress === null) progress.removeAttribute("value");
  else progress.value = seen.progress;
  progress.hidden = seen.progress === null && !seen.live;
  const failed = seen.failed ? `, ${count(seen.failed)} failed` : "";
  setText(byId("figures"), seen.total === null ? "" : `${count(seen.count)} of ${count(seen.total)} ${seen.unit}${failed}`);
  const times = [["Started", moment(seen.started_at)], [seen.live ? "Running for" : "Took", span(between(seen.started_at, seen.live ? seen.now : seen.ended_at))]];
  if (seen.ended_at && !seen.live) times.push(["Ended", moment(seen.ended_at)]);
  if (seen.eta) times.push(["Left", `about ${eta(seen.eta)}`]);
  if (seen.rows) times.push([seen.unit === "items" ? "Items" : "Rows", count(seen.rows)]);
  facts(byId("times"), [...times, ...Object.entries(seen.notes)]);
  const detail = byId("detail");
  detail.hidden = !seen.detail;
  setText(detail, seen.code ? `${seen.detail}\n\nCode: ${seen.code}` : seen.detail);
  links(seen.links);
  if (seen.status !== before) {
    if (before) setText(byId("announce"), `The run is ${seen.status}.`);
    before = seen.status;
  }
}

function links(found) {
  const names = { grid: "Airflow's grid", report: "Report", replay: "Replay failed items" };
  const wanted = Object.entries(names).filter(([name]) => found[name]).map(([name, text]) => link(found[name], text));
  const shown = JSON.stringify(found);
  if (byId("links").dataset.shown === shown) return;
  byId("links").dataset.shown = shown;
  byId("links").replaceChildren(...wanted.filter(Boolean));
  byId("replay").replaceChildren(...[link(found.replay, "Replay them")].filter(Boolean));
}

function phases(seen) {
  const heads = [
    { text: "Phase" }, { text: "State" }, { text: "Tasks" }, { text: "Progress" }, { text: "Done", number: true },
    { text: "Rate", number: true }, { text: "Time", number: true }, { text: "Left", number: true },
  ];
  const rows = seen.phases.map((phase) => {
    const part = phase.state === "done" ? 1 : phase.total ? Math.min(1, phase.done / phase.total) : 0;
    const total = phase.total ? ` of ${count(phase.total)}` : "";
    return [
      phase.name, make("span", { class: `badge ${phase.state}`, text: phase.state }), tasks(phase.tasks),
      bar(part, `Progress of ${phase.name}`), phase.done ? `${count(phase.done)}${total} ${phase.unit}` : "",
      rate(phase.rate, phase.unit), span(phase.seconds), eta(phase.eta),
    ];
  });
  table(byId("phases"), "Phases", heads, rows, "The run has no tasks yet.");
}

function workers(seen) {
  byId("workers-part").hidden = seen.workers.length === 0;
  if (!seen.workers.length) return;
  const most = Math.max(1, ...seen.workers.map((worker) => worker.rate ?? 0));
  const heads = [
    { text: "Worker" }, { text: "Chunks", number: true }, { text: "Read", number: true }, { text: "Failed", number: true },
    { text: "Rows", number: true }, { text: "Rate", number: true }, { text: "Against the fastest" },
  ];
  const rows = seen.workers.map((worker) => [
    worker.name, count(worker.chunks), count(worker.staged), count(worker.failed), count(worker.rows), rate(worker.rate, "rows"),
    bar((worker.rate ?? 0) / most, `Rate of ${worker.name} against the fastest`),
  ]);
  table(byId("workers"), "Workers", heads, rows, "");
}

function proof(seen) {
  const parts = [];
  if (seen.verification) parts.push([`Verification: ${seen.verification.state}`, seen.verification.facts]);
  if (seen.publication) {
    const what = seen.publication.what === "switch" ? "Switch of readers" : "Publication";
    parts.push([`${what}: ${seen.publication.state}`, seen.publication.facts]);
  }
  const shown = JSON.stringify(parts);
  const box = byId("proof");
  if (box.dataset.shown === shown) return;
  box.dataset.shown = shown;
  box.replaceChildren(...parts.flatMap(([title, entries]) => {
    const list = make("dl", { class: "facts" });
    facts(list, Object.entries(entries));
    return [make("h3", { text: title }), list];
  }));
  if (!parts.length) box.replaceChildren(make("p", { class: "empty", text: "Not yet." }));
}

async function ranges() {
  const found = await ask(`${base}/ranges?offset=${rangeOffset}&limit=${RANGES}`);
  const heads = [
    { text: "Part" }, { text: "State" }, { text: "From", long: true }, { text: "Up to", long: true }, { text: "Planned", number: true },
    { text: "Done", number: true }, { text: "Failed", number: true }, { text: "Rate", number: true }, { text: "Time", number: true },
  ];
  const rows = found.rows.map((row) => [
    `${row.number}: ${row.label}`, make("span", { class: `badge ${row.state}`, text: row.state }), row.from, row.upto,
    count(row.planned), count(row.done), row.failed ? count(row.failed) : "", row.rate ? `${count(row.rate)}/s` : "", span(row.seconds),
  ]);
  table(byId("ranges"), "Parts of the run", heads, rows, "They are not cut yet.");
  pages(byId("range-pages"), rangeOffset, RANGES, found.total, (to) => {
    rangeOffset = to;
    ranges().catch(() => {});
  });
}

async function look() {
  const seen = await ask(base);
  header(seen);
  phases(seen);
  workers(seen);
  proof(seen);
  setText(byId("ranges-summary"), `${count(seen.ranges.done)} of ${count(seen.ranges.total)} ${seen.ranges.noun} done`);
  const part = byId("ranges-part");
  if (turn === 0 && seen.ranges.total && seen.ranges.total <= RANGES) part.open = true;
  byId("map-part").hidden = !seen.chunks;
  if (turn % 2 === 0 || !seen.live) {
    if (seen.chunks) map.show(await ask(`${base}/chunks`));
    await failures.refresh();
    if (part.open) await ranges();
  }
  turn += 1;
  return seen.live ? 2000 : 0;
}

byId("ranges-part").addEventListener("toggle", () => byId("ranges-part").open && ranges().catch(() => {}));
follow(() => map.draw());
repeat(look);
