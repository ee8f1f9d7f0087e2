// Figures for people.

export const count = (value) => (value === null || value === undefined ? "" : Math.round(value).toLocaleString("en"));

export const rate = (value, unit) => (value ? `${count(value)} ${unit}/s` : "");

export function span(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${String(whole % 60).padStart(2, "0")} s`;
  return `${Math.floor(whole / 3600)} h ${String(Math.floor((whole % 3600) / 60)).padStart(2, "0")} min`;
}

export function eta(value) {
  if (!value) return "";
  return value.high > value.low * 1.05 ? `${span(value.seconds)} (${span(value.low)} to ${span(value.high)})` : span(value.seconds);
}

export function moment(text) {
  if (!text) return "";
  const time = new Date(text);
  return `${time.toISOString().slice(0, 19).replace("T", " ")} UTC`;
}

export const between = (begin, end) => (begin && end ? Math.max(0, (new Date(end) - new Date(begin)) / 1000) : null);

// Airflow has no word for a task whose turn has not come.
const NAMES = { none: "not yet", upstream_failed: "kept back", up_for_retry: "to be tried again" };

export const tasks = (states) => Object.entries(states).map(([state, number]) => `${number} ${NAMES[state] ?? state}`).join(", ");
