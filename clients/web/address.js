/** A picture as text: the page's own address, a file name, a curl command. */

/**
 * Words, seed, steps and, where there is a choice, the model live in the page's hash: a link draws the same picture.
 * @returns {{prompt: string, model: string|undefined, seed: number|undefined, steps: number|undefined}}
 */
export function readHash(hash = location.hash) {
  const values = new URLSearchParams(hash.slice(1));
  return {
    prompt: values.get("prompt") ?? "",
    model: values.get("model") ?? undefined,
    seed: wholeNumber(values.get("seed")),
    steps: wholeNumber(values.get("steps")),
  };
}

/** @param {{prompt: string, model?: string, seed: number, steps: number}} state */
export function writeHash({ prompt, model, seed, steps }) {
  const chosen = model === undefined ? {} : { model };
  const hash = prompt === "" ? "" : `#${new URLSearchParams({ prompt, ...chosen, seed, steps })}`;
  // replaceState, not the hash itself: the back button leaves the page, it does not walk through every word.
  history.replaceState(null, "", location.pathname + location.search + hash);
}

/** @param {string|null} text @returns {number|undefined} a number that a seed may be */
export function wholeNumber(text) {
  if (text === null || !/^\d{1,16}$/.test(text)) return undefined;
  const number = Number(text);
  return Number.isSafeInteger(number) ? number : undefined;
}

const EXTENSIONS = { "image/jpeg": "jpg", "image/png": "png", "image/webp": "webp" };

/** @param {{prompt: string, seed: number, blob: Blob}} sheet */
export function fileName({ prompt, seed, blob }) {
  const words = prompt.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? ["picture"];
  return `${words.join("-").slice(0, 60)}-${seed}.${EXTENSIONS[blob.type] ?? "img"}`;
}

/**
 * A command for a POSIX shell. A key stays out of it: the command names the variable that holds it.
 * @param {string} url
 * @param {string} file
 * @param {boolean} withKey
 */
export function curlCommand(url, file, withKey) {
  const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;
  const key = withKey ? ' --header "Authorization: Bearer $ONESTROKE_API_KEY"' : "";
  return `curl --fail${key} --output ${quoted(file)} ${quoted(url)}`;
}
