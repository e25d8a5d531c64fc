// The page: what a click does, and what is shown of an answer.

import { getJson, key, translate } from "./server.js";
import { startCamera } from "./live.js";
import { makeStage } from "./stage.js";

const PARTS = ["queue", "decode", "engine", "encode"];
const LATENCY_EVERY_MS = 2000;
const RETRY_MS = 1000;

const $ = (id) => document.getElementById(id);
const state = { file: null, abort: null, url: null, stopCamera: null, model: null, afterKey: null };
const stage = makeStage($("stage"), { onZoom: showZoom });

function say(text) {
  $("status").textContent = text;
  $("error").hidden = true;
}

function complain(error) {
  $("status").textContent = "";
  $("error").textContent = error.message;
  $("error").hidden = false;
}

function showZoom(zoom) {
  const percent = `${Math.round(zoom * 100)} %`;
  $("fit").textContent = percent;
  $("fit").setAttribute("aria-label", `Zoom ${percent}, back to fit`);
  $("smaller").disabled = zoom <= 1;
}

const number = (ms) => (ms < 9.95 ? ms.toFixed(1) : ms.toFixed(0));

function showTiming(timing, note, figure, unit = "ms") {
  const total = PARTS.reduce((sum, part) => sum + (timing[part] ?? 0), 0);
  $("total").textContent = figure ?? number(total);
  $("total-unit").textContent = unit;
  $("total-note").textContent = note;
  for (const id of ["figure", "parts", "legend"]) $(id).hidden = false;
  for (const part of PARTS) {
    $(part).textContent = `${number(timing[part] ?? 0)} ms`;
    document.querySelector(`#parts .${part}`).style.flexGrow = (timing[part] ?? 0) / (total || 1);
  }
}

function offerDownload(blob, name) {
  if (state.url) URL.revokeObjectURL(state.url);
  state.url = URL.createObjectURL(blob);
  const ending = blob.type.split("/")[1].replace("jpeg", "jpg");
  const stem = name.replace(/\.[^.]*$/, "");
  Object.assign($("download"), { href: state.url, download: `${stem}-translated.${ending}`, hidden: false });
}

const wishes = () => ({ size: $("size").value, format: $("format").value });

async function open(file) {
  state.stopCamera?.();
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    complain(new Error(`${file.name || "That"} is no image that this browser opens; take a JPEG, PNG or WebP.`));
    return;
  }
  state.file = file;
  $("drop").hidden = true;
  $("zooming").hidden = false;
  stage.showBefore(bitmap);
  bitmap.close();
  await run();
}

async function run() {
  const { file } = state;
  if (!file) return;
  state.abort?.abort();
  const abort = (state.abort = new AbortController());
  $("download").hidden = true;
  $("busy").hidden = false;
  const name = file.name || "picture";
  say(`Translating ${name} ...`);
  try {
    const { blob, timing, roundMs } = await translate(file, wishes(), abort.signal);
    const bitmap = await createImageBitmap(blob);
    if (abort.signal.aborted) return;
    stage.showAfter(bitmap);
    const size = `${bitmap.width} \u00d7 ${bitmap.height} pixels, ${bytes(blob.size)}`;
    bitmap.close();
    offerDownload(blob, name);
    say(`${name}: ${size}.`);
    showTiming(timing, `in the server, ${number(roundMs)} ms in all`);
    showLatency();
  } catch (error) {
    if (abort.signal.aborted) return;
    if (error.status === 401) askForKey(run);
    complain(error);
  } finally {
    if (state.abort === abort) $("busy").hidden = true;
  }
}

const bytes = (count) => (count < 1e6 ? `${Math.round(count / 1e3)} kB` : `${(count / 1e6).toFixed(1)} MB`);

async function toggleCamera() {
  if (state.stopCamera) return state.stopCamera();
  state.abort?.abort();
  state.file = null;
  $("busy").hidden = true;
  say("Starting the camera ...");
  const { size } = wishes();
  const live = { latency: 0 };
  try {
    state.stopCamera = await startCamera(
      { size, format: "jpeg" },
      {
        square: size === "model" ? state.model?.profile.image_size : 0,
        onFrame({ source, answer, blob, timing, roundMs, fps }) {
          $("drop").hidden = true;
          $("zooming").hidden = false;
          stage.showFrame(source, answer);
          live.last = blob;
          if (!live.running) say("Live from the camera.");
          live.running = true;
          showTiming(timing, `${number(roundMs)} ms from camera to screen`, String(fps), "frames per second");
        },
        onEnd(why) {
          clearInterval(live.timer);
          state.stopCamera = null;
          showCamera(false);
          if (live.last) offerDownload(live.last, "camera");
          else stage.hide(), ($("drop").hidden = false);
          if (why) complain(new Error(why));
          else say("The camera is off.");
        },
      },
    );
    $("download").hidden = true;
    live.timer = setInterval(showLatency, LATENCY_EVERY_MS);
    showCamera(true);
  } catch (error) {
    complain(error);
  }
}

function showCamera(on) {
  $("camera").textContent = on ? "Stop camera" : "Start camera";
  $("camera").setAttribute("aria-pressed", on);
  for (const id of ["size", "format"]) $(id).disabled = on;
}

async function showLatency() {
  let view;
  try {
    view = await getJson("v1/latency");
  } catch {
    return; // the next one may tell
  }
  const { budget, image_size: side, engine_at_image_size: seen } = view;
  const rows = ["p50", "p90", "p99"].map((p) => [p, seen[`${p}_ms`], budget[`${p}_ms`]]);
  const known = rows.filter(([, ms]) => ms !== null);
  const over = known.filter(([, ms, allowed]) => ms > allowed).map(([p]) => p);
  $("verdict").dataset.verdict = !known.length ? "none" : over.length ? "over" : "within";
  $("verdict").textContent = !known.length
    ? `Not judged yet: ${seen.count} of 7 images of ${side} \u00d7 ${side}.`
    : over.length
      ? `Over budget at ${over.join(" and ")}.`
      : `Within budget, as far as ${seen.window} images tell.`;
  $("budget-note").textContent = `The engine alone, at ${side} \u00d7 ${side}`;
  $("budget").hidden = false;
  $("budget").tBodies[0].replaceChildren(
    ...rows.map(([p, ms, allowed]) => row(p, ms === null ? "\u2013" : `${number(ms)} ms`, `${number(allowed)} ms`)),
  );
}

function row(head, ...cells) {
  const line = document.createElement("tr");
  const name = Object.assign(document.createElement("th"), { scope: "row", textContent: head });
  line.append(name, ...cells.map((text) => Object.assign(document.createElement("td"), { textContent: text })));
  return line;
}

async function showModel() {
  try {
    state.model = await getJson("v1/model");
  } catch (error) {
    $("headline").textContent = "";
    complain(error);
    if (error.status === 401) askForKey(showModel);
    else setTimeout(showModel, RETRY_MS);
    return;
  }
  const { model, precision, backend, digest, profile } = state.model;
  say("");
  $("headline").textContent = `${model.name}, ${precision.toUpperCase()} on ${profile.name}`;
  document.title = `${model.name} - pocketgan`;
  const facts = {
    Name: model.name,
    Precision: precision.toUpperCase(),
    Runtime: backend,
    Device: profile.name,
    Parameters: model.params.toLocaleString("en"),
    Scale: model.scale === 1 ? "same size" : `${model.scale} times as large`,
    Digest: digest,
  };
  $("facts").replaceChildren(
    ...Object.entries(facts).map(([name, value]) => {
      const entry = document.createElement("div");
      const shown = name === "Digest" ? `${value.slice(0, 15)}\u2026` : value;
      entry.append(
        Object.assign(document.createElement("dt"), { textContent: name }),
        Object.assign(document.createElement("dd"), { textContent: shown, title: value }),
      );
      return entry;
    }),
  );
  showLatency();
}

function askForKey(again) {
  state.afterKey = again;
  $("keyform").hidden = false;
  $("key").focus();
}

$("keyform").addEventListener("submit", (event) => {
  event.preventDefault();
  key.set($("key").value.trim());
  $("key").value = "";
  $("keyform").hidden = true;
  say("");
  state.afterKey();
});
$("file").addEventListener("change", ({ target }) => {
  if (target.files[0]) open(target.files[0]);
  target.value = ""; // so that the same file can be chosen again
});
for (const id of ["size", "format"]) $(id).addEventListener("change", run);
$("camera").addEventListener("click", toggleCamera);
$("larger").addEventListener("click", stage.zoomIn);
$("smaller").addEventListener("click", stage.zoomOut);
$("fit").addEventListener("click", stage.fit);

addEventListener("keydown", (event) => {
  const zoom = { "+": stage.zoomIn, "=": stage.zoomIn, "-": stage.zoomOut, 0: stage.fit }[event.key];
  if (!zoom || $("zooming").hidden || event.ctrlKey || event.metaKey || event.target.matches("input, select")) return;
  event.preventDefault();
  zoom();
});
addEventListener("paste", ({ clipboardData }) => {
  const file = [...clipboardData.files].find(({ type }) => type.startsWith("image/"));
  if (file) open(file);
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  addEventListener(kind, (event) => {
    event.preventDefault();
    document.body.classList.toggle("dragging", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files[0]) open(event.dataTransfer.files[0]);
  });
}

showZoom(1);
showModel();
