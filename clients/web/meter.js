/** Key-to-picture latency and pictures per second, over the last twenty pictures. */

const KEPT = 20;
/** A pause this long (ms) ends a burst: pictures per second says how fast they came, not how often one types. */
const PAUSE = 2_500;

export class Meter {
  /** @type {number[]} */ #latencies = [];
  /** @type {number[]} */ #shownAt = [];

  /**
   * @param {number} now ms
   * @param {number|undefined} latency ms from the key; undefined where that would not be fair
   */
  record(now, latency) {
    if (now - (this.#shownAt.at(-1) ?? now) > PAUSE) this.#shownAt = [];
    this.#shownAt = [...this.#shownAt, now].slice(-KEPT);
    if (latency !== undefined) this.#latencies = [...this.#latencies, latency].slice(-KEPT);
  }

  /** The last latencies, oldest first, in ms. */
  get latencies() {
    return this.#latencies;
  }

  /** ms, undefined before the first picture. */
  get median() {
    const sorted = [...this.#latencies].sort((a, b) => a - b);
    return sorted[Math.floor(sorted.length / 2)];
  }

  /** Pictures per second in the running burst, undefined before its third picture. */
  get rate() {
    const times = this.#shownAt;
    if (times.length < 3) return undefined;
    return (1_000 * (times.length - 1)) / (times.at(-1) - times[0]);
  }
}

/**
 * One bar a picture, as tall as its latency.
 * @param {SVGElement} svg 200 by 28 units
 * @param {number[]} latencies
 */
export function drawTicks(svg, latencies) {
  const slowest = Math.max(...latencies);
  const typical = [...latencies].sort((a, b) => a - b)[Math.floor(latencies.length / 2)];
  // One hiccup must not flatten all the others; it is cut off at the top.
  const top = Math.max(50, Math.min(slowest, 4 * typical));
  const bars = latencies.map((latency, index) => {
    const bar = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    const height = Math.min(27, Math.max(1.5, (27 * latency) / top));
    const place = { x: (index + KEPT - latencies.length) * 10 + 1, y: 28 - height, width: 5, height };
    for (const [name, value] of Object.entries(place)) bar.setAttribute(name, value.toFixed(1));
    return bar;
  });
  svg.replaceChildren(...bars);
}
