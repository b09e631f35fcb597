/** Asks for the key where the server wants one. It stays in this tab, and never in an address. */

const PLACE = "onestroke-key";

/**
 * @param {import("./onestroke.js").OnestrokeStream} stream
 * @param {(id: string) => HTMLElement} part finds an element of the page
 * @returns {() => boolean} whether a key is in use
 */
export function askForKey(stream, part) {
  const form = part("access");
  let key = sessionStorage.getItem(PLACE) ?? undefined;
  stream.token = key;

  stream.addEventListener("failed", ({ detail: { code } }) => {
    if (code === "refused") form.hidden = false;
  });

  stream.addEventListener("ready", () => {
    form.hidden = true;
    if (key) sessionStorage.setItem(PLACE, key);
  });

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    key = part("key").value || undefined;
    stream.token = key;
    stream.connect();
  });

  return () => key !== undefined;
}
