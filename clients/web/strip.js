/** The strip of pictures worth keeping: the last twelve that somebody paused to look at. */

const KEPT = 12;
const STEPS_OF_KEY = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };

/** @typedef {import("./easel.js").Sheet} Sheet */

export class Strip {
  #list;
  #onPick;
  /** Newest first. @type {{sheet: Sheet, url: string, item: HTMLLIElement}[]} */ #kept = [];

  /**
   * @param {HTMLUListElement} list
   * @param {(sheet: Sheet) => void} onPick
   */
  constructor(list, onPick) {
    this.#list = list;
    this.#onPick = onPick;
    list.addEventListener("keydown", (event) => this.#onKey(event));
  }

  /** Keeps a picture, once: the same words, model, seed and steps move to the front. @param {Sheet} sheet */
  keep(sheet) {
    const known = this.#kept.find((entry) => sameRequest(entry.sheet, sheet));
    if (known) this.#drop(known);
    const url = URL.createObjectURL(sheet.blob);
    const entry = { sheet, url, item: this.#item(sheet, url) };
    this.#kept.unshift(entry);
    this.#list.prepend(entry.item);
    if (this.#kept.length > KEPT) this.#drop(this.#kept.at(-1));
    this.#rove(this.#buttons().find((button) => button.tabIndex === 0) ?? entry.item.firstChild);
  }

  /** Marks the picture that is on the easel, if it is here. @param {Sheet|null} sheet */
  mark(sheet) {
    for (const { item, sheet: kept } of this.#kept) {
      if (sheet && sameRequest(kept, sheet)) item.firstChild.setAttribute("aria-current", "true");
      else item.firstChild.removeAttribute("aria-current");
    }
  }

  #drop(entry) {
    this.#kept.splice(this.#kept.indexOf(entry), 1);
    entry.item.remove();
    URL.revokeObjectURL(entry.url);
  }

  #item(sheet, url) {
    const image = new Image(64, 64);
    image.src = url;
    image.alt = "";
    const button = document.createElement("button");
    button.type = "button";
    button.tabIndex = -1;
    button.title = `${sheet.prompt} (seed ${sheet.seed})`;
    button.setAttribute("aria-label", `Bring back ${sheet.prompt}, seed ${sheet.seed}`);
    button.append(image);
    button.addEventListener("click", () => {
      this.#rove(button);
      this.#onPick(sheet);
    });
    const item = document.createElement("li");
    item.append(button);
    return item;
  }

  #buttons() {
    return this.#kept.map(({ item }) => item.firstChild);
  }

  /** One stop for Tab; the arrows walk from there. */
  #rove(target) {
    for (const button of this.#buttons()) button.tabIndex = button === target ? 0 : -1;
  }

  #onKey(event) {
    const buttons = this.#buttons();
    const here = buttons.indexOf(document.activeElement);
    const last = buttons.length - 1;
    let there;
    if (event.key in STEPS_OF_KEY) there = Math.min(last, Math.max(0, here + STEPS_OF_KEY[event.key]));
    else if (event.key === "Home") there = 0;
    else if (event.key === "End") there = last;
    if (here < 0 || there === undefined) return;
    event.preventDefault();
    this.#rove(buttons[there]);
    buttons[there].focus();
  }
}

const sameRequest = (a, b) =>
  ["model", "prompt", "seed", "steps", "width", "height"].every((name) => a[name] === b[name]) &&
  a.options?.image === b.options?.image &&
  a.options?.strength === b.options?.strength;
