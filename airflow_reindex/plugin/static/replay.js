// Asks before it replays failed items.
import { byId } from "./dom.js";
import { complain } from "./server.js";
import { follow } from "./theme.js";

const [dag, run] = window.location.pathname.split("/").slice(-2);
byId("run").textContent = decodeURIComponent(run);
byId("back").href = `../../page/${dag}/${run}`;
byId("go").addEventListener("click", async () => {
  byId("go").disabled = true;
  const answer = await fetch(`../../run/${dag}/${run}/replay`, { method: "POST", headers: { "X-Requested-With": "reindex" } });
  const said = await answer.json().catch(() => ({}));
  if (answer.ok) window.location.assign(said.page);
  else {
    complain(typeof said.detail === "string" ? said.detail : `the server answered ${answer.status}`);
    byId("go").disabled = false;
  }
});
follow();
