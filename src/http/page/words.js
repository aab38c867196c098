// Numbers and moments as words.

function span(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 0.001) return seconds === 0 ? "0 s" : Math.round(seconds * 1e6) + " µs";
  if (seconds < 1) return (seconds * 1000).toFixed(seconds < 0.01 ? 1 : 0) + " ms";
  if (seconds < 9.95) return seconds.toFixed(1) + " s";
  const s = Math.floor(seconds);
  if (s < 60) return s + " s";
  if (s < 3600) return Math.floor(s / 60) + " min " + s % 60 + " s";
  if (s < 86400) return Math.floor(s / 3600) + " h " + Math.floor(s / 60) % 60 + " min";
  return Math.floor(s / 86400) + " d " + Math.floor(s / 3600) % 24 + " h";
}

// Whole seconds: for what is redrawn each second.
function age(seconds) {
  return seconds < 60 ? Math.floor(seconds) + " s" : span(seconds);
}

function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let unit = 0;
  while (bytes >= 1023.95 && unit < units.length - 1) { bytes /= 1024; unit++; }
  return (unit && bytes < 99.95 ? bytes.toFixed(1) : Math.round(bytes)) + " " + units[unit];
}

function count(n) {
  return n.toLocaleString("en");
}

function many(n, what, plural) {
  return count(n) + " " + (n === 1 ? what : plural || what + "s");
}

const clockOf = moment => new Date(moment).toLocaleTimeString("en-GB");
const dateOf = moment => new Date(moment).toLocaleString("en-GB");

function sum(counts) {
  return Object.values(counts).reduce((a, b) => a + b, 0);
}

// "2 heartbeat, 1 reset": what is not 0, the most first.
function shares(counts) {
  return Object.entries(counts).filter(([, n]) => n > 0).sort((a, b) => b[1] - a[1])
    .map(([name, n]) => count(n) + " " + name.replaceAll("_", " ")).join(", ");
}

const stateWords = { up: "Up", in_use: "In use", suspect: "Suspect", connecting: "Connecting", waiting: "Waiting", draining: "Draining", failed: "Failed" };
const stateTones = { up: "good", in_use: "good", suspect: "warn", connecting: "warn", waiting: "bad", failed: "bad", draining: "dim" };
const stateWord = state => stateWords[state] || state.replaceAll("_", " ");
const stateTone = state => stateTones[state] || "dim";
const eventTones = { up: "good", resumed: "good", suspect: "warn", dial_failed: "bad", lost: "bad", failed: "bad", session_gone: "bad", drill: "warn" };
