/** What the page says in words: the line under the stroke, and what only a screen reader hears. */

export class Voice {
  #notice;
  #announcer;
  #kind = "";

  /** @param {HTMLElement} notice a polite live region @param {HTMLElement} announcer another, unseen */
  constructor(notice, announcer) {
    this.#notice = notice;
    this.#announcer = announcer;
  }

  /** Whether the line under the stroke is taken. */
  get speaking() {
    return this.#kind !== "";
  }

  /**
   * Says something under the stroke.
   * @param {"error"|"note"} kind
   * @param {string} text
   */
  say(kind, text) {
    this.#kind = kind;
    this.#notice.dataset.kind = kind;
    // Setting the same text again would make a screen reader repeat it.
    if (this.#notice.textContent !== text) this.#notice.textContent = text;
  }

  /** @param {"error"|"note"} [kind] only if the line is of this kind */
  hush(kind = this.#kind) {
    if (kind !== this.#kind) return;
    this.#kind = "";
    this.#notice.textContent = "";
  }

  /** @param {string} text */
  announce(text) {
    if (this.#announcer.textContent !== text) this.#announcer.textContent = text;
  }
}
