/**
 * The brush stroke under the words. It is as long as what was typed; the part that the picture already knows
 * is dry ink, and what the picture has yet to catch up with is still wet.
 */

export class Stroke {
  #element;
  #field;
  #pen = document.createElement("canvas").getContext("2d");

  /** @param {HTMLElement} element @param {HTMLTextAreaElement} field */
  constructor(element, field) {
    this.#element = element;
    this.#field = field;
  }

  /**
   * @param {string} typed
   * @param {string} drawn the words of the picture that is shown
   * @param {boolean} lagging whether a picture is still to come; the same words may come with a new seed
   */
  update(typed, drawn, lagging) {
    const style = getComputedStyle(this.#field);
    this.#pen.letterSpacing = style.letterSpacing;
    this.#pen.font = `${style.fontWeight} ${style.fontSize} ${style.fontFamily}`;
    const whole = this.#pen.measureText(typed).width;
    const common = commonPrefix(typed, drawn);
    const dry = lagging ? this.#pen.measureText(common === typed ? "" : common).width / whole : 1;
    const width = Math.min(whole, this.#field.clientWidth);
    // A transform and a registered property: both animate without a layout.
    this.#element.style.setProperty("--length", typed === "" ? "0" : (width / this.#field.clientWidth).toFixed(4));
    this.#element.style.setProperty("--dry", `${(100 * dry).toFixed(1)}%`);
    this.#element.toggleAttribute("data-wet", lagging);
    this.#element.toggleAttribute("data-rtl", style.direction === "rtl");
  }
}

function commonPrefix(a, b) {
  let end = 0;
  while (end < a.length && a[end] === b[end]) end += 1;
  return a.slice(0, end);
}
