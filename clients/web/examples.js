/** A few things to try. They write themselves key by key, so that the picture can be seen following. */

const EXAMPLES = [
  "red apple on a blue background",
  "a cat and a dog on pink",
  "rocket on a purple background",
  "pixel art pizza on black",
];
const KEY_EVERY = 55; // ms, about how fast a good typist is

/**
 * @param {HTMLUListElement} list
 * @param {(text: string) => void} onText called with ever more of the example
 * @returns {() => void} stops the writing
 */
export function offerExamples(list, onText) {
  let timer = 0;
  const stop = () => clearInterval(timer);

  const write = (text) => {
    stop();
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) return onText(text);
    const letters = [...text];
    let written = 0;
    timer = setInterval(() => {
      written += 1;
      onText(letters.slice(0, written).join(""));
      if (written === letters.length) stop();
    }, KEY_EVERY);
    return undefined;
  };

  const items = EXAMPLES.map((text) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = text;
    button.addEventListener("click", () => write(text));
    const item = document.createElement("li");
    item.append(button);
    return item;
  });
  list.replaceChildren(...items);
  return stop;
}
