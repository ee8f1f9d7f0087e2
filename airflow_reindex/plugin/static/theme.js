// The theme that Airflow's own pages have.

const system = window.matchMedia("(prefers-color-scheme: dark)");

export function wanted() {
  const chosen = (localStorage.getItem("theme") ?? "").replaceAll('"', "");
  return chosen === "dark" || chosen === "light" ? chosen : system.matches ? "dark" : "light";
}

export function follow(changed = () => {}) {
  const apply = () => {
    document.documentElement.dataset.theme = wanted();
    changed();
  };
  window.addEventListener("storage", apply);
  system.addEventListener("change", apply);
  apply();
}
