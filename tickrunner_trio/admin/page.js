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
    this.result = this.line("Asked for", "result");
    this.result.said.setAttribute("role", "status");
    this.cluster = new Cluster(this);
    const main = element("tr", { role: "row", class: "service" },
      element("th", { role: "rowheader", scope: "row" }, ...breakable(name), this.every),
      element("td", { role: "cell", class: "state" }, this.badge),
      this.success, this.failures, this.took, this.next, this.holder,
      element("td", { role: "cell", class: "action" }, this.button));
    this.detail = element("tr", { role: "row", class: "detail" },
      element("td", { role: "cell", colspan: "8" }, this.error.line, this.cluster.element, this.result.line));
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
    this.cluster.update(service);
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
    this.cluster.tick();
  }

  layOut() {
    show(this.detail, !(this.error.line.hidden && this.result.line.hidden && this.cluster.element.hidden));
  }

  async force() {
    if (this.button.getAttribute("aria-disabled") === "true") return;
    say(this.button, "Ticking\u2026");
    this.tell("a tick, not done yet", "");
    await this.post(this.button, "tick", {}, (report) => this.tell(`tick: ${outcome(report)}`, report.outcome));
    say(this.button, "Tick now");
  }

  // Ask for something; one button asks once at a time. Returns whether it was done.
  async post(button, what, said, then) {
    if (button.getAttribute("aria-disabled") === "true") return false;
    button.setAttribute("aria-disabled", "true");
    try {
      const answer = await ask(`services/${this.name}/${what}`, { method: "POST", body: JSON.stringify(said) });
      const body = await answer.json();
      if (answer.ok) then(body);
      else this.tell(body.error, "refused");
      return answer.ok;
    } catch (error) {
      this.tell(`the server did not answer; what came of the ${what} is in its logs`, "refused");
      return false;
    } finally {
      button.setAttribute("aria-disabled", "false");
    }
  }

  tell(text, came) {
    say(this.result.said, text);
    this.result.line.dataset.outcome = came;
    show(this.result.line, true);
    this.layOut();
  }
}

// What the ledger knows of the service, over all replicas, and what it lets one do: there only where there is a ledger.
class Cluster {
  constructor(row) {
    this.row = row;
    this.known = row.line("All replicas", "cluster");
    this.paused = row.line("Paused", "paused");
    const button = (text, act) => {
      const made = element("button", { type: "button", class: "small", "aria-label": `${text}: ${row.name}` }, text);
      made.addEventListener("click", act);
      return made;
    };
    this.trigger = button("Trigger", () => row.post(this.trigger, "trigger", {},
      () => row.tell("trigger: the next free replica runs it", "triggered")));
    this.pause = button("Pause", () => this.ask(true));
    this.resume = button("Resume", () => row.post(this.resume, "resume", {}, () => row.tell("resumed", "resumed")));
    this.runs = button("Last runs", () => this.showRuns());
    this.runs.setAttribute("aria-expanded", "false");
    this.reason = element("input", { type: "text", maxlength: "200", autocomplete: "off", "aria-label": `Why pause ${row.name}?`, placeholder: "Why?" });
    this.doPause = element("button", { type: "submit", class: "small", "aria-label": `Pause it: ${row.name}` }, "Pause it");
    this.form = element("form", { class: "pausing" }, this.reason, this.doPause, button("Do not pause", () => this.ask(false)));
    this.form.addEventListener("submit", (event) => { event.preventDefault(); this.sendPause(); });
    this.list = element("ol", { class: "runs" });
    this.element = element("div", { class: "ledger" }, this.known.line, this.paused.line,
      element("p", { class: "operations" }, this.trigger, this.pause, this.resume, this.runs), this.form, this.list);
    for (const node of [this.element, this.form, this.list]) show(node, false);
  }

  update({ ledger, cluster }) {
    this.now = cluster;
    show(this.element, ledger);
    show(this.known.line, true);
    const paused = Boolean(cluster && cluster.paused_at);
    show(this.paused.line, paused);
    const focused = document.activeElement; // it goes on to the button that takes the place of what is hidden
    const loses = paused ? focused === this.pause || this.form.contains(focused) : focused === this.resume;
    show(this.resume, paused);
    show(this.pause, !paused);
    if (paused) show(this.form, false);
    if (loses) (paused ? this.resume : this.pause).focus();
    for (const each of [this.trigger, this.pause, this.resume, this.runs]) each.disabled = !ledger;
  }

  tick() {
    say(this.known.said, this.now ? ofAll(this.now) : "not known now");
    if (this.now?.paused_at) say(this.paused.said, `${ago(this.now.paused_at)} by ${this.now.paused_by || "somebody"}: ${this.now.pause_reason || "no reason given"}`);
  }

  ask(isAsked) {
    const wasShown = !this.form.hidden;
    show(this.form, isAsked);
    if (isAsked) this.reason.focus();
    else if (wasShown && this.form.contains(document.activeElement)) this.pause.focus();
  }

  async sendPause() {
    const done = await this.row.post(this.doPause, "pause", { reason: this.reason.value }, () => this.row.tell("paused on all replicas", "paused"));
    if (!done) return;
    this.reason.value = "";
    show(this.form, false);
    show(this.resume, true);
    show(this.pause, false);
    this.resume.focus();
  }

  async showRuns() {
    const isOpen = this.runs.getAttribute("aria-expanded") === "true";
    this.runs.setAttribute("aria-expanded", String(!isOpen));
    show(this.list, !isOpen);
    if (isOpen) return;
    this.list.replaceChildren(element("li", {}, "asking\u2026"));
    let lines = ["the server did not answer"];
    try {
      const answer = await ask(`services/${this.row.name}/history`);
      const body = await answer.json();
      lines = answer.ok ? body.runs.map(ofRun) : [body.error];
    } catch (error) {
      // said below
    }
    this.list.replaceChildren(...(lines.length ? lines : ["no run of it is over yet"]).map((text) => element("li", {}, text)));
  }
}

function ofAll(known) {
  if (known.state === "unavailable") return `not known now: ${known.last_error}`; // the database of another service tells
  const said = [known.state, known.last_success ? `last success ${ago(known.last_success)}` : "no success yet"];
  if (known.consecutive_failures) said.push(`${known.consecutive_failures} failed in a row: ${known.last_error || "no text"}`);
  if (known.working_since) said.push(`${known.holder || "somebody"} at work for ${span(Math.max(0, secondsSince(known.working_since)))}`);
  else if (known.holder) said.push(`last run by ${known.holder}`);
  said.push(known.next_due && secondsSince(known.next_due) < 0 ? `due ${until(known.next_due)}` : "due now");
  if (known.triggered_at) said.push(`triggered ${ago(known.triggered_at)} by ${known.triggered_by || "somebody"}${known.working_since && Date.parse(known.working_since) >= Date.parse(known.triggered_at) ? "" : ", not begun"}`);
  return said.join(" \u00b7 ");
}

function ofRun(run) {
  const took = run.ended_at ? ` in ${seconds((Date.parse(run.ended_at) - Date.parse(run.started_at)) / 1000)}` : "";
  const came = run.ended_at ? (run.outcome ?? "an outcome of a newer release").replaceAll("_", " ") : "not ended";
  const said = [new Date(run.started_at).toLocaleString(), came + took, run.replica, `epoch ${run.epoch}`];
  return [...said, ...(run.error ? [run.error] : [])].join(" \u00b7 ");
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
    case "gated": return `gated, at ${at}: ${report.error || "should_run said no"}`;
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
