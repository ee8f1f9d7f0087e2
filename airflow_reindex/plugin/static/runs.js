// The list of runs.
import { bar, byId, link, make, pages, table } from "./dom.js";
import { between, moment, span } from "./format.js";
import { ask, repeat } from "./server.js";
import { follow } from "./theme.js";

const LIMIT = 50;
let offset = 0;

function choices(dags) {
  const select = byId("dag");
  const shown = JSON.stringify(dags);
  if (select.dataset.shown === shown || document.activeElement === select) return;
  const chosen = select.value;
  select.dataset.shown = shown;
  select.replaceChildren(make("option", { value: "", text: "all" }), ...dags.map((dag) => make("option", { value: dag, text: dag })));
  select.value = chosen;
}

async function look() {
  const query = new URLSearchParams({ offset, limit: LIMIT, dag_id: byId("dag").value });
  const found = await ask(`runs?${query}`);
  choices(found.dags);
  const heads = [
    { text: "Run" }, { text: "DAG" }, { text: "Status" }, { text: "From → to", long: true }, { text: "Started" },
    { text: "Time", number: true }, { text: "Progress" },
  ];
  const rows = found.runs.map((run) => [
    inside(run), run.dag_id, make("span", { class: `badge ${run.status}`, text: run.status }), `${run.source} → ${run.dest}`,
    moment(run.started_at), span(between(run.started_at, run.ended_at)),
    run.progress === null ? "" : bar(run.progress, `Progress of ${run.run_id}`),
  ]);
  table(byId("runs"), "Runs", heads, rows, "There are no runs yet.");
  pages(byId("pages"), offset, LIMIT, found.total, (to) => {
    offset = to;
    look().catch(() => {});
  });
  return 5000;
}

// Within Airflow's frame the page of a run opens in the frame.
function inside(run) {
  const found = link(run.page, run.run_id) ?? make("span", { text: run.run_id });
  found.removeAttribute("target");
  return found;
}

byId("dag").addEventListener("change", () => {
  offset = 0;
  look().catch(() => {});
});
follow();
repeat(look);
