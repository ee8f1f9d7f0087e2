// Every chunk as a cell, in the order of their numbers: coloured by state, and by rate where it was read.
import { byId, make } from "./dom.js";
import { count } from "./format.js";

const LABELS = { waiting: "waiting", reading: "being read", staged: "read", adopted: "taken over", failed: "failed" };

export class HeatMap {
  constructor(canvas, line, legend, picked) {
    Object.assign(this, { canvas, line, legend, picked, data: null, at: -1 });
    canvas.addEventListener("mousemove", (event) => this.point(this.hit(event)));
    canvas.addEventListener("click", (event) => this.pick(this.hit(event)));
    canvas.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.draw()).observe(canvas.parentElement);
  }

  show(data) {
    this.data = data;
    const rates = data.rate.filter((rate) => rate > 0).sort((a, b) => a - b);
    // The fastest and slowest few would leave no shades for the others.
    this.low = rates[Math.floor(rates.length * 0.05)] ?? 1;
    this.high = Math.max(rates[Math.floor(rates.length * 0.95)] ?? 1, this.low * 1.01);
    this.summarize();
    this.draw();
  }

  summarize() {
    const { states, state } = this.data;
    const counts = states.map((_, number) => state.reduce((sum, one) => sum + (one === number), 0));
    const entries = states.map((name, number) => [name, counts[number]]).filter(([, n]) => n > 0);
    this.legend.replaceChildren(...entries.map(([name, n]) =>
      make("li", {}, make("span", { class: `swatch ${name}` }), make("span", { text: `${LABELS[name] ?? name}: ${count(n)}` }))));
    if (entries.some(([name]) => name === "staged")) {
      this.legend.append(make("li", {}, make("span", { class: "ramp" }),
        make("span", { text: `read at ${count(this.low)} to ${count(this.high)} rows/s` })));
    }
    this.canvas.setAttribute("aria-label", `${count(state.length)} chunks: ${entries.map(([name, n]) => `${n} ${LABELS[name] ?? name}`).join(", ")}`);
  }

  draw() {
    if (!this.data) return;
    const width = this.canvas.parentElement.clientWidth;
    const total = this.data.chunk.length;
    if (!width || !total) return;
    this.size = total > 60000 ? 4 : total > 8000 ? 6 : total > 1000 ? 9 : 14;
    this.columns = Math.max(1, Math.min(total, Math.floor(width / this.size)));
    const height = Math.ceil(total / this.columns) * this.size;
    const dense = window.devicePixelRatio || 1;
    this.canvas.width = this.columns * this.size * dense;
    this.canvas.height = height * dense;
    this.canvas.style.width = `${this.columns * this.size}px`;
    this.canvas.style.height = `${height}px`;
    const pen = this.canvas.getContext("2d");
    pen.scale(dense, dense);
    const style = getComputedStyle(document.documentElement);
    const colours = this.data.states.map((name) => style.getPropertyValue(`--chunk-${name}`).trim());
    const staged = this.data.states.indexOf("staged");
    const ramp = [0, 1, 2, 3, 4].map((step) => style.getPropertyValue(`--rate-${step}`).trim());
    const gap = this.size > 5 ? 1 : 0;
    for (let number = 0; number < total; number += 1) {
      const state = this.data.state[number];
      pen.fillStyle = state === staged ? ramp[this.shade(this.data.rate[number])] : colours[state];
      const [x, y] = this.place(number);
      pen.fillRect(x, y, this.size - gap, this.size - gap);
    }
    if (this.at >= 0) {
      const [x, y] = this.place(this.at);
      pen.strokeStyle = style.getPropertyValue("--text").trim();
      pen.lineWidth = 2;
      pen.strokeRect(x, y, this.size - gap, this.size - gap);
    }
  }

  shade(rate) {
    if (!rate) return 2;
    const part = Math.log(rate / this.low) / Math.log(this.high / this.low);
    return Math.max(0, Math.min(4, Math.floor(part * 5)));
  }

  place(number) {
    return [(number % this.columns) * this.size, Math.floor(number / this.columns) * this.size];
  }

  hit(event) {
    const box = this.canvas.getBoundingClientRect();
    const column = Math.floor((event.clientX - box.left) / this.size);
    const number = Math.floor((event.clientY - box.top) / this.size) * this.columns + column;
    return column < this.columns && number < (this.data?.chunk.length ?? 0) ? number : -1;
  }

  key(event) {
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: this.columns, ArrowUp: -this.columns };
    if (event.key === "Enter") this.pick(this.at);
    if (!(event.key in steps) || !this.data) return;
    event.preventDefault();
    this.point(Math.max(0, Math.min(this.data.chunk.length - 1, this.at + steps[event.key])));
    this.draw();
  }

  point(number) {
    if (number < 0 || number === this.at) return;
    this.at = number;
    const { chunk, workers, worker, states, state, rows, rate } = this.data;
    const speed = rate[number] ? `, ${count(rate[number])} rows/s` : "";
    this.line.textContent = `Chunk ${chunk[number]}, ${workers[worker[number]]}: ${LABELS[states[state[number]]]}, ${count(rows[number])} rows${speed}`;
  }

  pick(number) {
    if (number >= 0 && this.data.states[this.data.state[number]] === "failed") this.picked(this.data.chunk[number]);
  }
}

export const heatMap = (picked) => new HeatMap(byId("map"), byId("cell"), byId("legend"), picked);
