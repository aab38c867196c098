// The gateway and whom it holds.

const SESSIONS_SHOWN = 20, SESSIONS_MOST = 500;

function buildGateway(section) {
  const g = make("article", "card up open"), head = make("header", "head"), who = make("div", "who");
  Object.assign(g, { mark: make("span", "sign"), state: make("span"), heading: make("h3"), listen: make("span", "dim") });
  g.heading.id = "gateway-title";
  who.append(g.heading, g.state, g.listen);
  head.append(g.mark, who);
  const b = make("div", "body"), cells = make("dl", "cells");
  Object.assign(g, {
    sessions: cell("Sessions"), streams: cell("Streams"), kept: cell("Unacknowledged"), pending: cell("Handshakes pending"),
    refused: cell("Turned away"), violations: cell("Protocol violations"), people: make("ul", "rows people"), used: make("div", "meter"),
  });
  g.sessions.append(g.used);
  cells.append(g.sessions, g.streams, g.kept, g.pending, g.refused, g.violations);
  g.all = more(g, "everyone");
  g.facts = make("p", "facts");
  b.append(cells, make("section", "", g.people, g.all), g.facts);
  g.append(head, b);
  section.append(g);
  return g;
}

function drawGateway(section, report) {
  shownIf(section, Boolean(report));
  if (!report) return;
  const g = section.card || (section.card = buildGateway(section)), all = report.sessions;
  const away = all.filter(s => !s.connected).length;
  const [shape, tone, word] = report.draining ? ["dim", "warn", "Draining"] : away ? ["warn", "warn", many(away, "session") + " without a connection"] : ["good", "good", "Serving"];
  icon(g.mark, shape);
  kind(g.mark, "sign " + tone);
  text(g.state, word);
  kind(g.state, "state " + tone);
  attribute(g, "data-tone", tone);
  text(g.heading, "Gateway " + report.name);
  text(g.listen, "on " + (report.listen.join(", ") || "nothing"));
  fill(g.sessions, count(all.length), "of at most " + count(report.session_limit));
  meter(g.used, all.length, report.session_limit);
  fill(g.streams, count(report.streams), "of all sessions");
  fill(g.kept, size(report.unacknowledged_bytes), "of all sessions");
  fill(g.pending, count(report.handshakes_pending), "");
  fill(g.refused, count(sum(report.refusals)), shares(report.refusals) || "nobody", sum(report.refusals) ? "warn" : "");
  fill(g.violations, count(sum(report.violations)), shares(report.violations) || "none", sum(report.violations) ? "warn" : "");
  const sorted = all.toSorted((a, b) => Number(a.connected) - Number(b.connected));
  children(g.people, sorted.slice(0, g.everyone ? SESSIONS_MOST : SESSIONS_SHOWN), s => s.session.id + s.identity, newSession, drawSession);
  moreOf(g.all, Math.min(all.length, SESSIONS_MOST), SESSIONS_SHOWN, g.everyone);
  text(g.facts, "Services: " + (report.services.join(", ") || "none") + (all.length > SESSIONS_MOST ? " · of the sessions " + SESSIONS_MOST + " are shown" : ""));
}

function newSession() {
  const row = make("li");
  Object.assign(row, { state: make("span"), who: labelled("session of"), since: labelled("since"), streams: labelled("streams"), resumes: labelled("resumes, outage"), kept: labelled("unacknowledged"), used: make("div", "meter") });
  const last = make("div", "used", row.kept, row.used);
  row.append(row.state, row.who, row.since, row.streams, row.resumes, last);
  return row;
}

function drawSession(row, s) {
  badge(row.state, s.connected ? "good" : "warn", s.connected ? "good" : "warn", s.connected ? "Connected" : "No connection");
  text(row.who.value, s.session.id + (s.identity ? " · " + s.identity : "") + (s.peer ? " · " + s.peer : ""));
  text(row.since.value, age(s.since_age_seconds));
  text(row.streams.value, count(s.session.streams));
  text(row.resumes.value, count(s.session.resumes) + (s.session.last_outage_seconds === null ? "" : ", last " + span(s.session.last_outage_seconds)));
  text(row.kept.value, size(s.session.unacknowledged_bytes));
  meter(row.used, s.session.unacknowledged_bytes, s.session.buffer_bytes);
  attribute(row.used, "title", "of " + size(s.session.buffer_bytes));
}
