/** The page: puts the parts together. Words go in at the top, pictures come out on the easel. */

import { askForKey } from "./access.js";
import { readHash, writeHash } from "./address.js";
import { showConnection, showModel } from "./connection.js";
import { Controls } from "./controls.js";
import { Easel } from "./easel.js";
import { brushEnso } from "./enso.js";
import { offerExamples } from "./examples.js";
import { drawTicks, Meter } from "./meter.js";
import { isBlank, OnestrokeStream } from "./onestroke.js";
import { Strip } from "./strip.js";
import { Stroke } from "./stroke.js";
import { Takeaway } from "./takeaway.js";
import { Underlay } from "./underlay.js";
import { Voice } from "./voice.js";

/** A pause in typing, in ms: now the picture is worth keeping, naming and putting into the address. */
const PAUSE = 700;
/** A picture that stands this long, in ms, while another is due shows its age. At typing speed none does. */
const STALE = 900;

const part = (id) => document.getElementById(id);
const words = part("prompt");
const stream = new OnestrokeStream();
const easel = new Easel(part("picture"));
const stroke = new Stroke(part("stroke"), words);
const controls = new Controls(part("controls"));
const underlay = new Underlay(part("controls"), stream);
const voice = new Voice(part("notice"), part("announcer"));
const takeaway = new Takeaway(part, voice, askForKey(stream, part));
const strip = new Strip(part("strip"), bringBack);
const meter = new Meter();
const stopExample = offerExamples(part("examples"), (text) => write(text));

let maxChars = Infinity;
let lastKey = 0;
let pause = 0;
let stale = 0;
/** What the link asked for, until the model has said what it can do. */
let wanted = {};
/** The newest request that the server refused. */
let refused = 0;

// Words in

/** Asks for a picture of what stands in the field. @param {number} [at] when the key was pressed */
function draw(at = performance.now()) {
  const prompt = words.value;
  lastKey = performance.now();
  voice.hush();
  if (isBlank(prompt)) {
    clear();
  } else if ([...prompt].length > maxChars) {
    stream.cancel();
    voice.say("error", `At most ${maxChars} characters; these are ${[...prompt].length}.`);
  } else {
    const { options } = controls;
    stream.type(prompt, { ...options, ...underlay.options(options.steps), at });
  }
  pauseSoon();
  refresh();
}

/** Another letter: where the seed is not locked it changes with every one. */
function key(at) {
  if (/[\r\n]/.test(words.value)) words.value = words.value.replace(/\s*[\r\n]+\s*/g, " ");
  if (!controls.locked) controls.roll();
  draw(at);
}

function write(text) {
  words.value = text;
  // On a phone, focus would bring up the keyboard, over the picture.
  if (!matchMedia("(pointer: coarse)").matches) words.focus();
  key();
}

/** The same words with a new seed; what was there goes to the strip, however short it stood. */
function anotherTake() {
  keep();
  controls.roll();
  draw();
}

function clear() {
  stream.cancel();
  easel.clear();
  takeaway.offer(null);
  strip.mark(null);
}

// Pictures out

stream.addEventListener("image", ({ detail: picture }) => {
  easel.show(picture, {
    onShown: () => {
      const now = performance.now();
      meter.record(now, picture.typedAt === undefined ? undefined : now - picture.typedAt);
      showMeter();
      if (picture.seq > refused) voice.hush("error");
      present(picture);
      pauseSoon();
    },
    onBroken: () => voice.say("error", "The browser could not read the picture."),
  });
});

/** The picture is as new as can be, for now. */
function freshen() {
  clearTimeout(stale);
  stale = 0;
  part("mount").removeAttribute("data-stale");
}

/** From here on it ages. */
function age() {
  stale ||= setTimeout(() => part("mount").setAttribute("data-stale", ""), STALE);
}

/** The page around a picture that has just been put on the easel. */
function present(picture) {
  freshen();
  takeaway.offer(picture);
  strip.mark(picture);
  if (picture.truncated) voice.say("note", "The model reads only so many words: the end of these was cut.");
  else voice.hush("note");
  refresh();
}

function bringBack(sheet) {
  stopExample();
  stream.cancel();
  easel.abandon();
  words.value = sheet.prompt;
  controls.restore(sheet);
  voice.hush();
  easel.show(sheet, { onShown: () => present(sheet) });
  remember();
  refresh();
}

/** When typing pauses, and its picture is there. */
function pauseSoon() {
  clearTimeout(pause);
  pause = setTimeout(onPause, Math.max(0, lastKey + PAUSE - performance.now()));
}

function onPause() {
  remember();
  if (!isCurrent()) return;
  keep();
  // Not before: half a word that is put right is no word.
  if (easel.shown.revisedPrompt) voice.say("note", `Read as “${easel.shown.revisedPrompt}”.`);
  voice.announce(`Picture of ${easel.shown.prompt}`);
  refresh();
}

function keep() {
  if (!isCurrent()) return;
  strip.keep(easel.shown);
  strip.mark(easel.shown);
}

/** Whether the picture on show is that of the words in the field; a blank at the end says nothing new. */
const isCurrent = () => !stream.lagging && easel.shown?.prompt.trim() === words.value.trim();

function remember() {
  const { model, seed, steps } = controls.options;
  writeHash({ prompt: isBlank(words.value) ? "" : words.value, model, seed, steps });
}

/** Everything on the page that follows from the words and the picture. */
function refresh() {
  const empty = isBlank(words.value);
  const length = [...words.value].length;
  words.dataset.length = length <= 34 ? "short" : length <= 90 ? "medium" : "long";
  fitHeight();
  const lagging = stream.lagging && !empty;
  part("mount").toggleAttribute("data-empty", !easel.shown);
  part("mount").toggleAttribute("data-lagging", lagging && easel.shown !== null);
  if (lagging) age();
  else freshen();
  stroke.update(empty ? "" : words.value, easel.shown?.prompt ?? "", lagging);
  part("examples").hidden = !empty || voice.speaking;
  part("hint").hidden = empty || voice.speaking;
}

function fitHeight() {
  if (CSS.supports("field-sizing", "content")) return;
  words.style.height = "auto";
  words.style.height = `${words.scrollHeight}px`;
}

function showMeter() {
  showReading(part("latency"), meter.median?.toFixed(0));
  showReading(part("rate"), meter.rate?.toFixed(1));
  drawTicks(part("ticks"), meter.latencies);
}

function showReading(output, text) {
  output.value = text ?? "–";
  output.toggleAttribute("data-none", text === undefined);
}

// The server's word

stream.addEventListener("ready", ({ detail: { models, limits } }) => {
  maxChars = limits?.max_prompt_chars ?? Infinity;
  const before = JSON.stringify(controls.options);
  controls.offer(models, wanted);
  underlay.offer(controls.model, limits);
  wanted = {};
  // What was typed before the model was known may have asked for steps that it does not have.
  if (JSON.stringify(controls.options) !== before) draw(lastKey);
  voice.hush("error"); // whatever kept us out
  refresh();
});

stream.addEventListener("failed", ({ detail: { message, seq, id, retrying } }) => {
  if (seq !== undefined && seq !== stream.seq) return; // it has been typed over since
  refused = seq ?? (id === undefined ? refused : stream.seq); // a picture's refusal stands until the next key
  voice.say("error", retrying ? `${message} Trying again.` : message);
  refresh();
});

// Hands

words.addEventListener("input", (event) => {
  stopExample();
  key(event.timeStamp);
});

words.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.isComposing) return;
  event.preventDefault();
  anotherTake();
});

controls.addEventListener("change", () => draw());
controls.addEventListener("dice", anotherTake);
controls.addEventListener("model", () => {
  showModel(controls.model, part);
  underlay.offer(controls.model);
  if (underlay.on) suitSteps();
});

underlay.addEventListener("change", () => {
  suitSteps();
  draw();
});

/** Muse edits a picture in many small steps, and draws one from words in few. */
function suitSteps() {
  const { family, default_steps: few, max_steps: many } = controls.model;
  if (family === "muse") controls.restore({ steps: underlay.on ? many : few });
}

underlay.addEventListener("broken", ({ detail: message }) => voice.say("error", message));

controls.addEventListener("invalid", ({ detail: message }) => {
  if (message) voice.say("error", message);
  else voice.hush("error");
  refresh();
});

controls.addEventListener("format", () => {
  stream.format = controls.format;
  draw();
});

document.addEventListener("keydown", (event) => {
  const writing = event.target.closest?.("input, textarea, select");
  if (event.key === "Escape" && !event.isComposing && (!writing || writing === words)) {
    stopExample();
    words.value = "";
    words.focus();
    draw();
  } else if (event.key.toLowerCase() === "s" && (event.ctrlKey || event.metaKey) && !event.altKey) {
    event.preventDefault();
    takeaway.save();
  } else if (event.key === "/" && !writing && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    words.focus();
  }
});

addEventListener("resize", refresh);
addEventListener("hashchange", openLink);

function openLink() {
  stopExample();
  const { prompt, ...settings } = readHash();
  if (stream.state !== "ready") wanted = settings;
  controls.restore(settings);
  words.value = prompt;
  draw();
}

brushEnso(part("enso"));
showConnection(stream, part);
openLink();
stream.connect();
document.fonts.ready.then(refresh);
