/** Says where the connection stands, and how far the warm-up is. */

import { setEnso } from "./enso.js";

const WORDS = {
  idle: "Connecting",
  connecting: "Connecting",
  warming: "Warming up",
  ready: "Live",
  draining: "Moving to another server",
  waiting: "Reconnecting",
  closed: "Not connected",
};

/**
 * @param {import("./onestroke.js").OnestrokeStream} stream
 * @param {(id: string) => HTMLElement} part finds an element of the page
 */
export function showConnection(stream, part) {
  const line = part("connection");
  const warmup = part("warmup");

  stream.addEventListener("state", ({ detail: { state, attempt, reason } }) => {
    // While it tries and fails and tries, the line stays the same: a live region must not chatter.
    const shown = state === "connecting" && attempt > 0 ? "waiting" : state;
    line.dataset.state = shown;
    line.title = reason ?? "";
    part("connection-text").textContent = WORDS[shown];
    part("reconnect").hidden = state !== "closed";
    warmup.hidden = state !== "warming";
    if (state !== "warming") setEnso(part("enso"), 1);
  });

  stream.addEventListener("status", ({ detail: { stage, fraction } }) => {
    const percent = Math.round(100 * fraction);
    warmup.setAttribute("aria-valuenow", String(percent));
    warmup.setAttribute("aria-valuetext", `${percent} percent, ${stage}`);
    part("warmup-stage").textContent = stage;
    part("warmup-percent").textContent = `${percent}%`;
    setEnso(part("enso"), fraction);
  });

  part("reconnect").addEventListener("click", () => stream.connect());
}

/** The model's name, what its licence allows, what it needs and what it is bad at. */
export function showModel({ name, description, licence, limits, source, memory_bytes: memory }, part) {
  const strong = document.createElement("strong");
  strong.textContent = name;
  part("model").replaceChildren(strong, description ? ` ${description}` : "");
  const facts = [
    source && `From ${source}`,
    memory && `${(memory / 1e9).toFixed(1)} GB of memory`,
    limits && `Limits: ${limits}`,
  ];
  part("facts").textContent = facts.filter(Boolean).join(". ");
  const label = `${licence.name}, ${licence.terms}`;
  if (!/^https?:/.test(licence.url ?? "")) {
    part("licence").textContent = label;
    return;
  }
  const link = document.createElement("a");
  link.href = licence.url;
  link.rel = "noreferrer";
  link.textContent = licence.name;
  part("licence").replaceChildren(link, `, ${licence.terms}`);
}
