// Asks the server, says what is wrong when it does not answer, and asks again.
import { byId, make } from "./dom.js";

export class Refused extends Error {}

export async function ask(url) {
  const answer = await fetch(url, { headers: { Accept: "application/json" }, credentials: "same-origin" });
  if (answer.ok) return answer.json();
  if (answer.status === 401 || answer.status === 403) {
    // Airflow may lie below a path of its host.
    const root = window.location.pathname.split("/reindex/")[0];
    const where = `${root}/api/v2/auth/login?next=${encodeURIComponent(window.location.href)}`;
    complain("You are not signed in, or may not see this run. ", make("a", { href: where, target: "_top", text: "Sign in" }));
    throw new Refused();
  }
  const said = await answer.json().catch(() => ({}));
  const why = typeof said.detail === "string" ? said.detail : `the server answered ${answer.status}`;
  if (answer.status === 404) {
    complain(why);
    throw new Refused();
  }
  throw new Error(why);
}

export function complain(...parts) {
  const box = byId("problem");
  box.hidden = parts.length === 0;
  box.replaceChildren(...parts);
}

// Calls `once` again and again, until it says how long to wait no more; slower while the server is away or nobody looks.
export function repeat(once) {
  let misses = 0;
  const turn = async () => {
    let pause;
    if (document.hidden) pause = 1000;
    else {
      try {
        pause = await once();
        if (misses) complain();
        misses = 0;
      } catch (error) {
        if (error instanceof Refused) return;
        misses += 1;
        complain(`Connection lost, trying again: ${error.message}`);
        pause = Math.min(30000, 1000 * 2 ** misses);
      }
    }
    if (pause) setTimeout(turn, pause);
  };
  turn();
}
