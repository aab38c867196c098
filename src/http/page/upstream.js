// One upstream: a line that says how it fares, why if not well, and all of it when opened.

const LINKS_SHOWN = 8, LINES_SHOWN = 4;

const isTrouble = link => link.state === "waiting" || link.state === "failed" || link.state === "suspect";
const rank = { bad: 0, warn: 1, dim: 2, good: 3 };

// How an upstream fares: a shape, a tone, a word.
function standing(u) {
  if (u.draining) return ["dial", "dim", "Draining"];
  if (!u.up) {
    if (u.first_up === null) return ["dial", "bad", "Not up yet"];
    return u.links.some(l => l.state === "failed") && u.links.every(l => l.state === "failed") ? ["bad", "bad", "Failed"] : ["bad", "bad", "Down"];
  }
  if (u.links.some(l => l.state === "suspect")) return ["warn", "warn", "Suspect"];
  const without = u.links.filter(isTrouble).length;
  if (without) return ["warn", "warn", "Up, " + without + " of " + u.links.length + " links down"];
  return ["good", "good", "Up"];
}

// The link that tells most about the trouble: the next one to be dialled.
function telling(u) {
  const troubled = u.links.filter(l => isTrouble(l) || l.state === "connecting");
  return troubled.sort((a, b) => (a.retry_in_seconds ?? 1e9) - (b.retry_in_seconds ?? 1e9))[0];
}

const streamsOf = u => u.links.reduce((n, l) => n + (l.session ? l.session.streams : 0), 0);

// In trouble, or just out of it.
function isNews(u) {
  const last = u.outages.at(-1);
  return standing(u)[1] !== "good" || Boolean(last) && last.from_age_seconds - last.duration_seconds < 600;
}

// Why it is not well, as words; null if it is. In brief without what was tried since.
function causeOf(u, brief) {
  const link = telling(u), last = u.outages.at(-1), tone = standing(u)[1];
  if (tone === "good") return null;
  if (u.draining) return "removed from the configuration: its clients may finish until the end of the drain";
  const lost = !u.up && last && !last.until ? last.reason : "";
  const now = link && link.last_error ? link.last_error : "";
  if (u.up && link && link.state === "suspect") return many(Math.max(link.misses, 1), "heartbeat") + " unanswered by " + (link.endpoint || "the endpoint");
  if (lost && now && lost !== now && !brief) return lost + "; since then: " + now;
  return lost || now || (u.first_up === null ? "the first link is being made" : "the link is being made anew");
}

// The same with what hangs on it.
function causeWords(u, brief) {
  const why = causeOf(u, brief), streams = u.up || u.mode === "direct" ? 0 : streamsOf(u);
  return why && why + (streams ? " – " + many(streams, "stream waits", "streams wait") + " for the link" : "");
}

function newUpstream(u) {
  const card = make("article", "card up");
  card.id = "u-" + u.name;
  card.name = u.name;
  const title = make("h3", "", u.name);
  title.id = "t-" + u.name;
  card.setAttribute("aria-labelledby", title.id);
  const mark = make("span", "sign"), state = make("span"), since = make("span", "dim"), mode = make("span", "tag", "tunnel"), required = make("span", "tag", "required");
  required.title = "/readyz waits for it";
  const head = make("header", "head", mark, make("div", "who", title, state, since, mode, required));
  Object.assign(card, { mark, state, since, mode, required, head });
  card.append(head);
  return card;
}

// The rest of the line, made when it comes into sight.
function furnish(card) {
  const fold = make("button", "fold");
  icon(fold, "fold");
  fold.type = "button";
  fold.addEventListener("click", () => { card.wanted = !card.classList.contains("open"); open(card, card.wanted); again(); });
  const glance = make("div", "glance");
  card.tiny = make("div", "track");
  card.tinySpark = newSpark();
  card.tinyNow = make("span", "now");
  card.tinyRates = make("span", "rates");
  glance.append(card.tiny, card.tinySpark, card.tinyNow, card.tinyRates);
  card.cause = make("p", "cause");
  card.causeWhy = make("span", "why");
  card.causeWait = make("span", "wait");
  card.cause.append(card.causeWhy, card.causeWait);
  card.fold = fold;
  card.head.append(glance, fold);
  card.append(card.cause);
}

function open(card, yes) {
  card.classList.toggle("open", yes);
  attribute(card.fold, "aria-expanded", String(yes));
  attribute(card.fold, "aria-label", (yes ? "Less" : "More") + " about " + card.name);
  if (yes && !card.body) build(card);
  if (card.body) card.body.hidden = !yes;
}

function build(card) {
  const b = make("div", "body");
  b.id = "b-" + card.name;
  attribute(card.fold, "aria-controls", b.id);
  card.body = b;
  b.track = make("div", "track");
  b.scale = make("div", "scale");
  b.scale.parts = [make("span"), make("span"), make("span", "", "now")];
  b.scale.append(...b.scale.parts);
  b.cells = make("dl", "cells");
  b.trip = cell("Round trip", "trip");
  b.spark = newSpark();
  b.trip.querySelector("dd").append(b.spark);
  b.trip.querySelector("dd").insertBefore(make("div", "", b.trip.value, b.trip.line), b.spark);
  b.sent = cell("Sent");
  b.received = cell("Received");
  b.clients = cell("Clients");
  b.again = cell("Reconnects");
  b.beats = cell("Beats missed");
  b.saved = cell("Streams saved");
  b.cells.append(b.trip, b.sent, b.received, b.clients, b.again, b.beats, b.saved);
  b.linksTitle = make("h4");
  b.links = make("ul", "rows links");
  b.allLinks = more(b, "everyLink");
  b.outages = newLog(b, "Outages", "everyOutage");
  b.events = newLog(b, "Events", "everyEvent");
  b.facts = make("p", "facts");
  b.append(make("div", "", b.track, b.scale), b.cells, make("section", "", b.linksTitle, b.links, b.allLinks),
    make("div", "two", b.outages, b.events), b.facts);
  card.append(b);
}

// A button that shows the rest of a list.
function more(owner, flag) {
  const button = make("button", "plain");
  button.type = "button";
  button.addEventListener("click", () => { owner[flag] = !owner[flag]; again(); });
  return button;
}

function moreOf(button, all, shown, open) {
  shownIf(button, all > shown);
  text(button, open ? "Show fewer" : "Show all " + count(all));
}

function newLog(owner, title, flag) {
  const lines = make("ul"), button = more(owner, flag), none = make("p", "more", "none");
  return Object.assign(make("section", "log", make("h4", "", title), lines, none, button), { lines, button, none, flag });
}

function fillLog(owner, log, items, keyOf, update) {
  const shown = owner[log.flag] ? items.length : LINES_SHOWN;
  children(log.lines, items.slice(0, shown), keyOf, () => {
    const line = make("li");
    line.parts = [make("time"), make("span", "kind"), make("span", "text")];
    line.append(...line.parts);
    return line;
  }, update);
  shownIf(log.none, !items.length);
  moreOf(log.button, items.length, LINES_SHOWN, owner[log.flag]);
}

function moment(element, at, seconds) {
  text(element, clockOf(at));
  attribute(element, "datetime", at);
  attribute(element, "title", dateOf(at) + ", " + age(seconds) + " ago");
}

function drawUpstream(card, u, whole, rates) {
  const [shape, tone, word] = standing(u);
  icon(card.mark, shape);
  kind(card.mark, "sign " + tone);
  text(card.state, word);
  kind(card.state, "state " + tone);
  attribute(card, "data-tone", tone);
  text(card.since, "for " + age(u.since_age_seconds));
  shownIf(card.mode, u.mode !== "direct");
  shownIf(card.required, u.required);
  const best = u.links.filter(l => l.rtt_seconds !== null && (l.state === "up" || l.state === "in_use")).map(l => l.rtt_seconds);
  const told = history(u, whole), now = best.length ? span(Math.min(...best)) : "–";
  drawCause(card, u, tone);
  const rate = rates ? "↑ " + size(rates.sent) + "/s  ↓ " + size(rates.received) + "/s" : "";
  if (!card.classList.contains("open")) {
    track(card.tiny, u, whole, told);
    spark(card.tinySpark, u.round_trips);
    text(card.tinyNow, now);
    text(card.tinyRates, rate);
  } else drawBody(card.body, u, whole, told, now, rates);
}

function drawCause(card, u, tone) {
  const why = causeWords(u), last = u.outages.at(-1), link = telling(u);
  const ended = !why && last && last.until && last.from_age_seconds - last.duration_seconds < 600;
  shownIf(card.cause, Boolean(why || ended));
  kind(card.cause, "cause " + (why ? tone : ""));
  if (why) text(card.causeWhy, why);
  else if (ended) {
    const kept = u.events.findLast(e => e.kind === "resumed" && e.age_seconds <= last.from_age_seconds);
    text(card.causeWhy, "The last outage took " + span(last.duration_seconds) + " and ended " + age(last.from_age_seconds - last.duration_seconds)
      + " ago" + (last.reason ? ": " + last.reason : "") + (kept ? " – " + kept.text : ""));
  }
  drawWait(card.causeWait, why ? link : null, "attempt");
}

// When the link is dialled next, or that it is being dialled.
function drawWait(element, link, what) {
  const waits = Boolean(link && link.retry_in_seconds !== null), dials = Boolean(link && link.state === "connecting" && !waits);
  shownIf(element, waits || dials);
  if (waits) countdown(element, link.retry_in_seconds, link.retry_in_seconds + link.since_age_seconds, left => what + " " + (link.attempt + 1) + (left > 0 ? " in " + left.toFixed(1) + " s" : " now"));
  else if (dials) countdown(element, 0, 0, () => "dialling now");
}

function drawBody(b, u, whole, told, now, rates) {
  const c = u.connections, beats = u.heartbeat;
  track(b.track, u, whole, told);
  text(b.scale.parts[0], windowWords(whole) + " ago");
  text(b.scale.parts[1], outageWords(u, told) + (told.seen > 0 && u.first_up !== null ? " · up " + percent(1 - told.down / told.seen) : ""));
  const range = spark(b.spark, u.round_trips);
  fill(b.trip, now, u.round_trips.length ? range : "no beat answered yet");
  fill(b.sent, rates ? "↑ " + size(rates.sent) + "/s" : "–", size(c.bytes_sent) + " in all");
  fill(b.received, rates ? "↓ " + size(rates.received) + "/s" : "–", size(c.bytes_received) + " in all");
  const refused = shares(c.refused);
  fill(b.clients, count(c.open) + " open", [c.waiting ? many(c.waiting, "waits", "wait") : "", refused ? "refused: " + refused : "", c.waiting || refused ? "" : many(c.accepted, "client") + " so far"].filter(Boolean).join("; "),
    c.waiting || refused ? "warn" : "");
  const losses = shares(u.losses);
  fill(b.again, count(u.reconnects), losses ? "lost: " + losses : "no link was lost");
  if (beats.beat === "none") fill(b.beats, "–", "none sent: TCP itself is watched");
  else fill(b.beats, count(beats.missed), "of " + count(beats.sent) + " sent");
  const tunnel = u.mode !== "direct";
  shownIf(b.saved, tunnel);
  if (tunnel) fill(b.saved, count(u.streams_saved), many(u.resumes.resumed || 0, "resume") + ", " + size(u.replayed_bytes) + " sent again");
  drawLinks(b, u);
  fillLog(b, b.outages, u.outages.toReversed(), o => o.from, (line, o) => {
    moment(line.parts[0], o.from, o.from_age_seconds);
    text(line.parts[1], span(o.duration_seconds) + (o.until ? "" : " …"));
    kind(line.parts[1], o.until ? "kind" : "kind bad");
    text(line.parts[2], (o.reason || "no reason is known") + (o.until ? "" : " (lasts)"));
  });
  const keys = new Map();
  fillLog(b, b.events, u.events.toReversed(), e => {
    const key = e.at + e.kind + e.link;
    keys.set(key, (keys.get(key) || 0) + 1);
    return key + "/" + keys.get(key);
  }, (line, e) => {
    moment(line.parts[0], e.at, e.age_seconds);
    text(line.parts[1], e.kind.replaceAll("_", " "));
    kind(line.parts[1], "kind " + (eventTones[e.kind] || ""));
    text(line.parts[2], (e.reason ? e.reason + ": " : "") + e.text + (e.link !== null && u.links.length > 1 ? " · link " + e.link : "") + (e.endpoint && u.endpoints.length > 1 ? " · " + e.endpoint : ""));
  });
  const listen = u.forwards.length ? u.forwards.map(f => (f.listen.join(", ") || "nothing") + " → " + f.service) : u.listen;
  const away = u.endpoints.filter(e => !e.up), namesOf = list => list.map(e => e.name).join(", ");
  const failing = namesOf(away.filter(e => e.last_dial_failed)), reserve = namesOf(away.filter(e => !e.last_dial_failed)), failures = shares(Object.fromEntries(Object.entries(u.dials).filter(([name]) => name !== "ok")));
  text(b.facts, "Listens on " + (listen.join(", ") || "nothing") + (u.endpoints.length > 1 ? " · " + u.balance + " over " + u.endpoints.length + " endpoints" + (failing ? ", failing: " + failing : "") + (reserve ? ", in reserve: " + reserve : "") : "")
    + " · silence of " + span(beats.interval_seconds) + " brings a beat, a dead link is known within " + span(u.detection_budget_seconds) + " · dials: " + count(u.dials.ok || 0) + " ok" + (failures ? ", failed: " + failures : "") + " · without a link for " + span(u.downtime_seconds) + " in all"
    + (u.learned_max_age_seconds === null ? "" : " · the server cuts idle connections: renewed after " + span(u.learned_max_age_seconds)) + (shares(c.closed) ? " · clients ended: " + shares(c.closed) : "") + " · at most " + count(c.limit) + " clients");
}

function percent(share) {
  const p = Math.max(0, share) * 100;
  return (p === 100 ? "100" : Math.min(p, 99.999).toFixed(p > 99.9 ? 3 : 1)) + " %";
}

function drawLinks(b, u) {
  const cause = causeOf(u);
  const links = u.links.toSorted((x, y) => rank[stateTone(x.state)] - rank[stateTone(y.state)] || x.id - y.id);
  text(b.linksTitle, links.length === 1 ? "Link" : "Links: " + links.filter(l => stateTone(l.state) === "good").length + " of " + links.length + " up");
  children(b.links, links.slice(0, b.everyLink ? links.length : LINKS_SHOWN), l => l.id, newLink, (row, l) => drawLink(row, l, links.length, cause));
  moreOf(b.allLinks, links.length, LINKS_SHOWN, b.everyLink);
}

function newLink() {
  const row = make("li");
  Object.assign(row, { state: make("span"), place: labelled("endpoint"), since: labelled("since"), trip: labelled("round trip"), misses: labelled("unanswered") });
  row.session = make("div", "session");
  row.note = make("div", "note");
  row.words = make("span");
  row.used = make("div", "meter");
  row.session.append(row.words, row.used);
  row.wait = make("span", "wait");
  row.why = make("span");
  row.note.append(row.why, row.wait);
  row.append(row.state, row.place, row.since, row.trip, row.misses, row.session, row.note);
  return row;
}

function drawLink(row, l, links, why) {
  badge(row.state, stateShapes[l.state] || stateTone(l.state), stateTone(l.state), stateWord(l.state) + (links > 1 ? " #" + l.id : ""));
  text(row.place.value, (l.endpoint ?? "–") + (l.address && l.address !== l.endpoint ? " (" + l.address + ")" : ""));
  text(row.since.value, age(l.since_age_seconds));
  text(row.trip.value, span(l.rtt_seconds));
  text(row.misses.value, String(l.misses));
  kind(row.misses.value, l.misses ? "warn" : "");
  shownIf(row.session, Boolean(l.session));
  if (l.session) {
    text(row.words, sessionWords(l.session));
    meter(row.used, l.session.unacknowledged_bytes, l.session.buffer_bytes);
    attribute(row.used, "title", "unacknowledged, of what may be kept");
  }
  // What the card says already is not said again.
  const waits = l.retry_in_seconds !== null, error = (isTrouble(l) || l.state === "connecting") && l.last_error !== why ? l.last_error || "" : "";
  shownIf(row.note, Boolean(waits || error || l.attempt > 1 && l.state === "connecting"));
  shownIf(row.why, Boolean(error || !waits));
  text(row.why, error + (!waits && l.state === "connecting" && l.attempt > 1 ? (error ? " – " : "") + "attempt " + l.attempt + " under way" : ""));
  shownIf(row.wait, waits);
  if (waits) countdown(row.wait, l.retry_in_seconds, l.retry_in_seconds + l.since_age_seconds, left => "backoff before attempt " + (l.attempt + 1) + ": " + left.toFixed(1) + " s left");
}

function sessionWords(s) {
  return "session " + s.id + " · " + many(s.streams, "stream") + " · " + many(s.resumes, "resume") + (s.last_outage_seconds === null ? "" : ", last outage " + span(s.last_outage_seconds))
    + " · " + size(s.unacknowledged_bytes) + " of " + size(s.buffer_bytes) + " unacknowledged";
}
