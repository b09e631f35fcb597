/**
 * The blank sheet: a circle in one brush stroke. It closes as the model warms up.
 *
 * A brush is many hairs. Each hair draws its own arc at its own distance, some run dry towards the end, and a
 * mask that follows the circle decides how much of the stroke has been made.
 */

const NS = "http://www.w3.org/2000/svg";
const CENTRE = 200;
const RADIUS = 140;
const HAIRS = 72;
const BRUSH = 46;
/** Where the brush touches the paper, and how far round it goes: not quite closed. */
const START = 0.62 * Math.PI;
const SWEEP = 1.93 * Math.PI;

/** @param {SVGElement} svg */
export function brushEnso(svg) {
  const random = lcg(11);
  const mask = make("mask", { id: "enso-drawn", maskUnits: "userSpaceOnUse", x: 0, y: 0, width: 400, height: 400 });
  const reveal = make("path", { d: arc(RADIUS, 0, 1), class: "reveal", pathLength: 1 });
  reveal.setAttribute("stroke-width", String(BRUSH * 2.4));
  mask.append(reveal);

  const hairs = make("g", { mask: "url(#enso-drawn)", class: "hairs" });
  for (let index = 0; index < HAIRS; index += 1) {
    const across = index / (HAIRS - 1) - 0.5;
    const lifted = Math.abs(across) * 0.06;
    const end = 1 - lifted - random() ** 2 * (across > 0 ? 0.45 : 0.12);
    const hair = make("path", { d: arc(RADIUS + across * BRUSH, lifted * random(), end), pathLength: 100 });
    hair.setAttribute("stroke-width", (0.6 + random() * 1.9).toFixed(2));
    hair.setAttribute("opacity", (0.72 + random() * 0.28).toFixed(2));
    // The outer hairs carry less ink: they skip over the paper's grain, the more the longer they go.
    if (random() < 1.5 * across + 0.35) {
      const wet = 78 - 70 * Math.max(0, across) - 25 * random();
      hair.setAttribute("stroke-dasharray", `${wet.toFixed(1)} ${dashes(random)}`);
    }
    hairs.append(hair);
  }
  svg.replaceChildren(mask, hairs);
}

/** How much of the circle has been drawn. @param {SVGElement} svg @param {number} fraction 0 to 1 */
export function setEnso(svg, fraction) {
  svg.style.setProperty("--drawn", String(Math.min(1, Math.max(0, fraction))));
}

/** An arc that swells in the middle of its way and drifts inwards, as a wrist does. */
function arc(radius, from, to) {
  const points = [];
  const steps = Math.max(8, Math.round(72 * (to - from)));
  for (let step = 0; step <= steps; step += 1) {
    const way = from + ((to - from) * step) / steps;
    const pressure = 0.55 + 0.45 * Math.sin(Math.PI * Math.min(1, 0.12 + way * 0.8)) - 0.25 * way * way;
    const reach = RADIUS + (radius - RADIUS) * (0.45 + pressure) - 9 * way + 5 * Math.sin(5.2 * way);
    const angle = START + SWEEP * way;
    const x = CENTRE + reach * 1.03 * Math.cos(angle);
    const y = CENTRE + reach * 0.98 * Math.sin(angle);
    points.push(`${x.toFixed(1)} ${y.toFixed(1)}`);
  }
  return `M${points.join("L")}`;
}

/** Gaps and strokes by turns. */
function dashes(random) {
  const lengths = Array.from({ length: 8 }, (_, index) => (index % 2 ? 0.6 + 4 * random() : 0.4 + 1.8 * random()));
  return lengths.map((length) => length.toFixed(1)).join(" ");
}

/** The same hairs on every visit. */
function lcg(seed) {
  let state = seed;
  return () => {
    state = (state * 1664525 + 1013904223) % 4294967296;
    return state / 4294967296;
  };
}

function make(name, attributes) {
  const element = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, String(value));
  return element;
}
