/**
 * Onestroke's browser client: one WebSocket on which every key asks for a picture, and a few REST helpers.
 * A plain ES module without dependencies.
 *
 *     import { OnestrokeStream } from "/static/onestroke.js";
 *
 *     const stream = new OnestrokeStream("https://pictures.example");
 *     stream.addEventListener("image", ({ detail }) => show(detail.blob, detail.seed));
 *     stream.addEventListener("failed", ({ detail }) => console.warn(detail.message));
 *     stream.connect();
 *     input.addEventListener("input", (event) => stream.type(input.value, { at: event.timeStamp }));
 *
 * To draw over a picture: `stream.keep("sketch", file)`, then `stream.type(words, { image: "sketch", strength: 0.6 })`.
 *
 * The latest words win. Nothing is queued here: the stream holds one state (what was typed last, and the pictures
 * that are typed over), sends it, and sends it again on the next socket when one breaks. That is all there is to
 * resuming, since the server keeps nothing either.
 *
 * @module onestroke
 */

/**
 * How a picture is to be drawn. What is left out is the server's choice.
 * @typedef {object} DrawOptions
 * @property {string} [model] one of those that `ready` named
 * @property {number} [seed] 0 <= seed < 2^53. Left out, the session keeps one seed of the server's choosing.
 * @property {number} [steps]
 * @property {number} [guidance_scale]
 * @property {string} [negative_prompt]
 * @property {string} [sampler]
 * @property {number} [width] in pixels
 * @property {number} [height] in pixels
 * @property {number} [quality] 1-100, for JPEG and WebP
 */

/**
 * What may stand beside words that are typed; pictures are named by the ids that they are kept under.
 * @typedef {DrawOptions & {
 *   adapters?: {name: string, scale?: number}[],
 *   image?: string, strength?: number, mask?: string,
 *   expand?: {left?: number, top?: number, right?: number, bottom?: number},
 *   control?: {image: string, name?: string, scale?: number, preprocess?: "none"|"canny"},
 *   at?: number,
 * }} TypeOptions
 * `image` is the picture to start from, `strength` (above 0 to 1) how far to leave it; on Muse models `mask` says what of
 * it is painted anew, `expand` how many pixels are painted around it. `control` steers by a picture. `at`: when the key
 * was pressed (`event.timeStamp`).
 */

/**
 * @typedef {object} StreamOptions
 * @property {"jpeg"|"png"|"webp"} [format] of the pictures; the server's default is JPEG
 * @property {string} [token] sent in the first message, where the server asks for one
 * @property {number} [pingEvery] ms between pings (20,000)
 * @property {number} [pongWithin] ms without a sign of life after which the socket counts as dead (10,000)
 * @property {number} [connectWithin] ms for the socket to open (10,000)
 * @property {number} [retryBase] ms before the first reconnect; doubles with every failure (250)
 * @property {number} [retryCap] ms, the longest wait between reconnects (10,000)
 * @property {typeof WebSocket} [WebSocket] another implementation, for tests or for old runtimes
 */

/** @typedef {"idle"|"connecting"|"warming"|"ready"|"draining"|"waiting"|"closed"} StreamState */

/**
 * A picture that arrived: the detail of an `image` event.
 * @typedef {object} Picture
 * @property {number} seq the number that `type()` returned for it
 * @property {string} prompt
 * @property {string} model
 * @property {number} seed the seed used, whoever chose it
 * @property {number} steps
 * @property {number} width
 * @property {number} height
 * @property {boolean} truncated the prompt was longer than the model reads, and was cut
 * @property {string|undefined} revisedPrompt how the prompt was read, where slips in it were put right
 * @property {boolean} latest nothing newer has been typed
 * @property {number} typedAt when its key was pressed, on the clock of performance.now()
 * @property {TypeOptions|undefined} options what it was asked for with, unless that was 64 keys ago
 * @property {number|undefined} latency ms from the key to here; undefined when sent again after a break
 * @property {Blob} blob the encoded picture, with its content type
 * @property {object} header the server's header as it came, with its timings and batch size
 */

/**
 * What went wrong: the detail of a `failed` event, and the fields of an OnestrokeError.
 * @typedef {object} Failure
 * @property {string} code stable and machine-readable
 * @property {string} message for people
 * @property {string} [field] the field to change
 * @property {number} [seq] the request that failed
 * @property {string} [id] the kept picture that the server does not take
 * @property {number} [retryAfterMs] when trying again may help
 * @property {boolean} [retrying] the stream will try again by itself
 * @property {boolean} [fatal] the stream has given up; `connect()` starts it again
 */

const DEFAULTS = Object.freeze({
  pingEvery: 20_000,
  pongWithin: 10_000,
  connectWithin: 10_000,
  retryBase: 250,
  retryCap: 10_000,
});

/** A link that held this long is healthy: the next break starts from the shortest wait again. */
const HEALTHY_AFTER = 5_000;
/** How long a draining server may take over the picture in hand before we look for another. */
const DRAIN_PATIENCE = 3_000;
/** An overloaded server is asked again this often for the same words, then the person has to press a key. */
const MAX_RESENDS = 5;
/** Keys remembered until their pictures come; they come within a few keys or not at all. */
const MAX_KEYS = 64;

/** An error of the server's or of the wire, with a stable `code`. */
export class OnestrokeError extends Error {
  /** @param {Failure} failure @param {ErrorOptions} [options] */
  constructor({ code, message, ...rest }, options) {
    super(message, options);
    this.name = "OnestrokeError";
    this.code = code;
    Object.assign(this, rest);
  }
}

/**
 * Takes one binary message apart: `[u32 big-endian header length][UTF-8 JSON header][image bytes]`.
 *
 * @param {ArrayBuffer} buffer
 * @returns {{header: object, bytes: Uint8Array}} `bytes` is a view, not a copy
 * @throws {OnestrokeError} `protocol_error`, when it is not such a message
 */
export function parseFrame(buffer) {
  const broken = (why, cause) =>
    new OnestrokeError({ code: "protocol_error", message: `The server sent a broken picture: ${why}` }, { cause });
  if (buffer.byteLength < 4) throw broken("too short for a header");
  const headerLength = new DataView(buffer).getUint32(0);
  if (headerLength > buffer.byteLength - 4) throw broken("the header is longer than the message");
  try {
    const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, headerLength)));
    return { header, bytes: new Uint8Array(buffer, 4 + headerLength) };
  } catch (cause) {
    throw broken("the header is not JSON", cause);
  }
}

/**
 * The same form the other way, for a picture that is sent.
 *
 * @param {object} header
 * @param {Blob} picture
 * @returns {Blob}
 */
export function packFrame(header, picture) {
  const encoded = new TextEncoder().encode(JSON.stringify(header));
  const length = new DataView(new ArrayBuffer(4));
  length.setUint32(0, encoded.length);
  return new Blob([length, encoded, picture]);
}

/** Whether a prompt asks for nothing, so that it must not be sent. @param {string} prompt */
export const isBlank = (prompt) => prompt.trim() === "";

/**
 * A typing session.
 *
 * Events, all CustomEvents with a `detail`:
 * - `state` {state, attempt, retryInMs?, reason?}: the connection changed, see `state`
 * - `status` {stage, fraction}: the model is warming up; fraction is 0 to 1
 * - `ready` {session, model, models, limits}: pictures can be made; `model` is the default one of `models`
 * - `image` {@link Picture}; its seq is above every earlier one's
 * - `kept` {id, width, height}: the server has the picture of that id; again after a reconnect
 * - `superseded` {through}: of the requests up to here, those still waiting will not be drawn
 * - `failed` {@link Failure}
 * - `draining` {}: the server is about to stop; the stream moves to another by itself
 */
export class OnestrokeStream extends EventTarget {
  #url;
  #options;
  #Socket;
  /** @type {WebSocket|null} */ #socket = null;
  /** @type {StreamState} */ #state = "idle";
  #attempt = 0;
  #timers = new Map();
  /** Not before this many ms: what an overloaded server asked for. */ #holdOff = 0;

  #seq = 0;
  /** What was typed last. @type {{seq: number, prompt: string, options: DrawOptions}|null} */ #latest = null;
  /** The newest seq sent on this socket. */ #sent = 0;
  /** The newest seq shown or cancelled: nothing at or below it is delivered. */ #floor = 0;
  /** The newest seq that failed for good: nothing more is expected of it. */ #failed = 0;
  /** When each key was pressed, and with which options. @type {Map<number, {at: number, options: TypeOptions}>} */
  #keys = new Map();
  #resends = 0;
  #frame = 0;
  /** Those to type over, by id. @type {Map<string, Blob>} */ #pictures = new Map();
  /** The ids of those that were sent on this socket. */ #delivered = new Set();
  /** The server's seed for this session, kept so that a new session goes on with it. */ #seed;

  /**
   * @param {string|URL} [server] the server's address, http(s) or ws(s); by default the page's own
   * @param {StreamOptions} [options]
   */
  constructor(server = globalThis.location?.origin, options = {}) {
    super();
    this.#url = streamUrl(server);
    this.#options = { ...DEFAULTS, ...options };
    this.#Socket = options.WebSocket ?? globalThis.WebSocket;
  }

  /** Where the connection stands. @returns {StreamState} */
  get state() {
    return this.#state;
  }

  /** The seq of what was typed last, 0 before the first key. */
  get seq() {
    return this.#latest?.seq ?? 0;
  }

  /** Whether a picture of what was typed last is still to come. */
  get lagging() {
    return this.#latest !== null && Math.max(this.#floor, this.#failed) < this.#latest.seq;
  }

  /** The format of the pictures. It is part of the greeting, so a new one reconnects. */
  get format() {
    return this.#options.format ?? "jpeg";
  }

  set format(format) {
    if (format === this.format) return;
    this.#options.format = format;
    if (this.#socket) this.#open();
  }

  /** A server that asks for a token refuses without. Another one connects anew. @param {string|undefined} token */
  set token(token) {
    if (token === this.#options.token) return;
    this.#options.token = token;
    if (this.#socket) this.#open();
  }

  /** Connects, and stays connected until `close()`. Does nothing while connected. */
  connect() {
    if (this.#socket) return;
    globalThis.addEventListener?.("online", this.#wake);
    globalThis.document?.addEventListener("visibilitychange", this.#wake);
    this.#attempt = 0;
    this.#open();
  }

  /** Closes for good (until `connect()`), and forgets what was typed; pictures stay kept. */
  close() {
    globalThis.removeEventListener?.("online", this.#wake);
    globalThis.document?.removeEventListener("visibilitychange", this.#wake);
    this.cancel();
    this.#hangUp(1000, "bye");
    this.#enter("closed");
  }

  /**
   * Asks for a picture of these words; what was asked before gives way. Keys that fall into one animation
   * frame are sent as one, the first of them at once. A blank prompt is a `cancel()`.
   *
   * @param {string} prompt
   * @param {TypeOptions} [options]
   * @returns {number|null} the request's seq; null for a blank prompt
   */
  type(prompt, { at = performance.now(), ...options } = {}) {
    if (isBlank(prompt)) {
      this.cancel();
      return null;
    }
    this.#resends = 0;
    this.#forgetTimer("resend");
    return this.#take(prompt, options, at);
  }

  /** Nothing is wanted any more: what is in flight is cancelled, and is not delivered if it comes anyway. */
  cancel() {
    if (!this.#latest) return;
    if (this.#awaiting) this.#send({ type: "cancel", seq: this.#sent });
    this.#floor = this.#latest.seq;
    this.#latest = null;
    this.#keys.clear();
    this.#forgetTimer("resend");
  }

  /**
   * Keeps a picture that `type()` may then name: sent once on each connection, in place of the one of that id. The
   * server keeps few (`limits` of `ready`); one that it does not take fails, with its `id`, and is forgotten.
   *
   * @param {string} id 1 to 64 characters
   * @param {Blob} picture PNG, JPEG or WebP; a File is one
   */
  keep(id, picture) {
    this.#pictures.set(id, picture);
    this.#delivered.delete(id);
    this.#deliver();
  }

  /** Lets go of a kept picture, here and at the server. @param {string} id */
  forget(id) {
    this.#pictures.delete(id);
    if (this.#delivered.delete(id)) this.#send({ type: "forget", id });
  }

  // What was typed

  /** Whether this socket still owes an answer. */
  get #awaiting() {
    return this.#sent > Math.max(this.#floor, this.#failed);
  }

  #take(prompt, options, at) {
    const seq = ++this.#seq;
    this.#latest = { seq, prompt, options };
    this.#keys.set(seq, { at, options });
    if (this.#keys.size > MAX_KEYS) this.#keys.delete(this.#keys.keys().next().value);
    if (!this.#frame) this.#flush();
    return seq;
  }

  /** Sends the latest state if this socket has not seen it, then holds back until the frame is over. */
  #flush() {
    this.#frame = 0;
    if (!this.lagging || this.#sent >= this.#latest.seq) return;
    if (this.#state === "draining") this.#moveOn();
    if (this.#state !== "ready") return;
    this.#deliver(); // one that an overloaded server put off
    const { seq, prompt, options } = this.#latest;
    const seed = options.seed ?? this.#seed;
    if (!this.#send({ type: "generate", seq, prompt, ...options, seed })) return;
    this.#sent = seq;
    this.#frame = afterFrame(() => this.#flush());
  }

  /** Sends the pictures that this socket has not seen. */
  #deliver() {
    if (this.#state !== "ready") return;
    for (const [id, picture] of this.#pictures) {
      if (this.#delivered.has(id)) continue;
      this.#delivered.add(id);
      this.#socket.send(packFrame({ type: "image", id }, picture));
    }
  }

  // The socket

  #open() {
    this.#hangUp(1000, "starting over");
    this.#sent = 0;
    this.#delivered.clear();
    this.#enter("connecting");
    let socket;
    try {
      socket = new this.#Socket(this.#url);
    } catch (cause) {
      this.#fail({ code: "bad_address", message: `Cannot connect to ${this.#url}: ${cause.message}`, fatal: true });
      this.#enter("closed");
      return;
    }
    this.#socket = socket;
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      const { format, token } = this.#options;
      this.#send({ type: "hello", format, token });
      this.#expectPong();
    };
    socket.onmessage = ({ data }) => this.#onMessage(data);
    socket.onclose = ({ code, reason }) => this.#onClose(code, reason);
    this.#setTimer("connect", this.#options.connectWithin, () => {
      this.#breakOff("the connection timed out");
    });
  }

  /** Lets go of the socket at once: a half-open one may take a minute to say that it has closed. */
  #hangUp(code, reason) {
    for (const name of [...this.#timers.keys()]) this.#forgetTimer(name);
    const socket = this.#socket;
    if (!socket) return;
    this.#socket = null;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close(code, reason);
  }

  #breakOff(reason) {
    this.#hangUp(4000, reason);
    this.#waitAndRetry(reason);
  }

  #onClose(code, reason) {
    // 1008 later than the greeting is about something else than who we are, a message lost on the way say.
    const refused = (code === 1008 && this.#state === "connecting") || (code >= 4400 && code < 4500);
    this.#hangUp();
    if (refused) {
      const message = reason || "The server refuses this connection.";
      this.#fail({ code: "refused", message, fatal: true });
      this.#enter("closed", { reason: message });
      return;
    }
    this.#waitAndRetry(reason || CLOSE_REASONS[code] || `the connection broke (${code})`);
  }

  #waitAndRetry(reason) {
    const { retryBase, retryCap } = this.#options;
    const longest = Math.min(retryCap, retryBase * 2 ** this.#attempt);
    // Half fixed, half random: a thousand pages that lost one server must not come back in one blow.
    const retryInMs = Math.round(Math.max(this.#holdOff, longest / 2) + (Math.random() * longest) / 2);
    this.#attempt += 1;
    this.#holdOff = 0;
    this.#enter("waiting", { retryInMs, reason });
    this.#setTimer("retry", retryInMs, () => this.#open());
  }

  /** The network or the person is back: no waiting now, and a socket may have died in its sleep. */
  #wake = () => {
    if (globalThis.document?.hidden) return;
    if (this.#state === "waiting") this.#open();
    else this.#ping();
  };

  /** A draining server gets no more work: go where the balancer now leads, without haste. */
  #moveOn() {
    if (this.#state !== "draining") return;
    this.#hangUp(1000, "moving on");
    this.#waitAndRetry("the server is restarting");
  }

  #send(message) {
    const socket = this.#socket;
    if (!socket || socket.readyState !== 1) return false;
    socket.send(JSON.stringify(message));
    return true;
  }

  // What the server says

  #onMessage(data) {
    this.#forgetTimer("connect");
    this.#expectPing();
    try {
      if (typeof data !== "string") return this.#onImage(parseFrame(data));
      this.#onText(JSON.parse(data));
    } catch (error) {
      const message = error instanceof OnestrokeError ? error.message : "The server sent what is not JSON.";
      this.#fail({ code: "protocol_error", message });
    }
    return undefined;
  }

  #onText(message) {
    switch (message.type) {
      case "status":
        if (this.#state !== "warming") this.#enter("warming");
        this.#emit("status", { stage: message.stage, fraction: message.fraction });
        break;
      case "ready":
        this.#onReady(message);
        break;
      case "kept":
        this.#emit("kept", { id: message.id, width: message.width, height: message.height });
        break;
      case "superseded":
        this.#emit("superseded", { through: message.through });
        break;
      case "error":
        this.#onError(message);
        break;
      case "draining":
        this.#onDraining();
        break;
      default: // pong, and what later servers may add
    }
  }

  #onReady({ session, model, models = [model], limits }) {
    this.#enter("ready");
    this.#holdOff = 0;
    this.#setTimer("healthy", HEALTHY_AFTER, () => {
      this.#attempt = 0;
    });
    this.#emit("ready", { session, model, models, limits });
    this.#deliver();
    this.#flush();
  }

  #onImage({ header, bytes }) {
    const { seq, seed } = header;
    if (!(seq > this.#floor)) return;
    this.#floor = seq;
    this.#resends = 0;
    if (this.#latest?.options.seed === undefined) this.#seed ??= seed;
    const { at: typedAt, options } = this.#keys.get(seq) ?? {};
    for (const earlier of this.#keys.keys()) if (earlier <= seq) this.#keys.delete(earlier);
    this.#emit("image", {
      seq,
      prompt: header.prompt,
      model: header.model,
      seed,
      steps: header.steps,
      width: header.width,
      height: header.height,
      truncated: header.truncated === true,
      revisedPrompt: header.revised_prompt ?? undefined,
      latest: !this.lagging,
      typedAt,
      options,
      latency: typedAt === undefined ? undefined : performance.now() - typedAt,
      blob: new Blob([bytes], { type: header.content_type }),
      header,
    });
    if (this.#state === "draining" && !this.#awaiting) this.#moveOn();
  }

  #onError({ seq, id, code, message, field, retry_after_ms: retryAfterMs }) {
    if (id !== undefined) {
      this.#delivered.delete(id);
      if (!retryAfterMs) this.#pictures.delete(id);
      this.#fail({ code, message, field, id, retryAfterMs, retrying: Boolean(retryAfterMs) });
      return;
    }
    const concernsLatest = seq === undefined || seq === null || seq === this.#latest?.seq;
    const comesAgain = retryAfterMs !== undefined && retryAfterMs !== null;
    const retrying = comesAgain && concernsLatest && this.#resends < MAX_RESENDS;
    if (seq > this.#failed && !retrying) this.#failed = seq;
    this.#fail({ code, message, field, seq: seq ?? undefined, retryAfterMs: retryAfterMs ?? undefined, retrying });
    if (!retrying) return;
    if (this.#state === "ready" && this.lagging) {
      this.#resends += 1;
      this.#setTimer("resend", retryAfterMs, () => this.#resend());
    } else {
      this.#holdOff = retryAfterMs; // refused at the door: the socket is about to close
    }
  }

  /** The same words under a new number: within a socket numbers only rise. */
  #resend() {
    if (!this.lagging) return;
    const { prompt, options, seq } = this.#latest;
    this.#take(prompt, options, this.#keys.get(seq)?.at ?? performance.now());
  }

  #onDraining() {
    this.#enter("draining");
    this.#emit("draining", {});
    if (!this.#awaiting) this.#moveOn();
    else this.#setTimer("drain", DRAIN_PATIENCE, () => this.#moveOn());
  }

  // Signs of life: browsers cannot send WebSocket pings, so there is one in the protocol

  #expectPing() {
    this.#forgetTimer("pong");
    this.#setTimer("ping", this.#options.pingEvery, () => this.#ping());
  }

  #ping() {
    if (this.#send({ type: "ping" })) this.#expectPong();
  }

  #expectPong() {
    this.#setTimer("pong", this.#options.pongWithin, () => this.#breakOff("the server went silent"));
  }

  // Events and timers

  #enter(state, more = {}) {
    this.#state = state;
    this.#emit("state", { state, attempt: this.#attempt, ...more });
  }

  #fail(failure) {
    this.#emit("failed", failure);
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  #setTimer(name, ms, then) {
    this.#forgetTimer(name);
    this.#timers.set(
      name,
      setTimeout(() => {
        this.#timers.delete(name);
        then();
      }, ms),
    );
  }

  #forgetTimer(name) {
    clearTimeout(this.#timers.get(name));
    this.#timers.delete(name);
  }
}

const CLOSE_REASONS = {
  1001: "the server went away",
  1006: "the connection was lost",
  1011: "the server had an internal error",
  1012: "the server is restarting",
  1013: "the server is busy",
};

function streamUrl(server) {
  const url = new URL("/v1/stream", server);
  url.protocol = url.protocol.replace("http", "ws");
  return url.href;
}

/** Runs once when the frame is over. A hidden page has no frames, so a timer stands by. */
function afterFrame(then) {
  if (!globalThis.requestAnimationFrame) return setTimeout(then, 16);
  let frame = 0;
  const once = () => {
    cancelAnimationFrame(frame);
    clearTimeout(timer);
    then();
  };
  const timer = setTimeout(once, 50);
  frame = requestAnimationFrame(once);
  return frame;
}

// The same over REST: one picture a request

/**
 * The address of a picture, for `<img src>`, a link or curl.
 *
 * @param {string} prompt
 * @param {DrawOptions & {format?: string}} [options]
 * @param {string|URL} [server]
 * @returns {string}
 */
export function generateUrl(prompt, options = {}, server = globalThis.location?.origin) {
  const { width, height, ...rest } = options;
  const size = width && height ? `${width}x${height}` : undefined;
  const url = new URL("/v1/generate", server);
  for (const [name, value] of Object.entries({ prompt, ...rest, size })) {
    if (value !== undefined && value !== null) url.searchParams.set(name, String(value));
  }
  return url.href;
}

/**
 * Draws one picture.
 *
 * @param {string} prompt
 * @param {DrawOptions & {format?: string}} [options]
 * @param {{server?: string|URL, token?: string, signal?: AbortSignal}} [how]
 * @returns {Promise<{blob: Blob, headers: Headers}>}
 * @throws {OnestrokeError} with the server's code and message
 */
export async function generate(prompt, options = {}, { server, token, signal } = {}) {
  const response = await ask(generateUrl(prompt, options, server), { token, signal });
  return { blob: await response.blob(), headers: response.headers };
}

/**
 * The models that the server has, as OpenAI's list gives them, each with an `onestroke` object.
 *
 * @param {{server?: string|URL, token?: string, signal?: AbortSignal}} [how]
 * @returns {Promise<object[]>}
 * @throws {OnestrokeError}
 */
export async function listModels({ server = globalThis.location?.origin, token, signal } = {}) {
  const response = await ask(new URL("/v1/models", server), { token, signal });
  return (await response.json()).data;
}

async function ask(url, { token, signal }) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  let response;
  try {
    response = await fetch(url, { headers, signal });
  } catch (cause) {
    if (signal?.aborted) throw cause;
    throw new OnestrokeError({ code: "unreachable", message: "The server cannot be reached." }, { cause });
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  const { code, message, param: field } = body.error ?? {};
  const seconds = Number(response.headers.get("retry-after"));
  throw new OnestrokeError({
    code: code ?? `http_${response.status}`,
    message: message ?? `The server answered ${response.status} ${response.statusText}.`.replace(" .", "."),
    field: field ?? undefined,
    retryAfterMs: seconds > 0 ? 1000 * seconds : undefined,
  });
}
