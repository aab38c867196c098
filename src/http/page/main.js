// The whole page, again with each answer of /status.

const FEW = 2, MANY = 8, TIMEOUT = 5000, RATE_SPAN = 5000;
let state = null, silentSince = null, lastSeen = null, started = null;
const flows = new Map(), inSight = new Set();

// Bytes a second of each upstream, over the last seconds; null until two answers are there.
function ratesOf(s, at) {
  for (const u of s.upstreams) {
    const c = u.connections, flow = flows.get(u.name) || [];
    const last = flow.at(-1);
    if (last && (c.bytes_sent < last.sent || c.bytes_received < last.received)) flow.length = 0;
    flow.push({ at, sent: c.bytes_sent, received: c.bytes_received });
    while (flow.length > 2 && at - flow[1].at > RATE_SPAN) flow.shift();
    flows.set(u.name, flow);
  }
  if (flows.size > s.upstreams.length) {
    const names = new Set(s.upstreams.map(u => u.name));
    for (const name of flows.keys()) if (!names.has(name)) flows.delete(name);
  }
}

function rate(name) {
  const flow = flows.get(name);
  if (!flow || flow.length < 2) return null;
  const first = flow[0], last = flow.at(-1), seconds = (last.at - first.at) / 1000;
  return { sent: (last.sent - first.sent) / seconds, received: (last.received - first.received) / seconds };
}

const watcher = new IntersectionObserver(entries => {
  let fresh = false;
  for (const e of entries) {
    if (e.isIntersecting) { fresh = fresh || !inSight.has(e.target); inSight.add(e.target); } else inSight.delete(e.target);
  }
  if (fresh && state) { again(); soon(); }
}, { rootMargin: "300px" });

// What an answer in brief does not tell is kept from the last one that did.
function recall(u, before) {
  if (before && !u.events.length && !u.round_trips.length) {
    u.events = before.events;
    u.round_trips = before.round_trips;
    if (before.outages_total === u.outages_total) u.outages = before.outages.slice(0, -1).concat(u.outages);
  }
}

function drawUpstreams(s) {
  const box = byId("upstreams"), dense = s.upstreams.length > MANY;
  shownIf(byId("of-upstreams"), s.upstreams.length > 0);
  kind(box, dense ? "dense" : "");
  shownIf(byId("filter-label"), dense);
  shownIf(byId("trouble-label"), dense);
  const words = byId("filter").value.trim().toLowerCase(), troubled = byId("trouble").checked;
  let list = s.upstreams.filter(u => u.name.includes(words) && (!troubled || standing(u)[1] !== "good"));
  // Whoever is in trouble comes first; nothing moves under the keyboard.
  if (box.contains(document.activeElement) && box.byKey) {
    const order = new Map([...box.byKey.keys()].map((name, n) => [name, n]));
    list.sort((a, b) => (order.get(a.name) ?? 1e9) - (order.get(b.name) ?? 1e9));
  } else list.sort((a, b) => rank[standing(a)[1]] - rank[standing(b)[1]]);
  text(byId("shown"), list.length === s.upstreams.length ? (dense ? count(list.length) : "") : list.length + " of " + count(s.upstreams.length));
  children(box, list, u => u.name, u => {
    const card = newUpstream(u);
    watcher.observe(card);
    return card;
  });
  for (const card of inSight) if (!card.isConnected && box.byKey.get(card.name) !== card) { inSight.delete(card); watcher.unobserve(card); }
  for (const u of list) {
    const card = box.byKey.get(u.name);
    if (dense && !inSight.has(card)) continue;
    if (!card.fold) { furnish(card); open(card, false); }
    // What calls for a look is opened by itself, and closed by nobody but the reader.
    if (card.wanted === undefined && !card.body && !dense && (s.upstreams.length <= FEW || isNews(u))) open(card, true);
    drawUpstream(card, u, windowOf(s.uptime_seconds), rate(u.name));
  }
}

function drawSummary(s) {
  const down = s.upstreams.filter(u => !u.up && !u.draining), shaky = s.upstreams.filter(u => u.up && !u.draining && standing(u)[1] !== "good"), all = s.upstreams.length;
  const reload = s.config.last_reload, rejected = Boolean(reload && reload.outcome === "rejected");
  let tone = "good", words;
  if (!s.live) [tone, words] = ["bad", "everlink is stuck: a data loop has shown no sign of life for " + s.slowest_loop_seconds + " s"];
  else if (down.length) [tone, words] = ["bad", down.length === all ? (all === 1 ? "The upstream " + down[0].name + " is down" : "All " + all + " upstreams are down") : count(down.length) + " of " + count(all) + " upstreams " + (down.length === 1 ? "is" : "are") + " down"];
  else if (shaky.length) [tone, words] = ["warn", "All upstreams are up, " + (shaky.length === 1 ? shaky[0].name + " not wholly" : count(shaky.length) + " not wholly")];
  else if (all) words = all === 1 ? "The upstream " + s.upstreams[0].name + " is up" : "All " + count(all) + " upstreams are up";
  else if (s.gateway) words = "Gateway " + s.gateway.name + " holds " + many(s.gateway.sessions.length, "session");
  else [tone, words] = ["warn", "No upstreams are configured"];
  if (rejected && tone === "good") tone = "warn";
  icon(byId("mark"), tone);
  kind(byId("mark"), "mark " + tone);
  text(byId("verdict"), words);
  const causes = down.concat(shaky).slice(0, 3).map(u => ({ key: "u-" + u.name, name: u.name, why: causeWords(u, true), next: telling(u) }));
  const rest = down.length + shaky.length - causes.length;
  if (rest > 0) causes.push({ key: "rest", why: "and " + count(rest) + " more" });
  for (const u of s.upstreams.filter(u => u.drill)) {
    const d = u.drill, by = d.by_seconds ? " by " + span(d.by_seconds) : "";
    causes.push({ key: "drill-" + u.name, name: u.name, why: "a drill (" + d.kind + by + ") is on, link " + d.link + (d.endpoint ? " to " + d.endpoint : "") + ", for another " + span(d.left_seconds) });
  }
  if (s.draining) causes.push({ key: "drain", why: "everlink is draining: it serves those who are here and is about to leave" });
  if (rejected) causes.push({ key: "reload", why: "The last edit of " + s.config.path + " was rejected " + age(reload.age_seconds) + " ago; generation " + s.config.generation + " stays in force", lines: reload.lines });
  const last = s.upstreams.flatMap(u => u.outages.slice(-1).filter(o => o.until).map(o => ({ u, o, ago: o.from_age_seconds - o.duration_seconds }))).sort((a, b) => a.ago - b.ago)[0];
  if (!down.length && last) causes.push({ key: "last", name: last.u.name, why: "was down for " + span(last.o.duration_seconds) + ", until " + age(last.ago) + " ago", quiet: true });
  else if (!down.length && !shaky.length && all) causes.push({ key: "none", why: "No outage since " + (s.uptime_seconds < 86400 ? clockOf(s.started) : dateOf(s.started)), quiet: true });
  children(byId("causes"), causes, c => c.key, c => {
    const item = make("li"), line = make("span");
    item.why = make("span");
    if (c.name) {
      const link = make("a", "", c.name);
      link.href = "#u-" + c.name;
      line.append(link, " ");
    }
    line.append(item.why);
    item.append(line, item.wait = make("span", "wait"));
    if (c.lines) item.append(item.lines = make("pre", "mono"));
    return item;
  }, (item, c) => {
    text(item.why, (c.name && !c.quiet ? "– " : "") + c.why);
    if (item.lines) text(item.lines, c.lines.join("\n"));
    drawWait(item.wait, c.next, "attempt");
    kind(item, c.quiet ? "dim" : "");
  });
  drawSums(s, down.length);
}

function drawSums(s, down) {
  const box = byId("sums"), total = f => s.upstreams.reduce((n, u) => n + f(u), 0), all = s.upstreams.length;
  shownIf(box, all > 0);
  if (!all) return;
  const c = box.cells || (box.cells = { up: cell("Upstreams up"), clients: cell("Clients"), sent: cell("Sent"), received: cell("Received"), again: cell("Reconnects"), outages: cell("Outages"), saved: cell("Streams saved") });
  if (!box.firstChild) box.append(...Object.values(c));
  fill(c.up, count(all - down) + " of " + count(all), total(u => u.links.filter(l => stateTone(l.state) === "good").length) + " of " + many(total(u => u.links.length), "link"));
  const waiting = total(u => u.connections.waiting), refused = total(u => sum(u.connections.refused));
  fill(c.clients, count(total(u => u.connections.open)) + " open", count(waiting) + " waiting, " + count(refused) + " refused", waiting || refused ? "warn" : "");
  const rates = s.upstreams.map(u => rate(u.name)).filter(Boolean), of = key => rates.reduce((n, r) => n + r[key], 0);
  fill(c.sent, rates.length ? "↑ " + size(of("sent")) + "/s" : "–", size(total(u => u.connections.bytes_sent)) + " in all");
  fill(c.received, rates.length ? "↓ " + size(of("received")) + "/s" : "–", size(total(u => u.connections.bytes_received)) + " in all");
  fill(c.again, count(total(u => u.reconnects)), many(total(u => sum(u.losses)), "loss", "losses") + " of links");
  fill(c.outages, count(total(u => u.outages_total)), "without a link for " + span(total(u => u.downtime_seconds)));
  shownIf(c.saved, s.upstreams.some(u => u.mode !== "direct"));
  fill(c.saved, count(total(u => u.streams_saved)), "that outlived their link");
}

function drawConfig(s) {
  const box = byId("of-config"), c = s.config, r = c.last_reload;
  shownIf(box, true);
  if (!box.line) {
    const title = make("h2", "", "Configuration");
    title.id = "config-title";
    Object.assign(box, { line: make("div", "line"), path: make("span", "mono"), generation: make("span", "dim"), reload: make("span"), lines: make("pre", "mono") });
    box.line.append(title, box.path, box.generation, box.reload);
    box.append(box.line, box.lines);
  }
  text(box.path, c.path);
  text(box.generation, "generation " + c.generation + (c.hash ? " · content " + c.hash : ""));
  if (r) badge(box.reload, r.outcome === "rejected" ? "bad" : "good", r.outcome === "rejected" ? "bad" : "good", "last reload " + r.outcome + ", " + age(r.age_seconds) + " ago");
  else badge(box.reload, "dim", "dim", "not reloaded since the start");
  shownIf(box.lines, Boolean(r && r.lines.length));
  text(box.lines, r ? r.lines.join("\n") : "");
}

function favicon(tone) {
  if (favicon.shown === tone) return;
  favicon.shown = tone;
  const colour = { good: "%2335a86d", warn: "%23d08a00", bad: "%23dc3d45" }[tone], shape = { good: "M4.9 8.3l2.1 2.1 4.1-4.5", warn: "M8 4v5M8 11.6v.2", bad: "M5.6 5.6l4.8 4.8m0-4.8-4.8 4.8" }[tone];
  byId("icon").href = "data:image/svg+xml,<svg xmlns='" + vector + "' viewBox='0 0 16 16'><circle cx='8' cy='8' r='8' fill='" + colour + "'/><path d='" + shape + "' fill='none' stroke='white' stroke-width='2'/></svg>";
}

function again() {
  const s = state;
  if (!s) return;
  const [shape, tone, word] = !s.live ? ["bad", "bad", "Stuck"] : s.draining ? ["dim", "warn", "Draining"] : s.ready ? ["good", "good", "Ready"] : ["bad", "bad", "Not ready"];
  badge(byId("health"), shape, tone, word);
  text(byId("about"), "version " + s.version + (s.revision && s.revision !== "unknown" ? " (" + s.revision.slice(0, 12) + ")" : "") + " · up for " + age(s.uptime_seconds));
  drawSummary(s);
  drawUpstreams(s);
  drawGateway(byId("of-gateway"), s.gateway);
  drawConfig(s);
  const down = s.upstreams.filter(u => !u.up && !u.draining).length;
  document.title = (silentSince ? "✕ no answer · " : down ? "✕ " + down + " down · " : "") + "everlink";
  favicon(silentSince || down || !s.live ? "bad" : s.upstreams.some(u => standing(u)[1] !== "good") ? "warn" : "good");
}

function told(answer) {
  const before = new Map(state ? state.upstreams.map(u => [u.name, u]) : []);
  for (const u of answer.upstreams) recall(u, before.get(u.name));
  if (started && started !== answer.started) flows.clear();
  started = answer.started;
  ratesOf(answer, performance.now());
  state = answer;
}

// Silence is said at once, with since when; what is shown stays, dimmed.
function silence(why) {
  if (!silentSince) silentSince = new Date();
  text(byId("gone"), "everlink does not answer since " + clockOf(silentSince) + " (" + age((Date.now() - silentSince) / 1000) + "): " + why
    + (lastSeen ? ". What is shown is from " + clockOf(lastSeen) + "." : "."));
  kind(byId("main"), "stale");
  liveness("off", "no answer");
  again();
  document.title = "✕ no answer · everlink";
  favicon("bad");
}

function heard() {
  silentSince = null;
  lastSeen = new Date();
  text(byId("gone"), "");
  kind(byId("main"), "");
}

function liveness(how, words) {
  text(byId("beat"), words);
  kind(byId("beat"), "beat " + how);
}

// What is asked for: all of a few upstreams; of many the history of those in sight only.
function question() {
  if (state && state.upstreams.length <= MANY) return "status";
  const names = [...inSight].slice(0, 60).map(card => card.name);
  return "status?brief" + (names.length ? "&whole=" + names.join(",") : "");
}

let timer = null, asking = false;
function soon() {
  clearTimeout(timer);
  timer = setTimeout(poll, 50);
}

async function poll() {
  clearTimeout(timer);
  if (asking) return;
  if (document.hidden) return liveness("held", "paused");
  asking = true;
  const began = performance.now();
  let fresh = null, why = "";
  try {
    const answer = await fetch(question(), { cache: "no-store", signal: AbortSignal.timeout(TIMEOUT) });
    if (!answer.ok) throw new Error("HTTP " + answer.status + ", " + (await answer.text()).trim().slice(0, 200));
    fresh = await answer.json();
  } catch (error) {
    why = error.name === "TimeoutError" ? "no answer within " + TIMEOUT / 1000 + " s" : error.message;
  }
  asking = false;
  const first = !state;
  // Once a second; less often where an answer is dear.
  const next = () => {
    const cost = performance.now() - began;
    timer = setTimeout(poll, first && fresh ? 0 : silentSince ? 1000 : Math.min(10000, Math.max(1000 - cost, 6 * cost, 200)));
  };
  try {
    if (fresh) show(fresh); else silence(why);
  } finally {
    next();
  }
}

function show(fresh) {
  heard();
  told(fresh);
  // A selection someone is about to copy is worth more than a fresh second.
  const selected = String(getSelection() ?? "") !== "";
  if (!selected) again();
  liveness(selected ? "held" : "pulse", selected ? "held while text is selected" : "live");
}

document.addEventListener("visibilitychange", () => { if (document.hidden) liveness("held", "paused"); else poll(); });
byId("filter").addEventListener("input", again);
byId("trouble").addEventListener("change", again);
byId("window").append(new Option("auto", 0), ...windows.map(([words, seconds]) => new Option(words, seconds)));
byId("window").addEventListener("change", event => { chosen = Number(event.target.value); again(); });
poll();
