/** The canvas: shows pictures in the order they were given, the newest always, and never goes back. */

/**
 * @typedef {object} Sheet what the easel can show
 * @property {Blob} blob
 * @property {number} seq
 * @property {string} prompt
 * @property {string} model
 * @property {number} seed
 * @property {number} steps
 * @property {number} width
 * @property {number} height
 * @property {import("./onestroke.js").TypeOptions} [options] what it was asked for with
 */

export class Easel {
  #canvas;
  #context;
  /** The newest picture that waits for its decoding. */ #next = null;
  #busy = false;
  /** Rises whenever what is being decoded is no longer wanted. */ #era = 0;

  /** What is on the canvas now. @type {Sheet|null} */
  shown = null;

  /** @param {HTMLCanvasElement} canvas */
  constructor(canvas) {
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d", { alpha: false });
  }

  /**
   * Shows a picture as soon as it is decoded, unless a newer one overtakes it.
   * @param {Sheet} sheet
   * @param {{onShown?: () => void, onBroken?: (error: Error) => void}} [then]
   */
  show(sheet, then = {}) {
    this.#next = { sheet, then };
    if (!this.#busy) this.#work();
  }

  /** Forgets what is shown and what is on its way. */
  clear() {
    this.abandon();
    this.shown = null;
    for (const key of ["seq", "prompt", "seed"]) delete this.#canvas.dataset[key];
    this.#canvas.setAttribute("aria-label", "No picture yet");
  }

  /** Lets go of pictures that are still being decoded. */
  abandon() {
    this.#era += 1;
    this.#next = null;
  }

  /** One decode at a time: they cannot overtake each other, and whatever waits is only the newest. */
  async #work() {
    this.#busy = true;
    while (this.#next) {
      const { sheet, then } = this.#next;
      const era = this.#era;
      this.#next = null;
      try {
        const bitmap = await createImageBitmap(sheet.blob);
        if (era === this.#era) {
          this.#draw(bitmap, sheet);
          then.onShown?.();
        }
        bitmap.close();
      } catch (error) {
        then.onBroken?.(error);
      }
    }
    this.#busy = false;
  }

  #draw(bitmap, sheet) {
    const canvas = this.#canvas;
    // Setting a size wipes the canvas, so only when it changes; the picture follows in the same task.
    if (canvas.width !== bitmap.width) canvas.width = bitmap.width;
    if (canvas.height !== bitmap.height) canvas.height = bitmap.height;
    this.#context.drawImage(bitmap, 0, 0);
    this.shown = sheet;
    canvas.dataset.seq = String(sheet.seq);
    canvas.dataset.prompt = sheet.prompt;
    canvas.dataset.seed = String(sheet.seed);
    canvas.setAttribute("aria-label", `Picture of ${sheet.prompt}`);
  }
}
