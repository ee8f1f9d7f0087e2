// Elements made of data: text goes in as text, never as markup.

export const byId = (id) => document.getElementById(id);

export function make(name, options = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(options)) {
    if (key === "class") element.className = value;
    else if (key === "text") element.textContent = value;
    else if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value !== undefined && value !== null && value !== false) element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

// A link within this site only, whatever the data says.
export function link(href, text) {
  const good = typeof href === "string" && href.startsWith("/") && !href.startsWith("//");
  return good ? make("a", { href, target: "_top", text }) : null;
}

export function setText(element, text) {
  // Unchanged text is left alone: a selection in it stays.
  if (element.textContent !== text) element.textContent = text;
}

// Names and values; each pair stays together where lines break.
export function facts(list, entries) {
  const shown = JSON.stringify(entries);
  if (list.dataset.shown === shown) return;
  list.dataset.shown = shown;
  list.replaceChildren(...entries.map(([name, value]) => make("div", {}, make("dt", { text: name }), make("dd", { text: value }))));
}

// A table whose rows are arrays of texts or elements. Rows that show the same are left as they are.
export function table(box, caption, heads, rows, empty) {
  let found = box.querySelector("table");
  const headKey = JSON.stringify(heads.map((head) => [head.text, head.sort]));
  if (!found || found.dataset.heads !== headKey) {
    const focused = box.contains(document.activeElement) ? document.activeElement.dataset.column : null;
    found = make("table", {}, make("caption", { class: "unseen", text: caption }),
      make("thead", {}, make("tr", {}, ...heads.map(headCell))), make("tbody"));
    found.dataset.heads = headKey;
    box.replaceChildren(found);
    if (focused) box.querySelector(`button[data-column="${CSS.escape(focused)}"]`)?.focus();
  }
  const body = found.tBodies[0];
  const wanted = rows.length ? rows : [[{ span: heads.length, text: empty }]];
  wanted.forEach((cells, number) => {
    const key = JSON.stringify(cells, (_, value) => (value instanceof Element ? value.outerHTML : value));
    const present = body.rows[number];
    if (present?.dataset.key === key) return;
    const row = make("tr", { "data-key": key }, ...cells.map((cell, at) => bodyCell(cell, heads[at], at)));
    if (present) present.replaceWith(row);
    else body.append(row);
  });
  while (body.rows.length > wanted.length) body.lastElementChild.remove();
  scrollable(box, caption);
}

// What is wider than the window is scrolled with the keyboard, too; what is not is no stop on the way.
function scrollable(box, name) {
  const check = () => {
    const wide = box.scrollWidth > box.clientWidth;
    for (const [key, value] of Object.entries({ tabindex: "0", role: "group", "aria-label": name })) {
      if (wide) box.setAttribute(key, value);
      else box.removeAttribute(key);
    }
  };
  check();
  if (box.dataset.watched) return;
  box.dataset.watched = "yes";
  new ResizeObserver(check).observe(box);
}

function headCell(head) {
  const cell = make("th", { scope: "col", class: head.number ? "number" : "" });
  if (!head.onsort) cell.textContent = head.text;
  else {
    const sign = { asc: " ▲", desc: " ▼" }[head.sort] ?? "";
    cell.setAttribute("aria-sort", { asc: "ascending", desc: "descending" }[head.sort] ?? "none");
    cell.append(make("button", { type: "button", "data-column": head.text, onclick: head.onsort, text: head.text + sign }));
  }
  return cell;
}

function bodyCell(value, head, at) {
  if (value && value.span) return make("td", { colspan: value.span, class: "empty", text: value.text });
  const options = { class: head.number ? "number" : head.long ? "long" : "" };
  const cell = make(at === 0 ? "th" : "td", at === 0 ? { ...options, scope: "row" } : options);
  cell.append(value instanceof Element ? value : document.createTextNode(value ?? ""));
  return cell;
}

export function bar(value, label) {
  return make("progress", { max: 1, value: value ?? 0, "aria-label": label });
}

export function pages(box, offset, limit, total, go) {
  const last = Math.min(offset + limit, total);
  const text = total ? `${(offset + 1).toLocaleString("en")}–${last.toLocaleString("en")} of ${total.toLocaleString("en")}` : "";
  const key = `${text}`;
  if (box.dataset.shown === key) return;
  box.dataset.shown = key;
  const button = (name, to, off) => make("button", { type: "button", disabled: off ? "" : false, text: name, onclick: () => go(to) });
  box.replaceChildren(...(total > limit
    ? [button("Previous", Math.max(0, offset - limit), offset === 0), make("span", { text }), button("Next", offset + limit, last >= total)]
    : [make("span", { text })]));
}
