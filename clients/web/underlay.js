/** The picture that is drawn over: chosen or dropped, shown small, sent once, and how far it is left behind. */

const TYPES = ["image/png", "image/jpeg", "image/webp"];
/** A picture that the server would not take as it is, is redrawn with sides of at most so many pixels. */
const LONGEST = 1024;

/**
 * Events: `change` when another picture is wanted, `broken` with a message when a file is no picture.
 * Shown only for models that start from pictures.
 */
export class Underlay extends EventTarget {
  #stream;
  #field;
  #file;
  #away;
  #shown;
  #strength;
  #strengthField;
  #strengthValue;
  #model;
  #maxBytes = Infinity;
  #count = 0;
  /** What the picture is kept under; "" where there is none. */ #id = "";

  /**
   * @param {HTMLFormElement} form
   * @param {import("./onestroke.js").OnestrokeStream} stream
   */
  constructor(form, stream) {
    super();
    const part = (id) => form.querySelector(`#${id}`);
    this.#stream = stream;
    this.#field = part("over-field");
    this.#file = part("over");
    this.#away = part("over-away");
    this.#shown = part("over-shown");
    this.#strength = part("strength");
    this.#strengthField = part("strength-field");
    this.#strengthValue = part("strength-value");
    this.#file.addEventListener("change", () => this.#take(this.#file.files[0]));
    this.#away.addEventListener("click", () => this.#set(null));
    this.#strength.addEventListener("input", () => {
      this.#refresh();
      this.#changed();
    });
    document.addEventListener("dragover", (event) => event.preventDefault());
    document.addEventListener("drop", (event) => this.#onDrop(event));
    stream.addEventListener("failed", ({ detail: { id, retrying } }) => {
      if (id && id === this.#id && !retrying) this.#set(null);
    });
  }

  /** What goes with the words. @param {number} steps those asked for: enough of them are left to take */
  options(steps) {
    if (!this.on) return {};
    if (!this.#hasStrength) return { image: this.#id };
    const strength = this.#strength.valueAsNumber;
    return { image: this.#id, strength, steps: Math.max(steps, Math.ceil(1 / strength)) };
  }

  /** Whether there is a picture, and a model that starts from one. */
  get on() {
    return this.#id !== "" && !this.#field.hidden;
  }

  /**
   * @param {object} model
   * @param {{max_picture_bytes?: number}} [limits]
   */
  offer(model, limits) {
    this.#model = model;
    this.#maxBytes = limits?.max_picture_bytes ?? this.#maxBytes;
    this.#field.hidden = !model.reads_pictures;
    // A strength below one step's share leaves no step to take.
    this.#strength.min = String(Math.max(0.1, Math.ceil(20 / model.max_steps) / 20));
    this.#refresh();
  }

  get #hasStrength() {
    return this.#model?.family !== "muse";
  }

  #onDrop(event) {
    event.preventDefault();
    if (!this.#field.hidden && event.dataTransfer.files.length) this.#take(event.dataTransfer.files[0]);
  }

  async #take(file) {
    if (!file) return;
    try {
      const fits = TYPES.includes(file.type) && file.size <= this.#maxBytes;
      this.#set(fits ? file : await redrawn(file));
    } catch {
      this.dispatchEvent(new CustomEvent("broken", { detail: `${file.name || "This"} is no picture that can be read.` }));
    }
  }

  /** @param {Blob|null} picture */
  #set(picture) {
    if (this.#id) {
      this.#stream.forget(this.#id);
      URL.revokeObjectURL(this.#shown.src);
    }
    this.#id = picture ? `picture-${(this.#count += 1)}` : "";
    this.#file.value = "";
    if (picture) {
      this.#stream.keep(this.#id, picture);
      this.#shown.src = URL.createObjectURL(picture);
    }
    this.#refresh();
    this.#changed();
  }

  #refresh() {
    this.#shown.hidden = this.#away.hidden = !this.#id;
    this.#strengthValue.value = this.#strength.value;
    this.#strengthField.hidden = !this.on || !this.#hasStrength;
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}

/** As a JPEG of a size that any server takes. */
async function redrawn(file) {
  const bitmap = await createImageBitmap(file);
  const scale = Math.min(1, LONGEST / Math.max(bitmap.width, bitmap.height));
  const canvas = new OffscreenCanvas(Math.round(bitmap.width * scale), Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return canvas.convertToBlob({ type: "image/jpeg", quality: 0.92 });
}
