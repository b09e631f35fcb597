/** Model, seed, steps, format and size: what is asked for besides the words. */

import { wholeNumber } from "./address.js";

/** Seeds that are thrown stay short enough to read aloud; any seed below 2^53 may be typed. */
const THROWN_SEEDS = 1_000_000;
const SEED_RULE = "A seed is a whole number from 0 to 9007199254740991.";

/**
 * Events: `change` when another picture is wanted, `dice` when another take is, `format` when the pictures are to
 * come in another format, `model` when another model is chosen, `invalid` with a message ("" when all is well again).
 */
export class Controls extends EventTarget {
  #seed = 0;
  #modelField;
  /** What the server has. @type {object[]} */ #models = [];
  #seedField;
  #lock;
  #steps;
  #stepsValue;
  #format;
  #size;
  #sizes = [];
  #offered = false;

  /** @param {HTMLFormElement} form */
  constructor(form) {
    super();
    const part = (id) => form.querySelector(`#${id}`);
    this.#seedField = part("seed");
    this.#lock = part("lock");
    this.#steps = part("steps");
    this.#stepsValue = part("steps-value");
    this.#format = part("format");
    this.#size = part("size");
    this.#modelField = part("model-choice");
    this.#setSeed(throwSeed());
    form.addEventListener("submit", (event) => event.preventDefault());
    this.#seedField.addEventListener("input", () => this.#onSeed());
    this.#seedField.addEventListener("change", () => this.#onSeedLeft());
    this.#lock.addEventListener("click", () => this.#setLocked(!this.locked));
    part("dice").addEventListener("click", () => this.dispatchEvent(new Event("dice")));
    this.#steps.addEventListener("input", () => this.#onSteps());
    this.#size.addEventListener("change", () => this.#changed());
    this.#modelField.addEventListener("change", () => this.#onModel());
    this.#format.addEventListener("change", () => this.dispatchEvent(new Event("format")));
  }

  /** What goes with the words. A model and a size are named only where there is a choice. */
  get options() {
    const [width, height] = this.#sizes.length > 1 ? this.#sizes[this.#size.selectedIndex] : [];
    const model = this.#models.length > 1 ? this.model.name : undefined;
    return { model, seed: this.#seed, steps: this.#steps.valueAsNumber, width, height };
  }

  /** The model chosen; undefined until the server has said what it has. */
  get model() {
    return this.#models[this.#modelField.selectedIndex];
  }

  get format() {
    return this.#format.value;
  }

  /** Whether every key keeps the seed. */
  get locked() {
    return this.#lock.getAttribute("aria-pressed") === "true";
  }

  /** Another seed, without asking for a picture. */
  roll() {
    this.#setSeed(throwSeed());
  }

  /**
   * Puts back what a picture or a link was made with.
   * @param {{model?: string, seed?: number, steps?: number, width?: number, height?: number}} settings
   */
  restore({ model, seed, steps, width, height }) {
    const known = this.#models.findIndex(({ name }) => name === model);
    if (known >= 0 && known !== this.#modelField.selectedIndex) {
      this.#modelField.selectedIndex = known;
      this.#offerModel(this.model.default_steps);
    }
    if (seed !== undefined) this.#setSeed(seed);
    if (steps !== undefined) this.#setSteps(steps);
    const size = this.#sizes.findIndex(([w, h]) => w === width && h === height);
    if (size >= 0) this.#size.selectedIndex = size;
  }

  /**
   * Offers the models and what they can do. What was chosen stays, also over a reconnect.
   * @param {{name: string, default_steps: number, max_steps: number, only_steps: number[], sizes: number[][]}[]} models the default first
   * @param {{model?: string, steps?: number}} [wanted] for the first time
   */
  offer(models, wanted = {}) {
    const before = this.model?.name ?? wanted.model;
    this.#models = models;
    this.#modelField.replaceChildren(...models.map(({ name }) => new Option(name)));
    this.#modelField.selectedIndex = Math.max(0, models.findIndex(({ name }) => name === before));
    this.#modelField.closest(".field").hidden = models.length < 2;
    const steps = this.#offered ? this.#steps.valueAsNumber : (wanted.steps ?? this.model.default_steps);
    this.#offered = true;
    this.#offerModel(steps);
  }

  /** What the model chosen can do. */
  #offerModel(steps) {
    const { model } = this;
    const fixed = model.only_steps.length > 0;
    this.#steps.max = String(model.max_steps);
    this.#setSteps(fixed ? model.default_steps : steps);
    this.#steps.closest(".field").hidden = fixed || model.max_steps < 2;
    const before = this.#size.value;
    this.#sizes = model.sizes;
    this.#size.replaceChildren(...model.sizes.map(([width, height]) => new Option(`${width} × ${height}`)));
    if (model.sizes.length > 1 && before) this.#size.value = before;
    if (this.#size.selectedIndex < 0) this.#size.selectedIndex = 0;
    this.#size.closest(".field").hidden = model.sizes.length < 2;
    this.dispatchEvent(new Event("model"));
  }

  /** Another model: its own number of steps, and the same size where it has it. */
  #onModel() {
    this.#offerModel(this.model.default_steps);
    this.#changed();
  }

  #onSeed() {
    const seed = wholeNumber(this.#seedField.value.trim());
    const wrong = seed === undefined && this.#seedField.value.trim() !== "";
    this.#seedField.setAttribute("aria-invalid", String(wrong));
    if (wrong) this.dispatchEvent(new CustomEvent("invalid", { detail: SEED_RULE }));
    if (seed === undefined || seed === this.#seed) return;
    this.#seed = seed;
    this.#setLocked(true); // who writes a seed means to keep it
    this.#changed();
  }

  /** A field left empty or wrong goes back to the seed in use. */
  #onSeedLeft() {
    this.#setSeed(this.#seed);
    this.dispatchEvent(new CustomEvent("invalid", { detail: "" }));
  }

  #onSteps() {
    this.#stepsValue.value = this.#steps.value;
    this.#changed();
  }

  #setSeed(seed) {
    this.#seed = seed;
    this.#seedField.value = String(seed);
    this.#seedField.setAttribute("aria-invalid", "false");
  }

  #setSteps(steps) {
    this.#steps.value = String(steps);
    this.#stepsValue.value = this.#steps.value;
  }

  #setLocked(locked) {
    this.#lock.setAttribute("aria-pressed", String(locked));
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}

const throwSeed = () => crypto.getRandomValues(new Uint32Array(1))[0] % THROWN_SEEDS;
