// The camera through the websocket: the newest frame, as often as the server keeps up.

import { openStream, sentence } from "./server.js";

const MOST_UNDERWAY = 2; // one in work and one that waits: more would only be older
const LONGER_SIDE = 640;
const SECOND_MS = 1000;

// Starts the camera. `square` cuts frames to the one size that the latency budget is for; 0 leaves
// them as they are. Calls onFrame({source, answer, blob, timing, roundMs, fps}), and
// onEnd(sentence or "") once. Returns a function that stops it.
export async function startCamera(wishes, { square, onFrame, onEnd }) {
  const camera = await openCamera();
  const video = Object.assign(document.createElement("video"), { muted: true, playsInline: true });
  video.srcObject = camera;
  await video.play();
  const canvas = document.createElement("canvas");
  const socket = openStream({ ...wishes, drop: "true" });
  const sent = new Map(); // number of a frame -> { blob, at }
  const answered = []; // when, of the last second
  let count = 0;
  let shown = 0;
  let header = null;
  let shooting = false;
  let ended = false;

  function end(why = "") {
    if (ended) return;
    ended = true;
    for (const track of camera.getTracks()) track.stop();
    socket.close();
    onEnd(why);
  }

  function shoot() {
    if (ended || shooting || sent.size >= MOST_UNDERWAY || !video.videoWidth) return;
    shooting = true;
    const { videoWidth: width, videoHeight: height } = video;
    const scale = square ? square / Math.min(width, height) : Math.min(1, LONGER_SIDE / Math.max(width, height));
    const drawn = [Math.round(width * scale), Math.round(height * scale)];
    [canvas.width, canvas.height] = square ? [square, square] : drawn;
    canvas.getContext("2d").drawImage(video, (canvas.width - drawn[0]) / 2, (canvas.height - drawn[1]) / 2, ...drawn);
    canvas.toBlob((blob) => {
      shooting = false;
      if (ended || !blob || socket.readyState !== WebSocket.OPEN) return;
      sent.set(++count, { blob, at: performance.now() });
      socket.send(blob);
    }, "image/jpeg", 0.9);
  }

  async function answer(said, image) {
    const frame = sent.get(said.frame);
    for (const number of sent.keys()) if (number <= said.frame) sent.delete(number);
    const [source, made] = await Promise.all([createImageBitmap(frame.blob), createImageBitmap(image)]);
    const now = performance.now();
    answered.push(now);
    while (answered[0] < now - SECOND_MS) answered.shift();
    const timing = Object.fromEntries(
      ["queue", "decode", "engine", "encode"].map((part) => [part, said[`${part}_ms`]]),
    );
    const blob = new Blob([image], { type: `image/${said.format}` });
    // pictures are decoded beside each other, so an older one may be ready later
    if (!ended && said.frame > shown) onFrame({ source, answer: made, blob, timing, roundMs: now - frame.at, fps: answered.length });
    shown = Math.max(shown, said.frame);
    source.close();
    made.close();
  }

  function tick() {
    if (ended) return;
    shoot();
    requestAnimationFrame(tick);
  }

  socket.onopen = tick;
  socket.onmessage = ({ data }) => {
    if (typeof data !== "string") answer(header, data);
    else if ((header = JSON.parse(data)).status >= 400) {
      // what the server cannot do now it may do in a moment; what is wrong with one frame is
      // wrong with all of them
      if (header.status === 503 || header.status === 504) sent.delete(header.frame);
      else end(sentence(header.detail));
    }
  };
  socket.onclose = ({ reason }) => end(reason ? sentence(reason) : "The connection to the server ended.");
  for (const track of camera.getTracks()) track.onended = () => end("The camera was switched off.");
  return () => end();
}

async function openCamera() {
  if (!navigator.mediaDevices) {
    throw new Error("Browsers give the camera to https and localhost only: open this page at such an address.");
  }
  try {
    return await navigator.mediaDevices.getUserMedia({
      video: { facingMode: "environment", width: { ideal: LONGER_SIDE } },
    });
  } catch (error) {
    const reasons = {
      NotAllowedError: "The camera was not allowed; the browser's address bar can change that.",
      NotFoundError: "There is no camera here.",
      NotReadableError: "Another program uses the camera.",
    };
    throw new Error(reasons[error.name] ?? `The camera does not start: ${error.message}`);
  }
}
