// The timeline of outages and the line of round trips.

const windows = [["2 min", 120], ["5 min", 300], ["15 min", 900], ["1 h", 3600], ["6 h", 21600], ["24 h", 86400], ["7 d", 604800]];
let chosen = 0;

// The time shown: as chosen, else the shortest that holds all there is, at most an hour.
function windowOf(uptime) {
  return chosen || (windows.slice(0, 4).find(([, seconds]) => uptime <= seconds) || windows[3])[1];
}

const windowWords = seconds => windows.find(([, s]) => s === seconds)[0];

// What is known of the last `whole` seconds: when it was up, down, not up for the first time yet, and where a link was lost.
function history(u, whole) {
  const parts = [], put = (kind, from, to, title) => {
    if (from > 0 && to < whole && from > to) parts.push({ kind, from: Math.min(from, whole), to: Math.max(to, 0), title });
  };
  const first = u.first_up_age_seconds;
  put("first", u.added_age_seconds, first === null ? 0 : first, "not up for the first time yet");
  // Outages past the bound are forgotten: what was before the oldest kept one is not known.
  const kept = u.outages.length, known = u.outages_total > kept ? (kept ? u.outages[0].from_age_seconds : 0) : first;
  let from = known, down = 0, times = 0;
  for (const o of u.outages) {
    const to = o.from_age_seconds - o.duration_seconds;
    put("ok", from, o.from_age_seconds, "up for " + span(from - o.from_age_seconds));
    put("off", o.from_age_seconds, o.until ? to : 0, "down for " + span(o.duration_seconds) + ", "
      + clockOf(o.from) + " – " + (o.until ? clockOf(o.until) : "now") + (o.reason ? ": " + o.reason : ""));
    if (to < whole) { times++; down += Math.min(o.from_age_seconds, whole) - Math.max(o.until ? to : 0, 0); }
    from = to;
  }
  if (u.up) put("ok", from, 0, "up for " + span(from));
  const ticks = u.events.filter(e => (e.kind === "lost" || e.kind === "session_gone") && e.age_seconds < whole
    && !parts.some(p => p.kind === "off" && Math.abs(p.from - e.age_seconds) < Math.max(1, whole / 200)));
  for (const e of ticks) parts.push({ kind: "tick", from: e.age_seconds, to: e.age_seconds, title: "link " + (e.link ?? "") + " lost at " + clockOf(e.at) + ": " + e.text });
  return { parts, times, down, seen: Math.min(whole, u.added_age_seconds) };
}

function track(element, u, whole, told) {
  children(element, told.parts, (p, n) => n, () => make("i"), (bar, p) => {
    kind(bar, p.kind);
    const percent = seconds => 100 * (1 - seconds / whole);
    bar.style.left = percent(p.from).toFixed(2) + "%";
    // An outage of a second in a day is still to be seen.
    if (p.kind !== "tick") bar.style.width = p.kind === "off" ? "max(3px," + (100 * (p.from - p.to) / whole).toFixed(2) + "%)" : (100 * (p.from - p.to) / whole).toFixed(2) + "%";
    attribute(bar, "title", p.title);
  });
  attribute(element, "role", "img");
  attribute(element, "aria-label", "Last " + windowWords(whole) + ": " + outageWords(u, told));
}

function outageWords(u, told) {
  if (u.first_up === null) return "not up yet";
  if (!told.times) return "no outage";
  return many(told.times, "outage") + ", down for " + span(told.down);
}

// `trips`: oldest first. A slot without an answer is a gap; one with a miss has a mark on the ground.
function spark(element, trips) {
  if (!element.line) {
    element.under = drawn("path", { class: "under" });
    element.line = drawn("path", { class: "line" });
    element.miss = drawn("path", { class: "miss" });
    element.append(element.under, element.line, element.miss);
  }
  const answered = trips.map(t => t.rtt_seconds).filter(r => r !== null);
  const top = Math.max(...answered, 1e-6), bottom = Math.min(...answered, top);
  const step = 100 / Math.max(trips.length - 1, 1);
  // The ground is 0 unless all are alike: then what differs is worth the room.
  const ground = bottom > top * 0.6 ? bottom - (top - bottom) * 0.8 - top * 0.05 : 0;
  const y = rtt => (27 - 24 * (rtt - ground) / (top - ground)).toFixed(1);
  let line = "", under = "", miss = "", start = null, last = null;
  const close = () => { if (last !== null) under += "V30H" + start + "Z"; last = null; };
  trips.forEach((t, n) => {
    const x = (trips.length > 1 ? n * step : 100).toFixed(1);
    if (t.missed) miss += "M" + x + " 30V18";
    if (t.rtt_seconds === null) return close();
    const at = x + " " + y(t.rtt_seconds);
    if (last === null) { start = x; line += "M" + at + "h.01"; under += "M" + x + " 30V" + y(t.rtt_seconds); }
    line += "L" + at;
    under += "L" + at;
    last = x;
  });
  close();
  attribute(element.line, "d", line);
  attribute(element.under, "d", under);
  attribute(element.miss, "d", miss);
  const missed = trips.reduce((n, t) => n + t.missed, 0);
  const said = answered.length ? span(bottom) + " – " + span(top) : "no answer";
  const words = said + (trips.length > 1 ? " in " + age(trips[0].age_seconds) : "");
  attribute(element, "aria-label", "Round trips " + words + (missed ? ", " + missed + " unanswered" : ""));
  return words;
}

const newSpark = () => drawn("svg", { class: "spark", viewBox: "0 0 100 30", preserveAspectRatio: "none", role: "img" });
