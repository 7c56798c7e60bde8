"use strict";
// One stream of events in, one table out. All text is set as text: nothing here makes HTML of what a server says.

const base = location.pathname.replace(/\/*$/, "/") + "api/";
const $ = (id) => document.getElementById(id);
const STORED = "tickrunner-token"; // of this tab only
const SILENCE = 25_000; // ms without a word from the server, which speaks every 10 s, until it counts as gone

let token = sessionStorage.getItem(STORED) || "";
let skew = 0; // ms that the server's clock is ahead of this one
let stream = null; // aborts the stream that is open
let rows = new Map();
let supervisor = ""; // its state, as it was last heard of

// -- Words --------------------------------------------------------------------------------------------------------

function seconds(value) {
  if (value < 0.001) return "< 1 ms";
  if (value < 0.0995) return `${Math.round(value * 1000)} ms`;
  if (value < 9.95) return `${value.toFixed(1)} s`;
  return span(value);
}

// The two largest units, such as "2 min 5 s"; the second only if there is some of it.
function span(value) {
  let rest = Math.round(value);
  const said = [];
  for (const [unit, length] of [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]]) {
    const count = Math.floor(rest / length);
    rest -= count * length;
    if (count > 0) said.push(`${count} ${unit}`);
    if (said.length === 2 || (said.length === 1 && count === 0)) break;
  }
  return said.join(" ") || "0 s";
}

const every = (value) => (value < 60 ? `every ${Number(value.toPrecision(3))} s` : `every ${span(value)}`);

const secondsSince = (time) => (Date.now() + skew - Date.parse(time)) / 1000;
const ago = (time) => (secondsSince(time) < 1 ? "just now" : `${span(secondsSince(time))} ago`);
const until = (time) => (secondsSince(time) > -0.5 ? "due" : `in ${span(-secondsSince(time))}`);

function described(holder) {
  const where = holder.client_address ? ` at ${holder.client_address}` : "";
  return { name: holder.application_name || "a session without a name", more: `backend ${holder.pid}${where}` };
}

// -- The table ----------------------------------------------------------------------------------------------------

function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") made.className = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

function breakable(name) {
  return name.split(/(?<=_)/).flatMap((part) => [part, document.createElement("wbr")]);
}

function icon() {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("aria-hidden", "true");
  svg.append(document.createElementNS("http://www.w3.org/2000/svg", "use"));
  return svg;
}

// Only what differs is touched: a screen reader keeps its place, a button its focus, a reader the selection.
function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function show(node, isShown) {
  if (node.hidden === isShown) node.hidden = !isShown;
}

class Row {
  constructor(name) {
    const cell = (label, kind = "") => element("td", { role: "cell", "data-label": label, class: kind });
    this.name = name;
    this.every = element("span", { class: "sub" });
    this.badgeText = element("span");
    this.badge = element("span", { class: "badge" }, icon(), this.badgeText);
    this.success = cell("Last success");
    this.failures = cell("Failures in a row", "number");
    this.took = cell("Last took", "number");
    this.next = cell("Next slot", "number");
    this.holderName = element("span");
    this.holderMore = element("span", { class: "sub" });
    this.holder = cell("Lock held by", "holder");
    this.holder.append(this.holderName, this.holderMore);
    this.button = element("button", { type: "button", "aria-label": `Tick now: ${name}` }, "Tick now");
    this.button.addEventListener("click", () => this.force());
    this.error = this.line("Last error", "error");
    this.result = this.line("Forced tick", "result");
    this.result.said.setAttribute("role", "status");
    const main = element("tr", { role: "row", class: "service" },
      element("th", { role: "rowheader", scope: "row" }, ...breakable(name), this.every),
      element("td", { role: "cell", class: "state" }, this.badge),
      this.success, this.failures, this.took, this.next, this.holder,
      element("td", { role: "cell", class: "action" }, this.button));
    this.detail = element("tr", { role: "row", class: "detail" },
      element("td", { role: "cell", colspan: "8" }, this.error.line, this.result.line));
    this.body = element("tbody", { role: "rowgroup", "data-service": name }, main, this.detail);
    show(this.detail, false);
  }

  line(what, kind) {
    const said = element("span", { class: "said", dir: "auto" });
    const line = element("p", { class: kind }, element("span", { class: "what" }, what), said);
    show(line, false);
    return { line, said };
  }

  update(service) {
    if (this.service && this.service.state !== service.state) announce(`${service.name} is ${service.state}`);
    this.service = service;
    if (this.body.dataset.state !== service.state) {
      this.body.dataset.state = service.state;
      this.badge.querySelector("use").setAttribute("href", `#i-${service.state}`);
    }
    say(this.badgeText, service.state);
    say(this.every, every(service.interval));
    say(this.failures, String(service.consecutive_failures));
    this.failures.classList.toggle("some", service.consecutive_failures > 0);
    this.updateHolder(service);
    say(this.error.said, service.last_error);
    show(this.error.line, service.last_error !== "");
    this.tick();
    this.layOut();
  }

  updateHolder({ lock, holder }) {
    const words = { held_here: "this replica", held_elsewhere: "", free: "nobody", unknown: "not known" };
    const them = holder ? described(holder) : { name: words[lock], more: "" };
    say(this.holderName, lock === "held_here" ? words.held_here : them.name);
    say(this.holderMore, them.more);
    this.holder.classList.toggle("none", lock === "free" || lock === "unknown");
  }

  // What changes by itself as time goes on.
  tick() {
    const { last_success, next_slot, statistics } = this.service;
    say(this.success, last_success ? ago(last_success) : "never");
    this.success.title = last_success ? new Date(last_success).toLocaleString() : "";
    const { working_since, last_duration } = statistics;
    say(this.took, working_since ? `${seconds(Math.max(0, secondsSince(working_since)))} so far`
      : last_duration === null ? "\u2013" : seconds(last_duration));
    say(this.next, next_slot ? until(next_slot) : "\u2013");
  }

  layOut() {
    show(this.detail, !(this.error.line.hidden && this.result.line.hidden));
  }

  async force() {
    if (this.button.getAttribute("aria-disabled") === "true") return;
    this.button.setAttribute("aria-disabled", "true");
    say(this.button, "Ticking\u2026");
    this.tell("asked for, not done yet", "");
    try {
      const answer = await ask(`services/${this.name}/tick`, { method: "POST" });
      const body = await answer.json();
      if (answer.ok) this.tell(outcome(body), body.outcome);
      else this.tell(body.error, "refused");
    } catch (error) {
      this.tell("the server did not answer; what came of the tick is in its logs", "refused");
    } finally {
      this.button.setAttribute("aria-disabled", "false");
      say(this.button, "Tick now");
    }
  }

  tell(text, came) {
    say(this.result.said, text);
    this.result.line.dataset.outcome = came;
    show(this.result.line, true);
    this.layOut();
  }
}

function outcome(report) {
  const at = new Date(report.scheduled_at).toLocaleTimeString();
  const error = report.error ? `: ${report.error}` : "";
  switch (report.outcome) {
    case "success": return `success in ${seconds(report.duration)}, at ${at}`;
    case "busy": {
      const holder = report.holder && described(report.holder);
      return `busy, at ${at}: ` + (holder ? `${holder.name} (${holder.more}) holds the lock` : "somebody else holds the lock");
    }
    case "gated": return `gated, at ${at}: should_run said no`;
    default: return `${report.outcome.replaceAll("_", " ")} after ${seconds(report.duration)}, at ${at}${error}`;
  }
}

function announce(text) {
  say($("announcements"), text);
}

function showBoard(board) {
  supervisor = board.supervisor;
  const table = document.querySelector("table");
  const names = board.services.map((service) => service.name);
  if (names.join() !== [...rows.keys()].join()) {
    for (const row of rows.values()) row.body.remove();
    rows = new Map(names.map((name) => [name, new Row(name)]));
    for (const row of rows.values()) table.append(row.body);
  }
  for (const service of board.services) rows.get(service.name).update(service);
  show($("empty"), names.length === 0);
  show(table, names.length > 0);
  summarise(board);
}

function summarise({ supervisor, services }) {
  const bad = services.filter(({ state }) => state === "failing" || state === "stalled" || state === "unavailable");
  const said = [`${services.length} ${services.length === 1 ? "service" : "services"}`, `supervisor ${supervisor}`].join(", ");
  const trouble = bad.length ? `${bad.length} in trouble` : services.length ? "none in trouble" : "";
  const summary = $("summary");
  if (summary.dataset.said !== said + trouble) {
    summary.dataset.said = said + trouble;
    const last = bad.length ? element("strong", {}, trouble) : trouble;
    summary.replaceChildren(said, ...(trouble ? [", ", last] : []));
  }
  document.title = bad.length ? `${bad.length} in trouble \u2013 tickrunner` : "tickrunner";
}

// -- The server ---------------------------------------------------------------------------------------------------

function ask(path, options = {}) {
  return fetch(base + path, { ...options, cache: "no-store", credentials: "omit", headers: { Authorization: `Bearer ${token}` } });
}

function connection(state, text) {
  $("connection").dataset.state = state;
  say($("connection-text"), text);
  $("board").classList.toggle("stale", state !== "live");
}

// Read events until the stream ends; EventSource could not send the token.
async function read(answer, watched) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    watched();
    const events = (text + value).split("\n\n");
    text = events.pop();
    for (const event of events) {
      const fields = Object.fromEntries(event.split("\n").map((line) => [line.slice(0, line.indexOf(": ")), line.slice(line.indexOf(": ") + 2)]));
      if (fields.event === "clock") skew = Date.parse(JSON.parse(fields.data)) - Date.now();
      if (fields.event === "board") showBoard(JSON.parse(fields.data));
    }
  }
}

async function follow() {
  const mine = new AbortController();
  stream = mine;
  let patience = 1000;
  while (!mine.signal.aborted) {
    const attempt = new AbortController();
    const stop = () => attempt.abort();
    mine.signal.addEventListener("abort", stop);
    let silence = setTimeout(stop, SILENCE);
    const watched = () => { clearTimeout(silence); silence = setTimeout(stop, SILENCE); };
    let why = "connection lost";
    try {
      const answer = await ask("events", { signal: attempt.signal });
      if (answer.status === 401) return signIn("This is not the token of this process: look it up and try again.");
      if (answer.status === 403) return signIn((await answer.json()).error);
      if (answer.ok) {
        connection("live", "live");
        patience = 1000;
        await read(answer, watched);
      } else {
        why = `the server says ${answer.status}`;
      }
    } catch (error) {
      // Gone, or silent for too long: tried again below.
    } finally {
      clearTimeout(silence);
      mine.signal.removeEventListener("abort", stop);
    }
    if (mine.signal.aborted) return;
    connection("off", supervisor.startsWith("drain") ? "draining: no more ticks" : `${why}, trying again`);
    await new Promise((resolve) => setTimeout(resolve, patience));
    patience = Math.min(patience * 1.6, 10_000);
  }
}

// -- The token ----------------------------------------------------------------------------------------------------

function signIn(error = "") {
  stream?.abort();
  token = "";
  sessionStorage.removeItem(STORED);
  for (const row of rows.values()) row.body.remove();
  rows = new Map();
  for (const id of ["board", "connection", "forget"]) show($(id), false);
  $("summary").replaceChildren();
  delete $("summary").dataset.said;
  document.title = "tickrunner";
  show($("sign-in"), true);
  say($("sign-in-error"), error);
  $("token").setAttribute("aria-invalid", String(error !== ""));
  $("token").focus();
}

function begin(given) {
  token = given;
  sessionStorage.setItem(STORED, token);
  for (const id of ["board", "connection", "forget"]) show($(id), true);
  show($("sign-in"), false);
  connection("off", "connecting");
  follow();
}

$("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  const given = $("token").value.trim();
  $("token").value = "";
  say($("sign-in-error"), "");
  if (!/^[!-~]+$/.test(given)) signIn("A token is printable ASCII without spaces.");
  else begin(given);
});
$("forget").addEventListener("click", () => signIn());
setInterval(() => { for (const row of rows.values()) if (row.service) row.tick(); }, 500);

// A link may carry the token behind "#", which no browser sends; it does not stay in the address bar or the history.
function fromFragment() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given !== null) history.replaceState(null, "", location.pathname + location.search);
  return given;
}
window.addEventListener("hashchange", () => {
  const given = fromFragment();
  if (given) { stream?.abort(); begin(given); }
});
const given = fromFragment() || token;
if (given) begin(given);
else signIn();
