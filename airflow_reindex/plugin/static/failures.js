// The table of what failed: sorted, filtered and cut into pages by the server.
import { byId, make, pages, setText, table } from "./dom.js";
import { count } from "./format.js";
import { ask, complain, Refused } from "./server.js";

const LIMIT = 100;
const KINDS = 8;

export class FailureTable {
  constructor(base) {
    Object.assign(this, { base, offset: 0, sort: "chunk", order: "asc", asked: 0 });
    let pause = 0;
    byId("q").addEventListener("input", () => {
      clearTimeout(pause);
      pause = setTimeout(() => this.again(), 300);
    });
    byId("filter").addEventListener("submit", (event) => event.preventDefault());
    for (const name of ["kind", "worker"]) byId(name).addEventListener("change", () => this.again());
  }

  search(text) {
    byId("q").value = text;
    this.again();
    byId("failures-part").scrollIntoView();
  }

  again(offset = 0) {
    this.offset = offset;
    // Asked for by the reader: an error is shown at once, and the next turn of the page tries again.
    this.refresh().catch((error) => error instanceof Refused || complain(`Connection lost, trying again: ${error.message}`));
  }

  query() {
    const wanted = { sort: this.sort, order: this.order, q: byId("q").value, kind: byId("kind").value, worker: byId("worker").value };
    return new URLSearchParams(Object.entries(wanted).filter(([, value]) => value));
  }

  async refresh() {
    const mine = (this.asked += 1);
    const query = this.query();
    const found = await ask(`${this.base}/failures?${query}&offset=${this.offset}&limit=${LIMIT}`);
    // A later question has overtaken this one.
    if (mine !== this.asked) return;
    byId("csv").href = `${this.base}/failures.csv?${query}`;
    setText(byId("failures-title"), found.total ? `Failures (${count(found.total)})` : "Failures");
    byId("filter").hidden = found.total === 0;
    this.groups(found.kinds);
    options(byId("kind"), found.kinds.map(({ kind, count: n }) => [kind, `${kind} (${count(n)})`]));
    options(byId("worker"), found.workers.map((name) => [name, name]));
    this.show(found);
    pages(byId("failure-pages"), this.offset, LIMIT, found.matched, (to) => this.again(to));
  }

  // The commonest kinds as buttons; the list above has the others, too.
  groups(kinds) {
    const box = byId("kinds");
    const chosen = byId("kind").value;
    const shown = JSON.stringify([kinds, chosen]);
    if (box.dataset.shown === shown) return;
    box.dataset.shown = shown;
    const focused = box.contains(document.activeElement) ? document.activeElement.dataset.kind : null;
    box.replaceChildren(...kinds.slice(0, KINDS).map(({ kind, count: n }) => make("li", {}, make("button", {
      type: "button", "aria-pressed": String(kind === chosen), "data-kind": kind, text: `${count(n)} × ${kind}`,
      onclick: () => this.only(kind === chosen ? "" : kind),
    }))));
    if (focused !== null) box.querySelector(`button[data-kind="${CSS.escape(focused)}"]`)?.focus();
  }

  only(kind) {
    const select = byId("kind");
    if (kind && ![...select.options].some((option) => option.value === kind)) select.append(make("option", { value: kind, text: kind }));
    select.value = kind;
    this.again();
  }

  show(found) {
    const columns = ["chunk", "worker", "kind", "message"];
    const heads = columns.map((name) => ({
      text: found.columns[name],
      long: name === "message",
      sort: this.sort === name ? this.order : undefined,
      onsort: () => {
        this.order = this.sort === name && this.order === "asc" ? "desc" : "asc";
        this.sort = name;
        this.again();
      },
    }));
    const rows = found.rows.map((row) => columns.map((name) => String(row[name] ?? "")));
    table(byId("failures"), "Failures", heads, rows, found.total ? "Nothing matches the filter." : "Nothing has failed.");
  }
}

function options(select, entries) {
  const chosen = select.value;
  const all = [["", "all"], ...entries];
  if (chosen && !all.some(([value]) => value === chosen)) all.push([chosen, `${chosen} (0)`]);
  const shown = JSON.stringify(all);
  // Its list is not rebuilt while somebody has it open.
  if (select.dataset.shown === shown || document.activeElement === select) return;
  select.dataset.shown = shown;
  select.replaceChildren(...all.map(([value, text]) => make("option", { value, text })));
  select.value = chosen;
}
