// What the server is asked, and its errors as sentences.

const KEY = "pocketgan.key";
const TIMEOUT_MS = 120_000;

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => sessionStorage.setItem(KEY, value),
};

export class ServerError extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

export async function getJson(path) {
  return (await request(path)).json();
}

// One image -> { blob, timing: {queue, decode, engine, encode}, roundMs }
export async function translate(image, { size, format }, signal) {
  const started = performance.now();
  const answer = await request(`v1/translate?${new URLSearchParams({ size, format })}`, {
    method: "POST",
    body: image,
    headers: { "Content-Type": "application/octet-stream" },
    signal: AbortSignal.any([signal, AbortSignal.timeout(TIMEOUT_MS)]),
  });
  const blob = await answer.blob();
  const roundMs = performance.now() - started;
  return { blob, timing: readTiming(answer.headers.get("Server-Timing")), roundMs };
}

export function openStream(wishes) {
  const url = new URL(`v1/stream?${new URLSearchParams(wishes)}`, document.baseURI);
  url.protocol = url.protocol.replace("http", "ws");
  // a browser sets no headers here, so the key travels as a subprotocol
  const socket = new WebSocket(url, ["pocketgan.v1", ...(key.get() ? [`pocketgan.key.${key.get()}`] : [])]);
  socket.binaryType = "blob";
  return socket;
}

async function request(path, { headers = {}, ...options } = {}) {
  if (key.get()) headers["X-API-Key"] = key.get();
  let answer;
  try {
    answer = await fetch(path, { headers, ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    if (error.name === "TimeoutError") throw new ServerError(0, "The server took too long to answer.");
    throw new ServerError(0, "The server does not answer; is it still running?");
  }
  if (answer.ok) return answer;
  throw new ServerError(answer.status, sentence(await detailOf(answer)));
}

async function detailOf(answer) {
  try {
    return (await answer.json()).detail;
  } catch {
    return `the server answered ${answer.status} and did not say why`;
  }
}

export function sentence(text) {
  const whole = text[0].toUpperCase() + text.slice(1);
  return /[.!?]$/.test(whole) ? whole : `${whole}.`;
}

function readTiming(header) {
  const parts = [...(header ?? "").matchAll(/(\w+);dur=([\d.]+)/g)];
  return Object.fromEntries(parts.map(([, name, ms]) => [name, Number(ms)]));
}
