/** What can be taken away from the page: the picture as a file, its link, its curl command. */

import { curlCommand, fileName } from "./address.js";
import { generateUrl } from "./onestroke.js";

const THANKS_FOR = 1_400; // ms

export class Takeaway {
  #download;
  #buttons;
  /** The picture on offer, with the settings that draw it again. */ #offer = null;
  #voice;

  /**
   * @param {(id: string) => HTMLElement} part finds an element of the page
   * @param {import("./voice.js").Voice} voice
   * @param {() => boolean} needsKey whether the server asks for one
   */
  constructor(part, voice, needsKey) {
    this.#voice = voice;
    this.#download = part("download");
    this.#buttons = [part("copy-link"), part("copy-curl")];
    const [link, curl] = this.#buttons;
    link.addEventListener("click", () => this.#copy(link, this.#url()));
    curl.addEventListener("click", () => {
      this.#copy(curl, curlCommand(this.#url(), fileName(this.#offer), needsKey()));
    });
  }

  /** @param {import("./easel.js").Sheet|null} sheet null: nothing to take */
  offer(sheet) {
    if (this.#offer) URL.revokeObjectURL(this.#download.href);
    this.#offer = sheet;
    // What was drawn over a picture cannot be drawn again by an address.
    for (const button of this.#buttons) button.disabled = !sheet || Boolean(sheet.options?.image);
    if (sheet) {
      this.#download.href = URL.createObjectURL(sheet.blob);
      this.#download.download = fileName(sheet);
      this.#download.removeAttribute("aria-disabled");
    } else {
      this.#download.removeAttribute("href");
      this.#download.setAttribute("aria-disabled", "true");
    }
  }

  /** Saves the very bytes that are on show. */
  save() {
    if (this.#offer) this.#download.click();
  }

  #url() {
    const { prompt, model, seed, steps, width, height, blob } = this.#offer;
    return generateUrl(prompt, { model, seed, steps, width, height, format: blob.type.replace("image/", "") });
  }

  async #copy(button, text) {
    const done = await copyText(text);
    if (!done) {
      this.#voice.say("error", "The browser did not allow copying.");
      return;
    }
    this.#voice.announce("Copied");
    button.dataset.done = "";
    setTimeout(() => delete button.dataset.done, THANKS_FOR);
  }
}

/** The clipboard API wants https or localhost; a server on the local network has neither. */
async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const field = document.createElement("textarea");
    field.value = text;
    field.className = "unseen";
    document.body.append(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    return done;
  }
}
