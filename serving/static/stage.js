// Two pictures over each other: the line between them, zoom and pan.

const MAX_ZOOM = 16;
const STEP = 1.25;
const MAX_CANVAS_PIXELS = 16e6; // what phones give a canvas

export function makeStage(stage, { onZoom }) {
  const [mat, before, after, over, split] = ["mat", "before", "after", "over", "split"].map((id) =>
    document.getElementById(id),
  );
  const fingers = new Map();
  const view = { zoom: 1, x: 0, y: 0, split: 50 };
  let grip = null; // what a drag moves: the line, the picture or both fingers

  function moveLine(percent) {
    view.split = Math.min(100, Math.max(0, percent));
    const rounded = Math.round(view.split);
    stage.style.setProperty("--split", `${view.split}%`);
    split.setAttribute("aria-valuenow", rounded);
    split.setAttribute("aria-valuetext", `${rounded} % before, ${100 - rounded} % after`);
  }

  // Zoom so that what is under (x, y), in pixels of the stage, stays there.
  function zoomTo(zoom, x = stage.clientWidth / 2, y = stage.clientHeight / 2) {
    const next = Math.min(MAX_ZOOM, Math.max(1, zoom));
    const grown = next / view.zoom;
    Object.assign(view, { zoom: next, x: x - (x - view.x) * grown, y: y - (y - view.y) * grown });
    pan(0, 0);
  }

  function pan(right, down) {
    const keep = (at, side) => Math.min(0, Math.max(at, side * (1 - view.zoom)));
    view.x = keep(view.x + right, stage.clientWidth);
    view.y = keep(view.y + down, stage.clientHeight);
    for (const canvas of [before, after]) {
      canvas.style.transform = `translate(${view.x}px, ${view.y}px) scale(${view.zoom})`;
    }
    stage.classList.toggle("zoomed", view.zoom > 1);
    stage.classList.toggle("close", view.zoom >= 6);
    onZoom(view.zoom);
  }

  function at(event) {
    const box = stage.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  }

  function spread() {
    const [a, b] = [...fingers.values()];
    return { apart: Math.hypot(a.x - b.x, a.y - b.y), x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 };
  }

  stage.addEventListener("pointerdown", (event) => {
    if (event.button > 0) return;
    fingers.set(event.pointerId, at(event));
    stage.setPointerCapture(event.pointerId);
    if (fingers.size === 2) grip = { pinch: spread(), zoom: view.zoom };
    else grip = event.target !== split && view.zoom > 1 ? "picture" : "line";
    if (grip === "line" && !over.hidden) {
      moveLine((at(event).x / stage.clientWidth) * 100);
      split.focus({ preventScroll: true });
      event.preventDefault(); // which would take the focus away again
    }
  });

  stage.addEventListener("pointermove", (event) => {
    const last = fingers.get(event.pointerId);
    if (!last || !grip) return;
    const now = at(event);
    fingers.set(event.pointerId, now);
    if (grip.pinch && fingers.size === 2) {
      const { apart, x, y } = spread();
      zoomTo((grip.zoom * apart) / grip.pinch.apart, x, y);
      pan(x - grip.pinch.x, y - grip.pinch.y);
      Object.assign(grip.pinch, { x, y });
    } else if (grip === "picture") pan(now.x - last.x, now.y - last.y);
    else if (grip === "line") moveLine((now.x / stage.clientWidth) * 100);
  });

  for (const end of ["pointerup", "pointercancel"]) {
    stage.addEventListener(end, (event) => {
      fingers.delete(event.pointerId);
      grip = null;
    });
  }

  stage.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      const { x, y } = at(event);
      zoomTo(view.zoom * Math.exp(-event.deltaY / 500), x, y);
    },
    { passive: false },
  );
  stage.addEventListener("dblclick", (event) => {
    const { x, y } = at(event);
    zoomTo(view.zoom > 1 ? 1 : 3, x, y);
  });

  const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  split.addEventListener("keydown", (event) => {
    const { key } = event;
    const [right, up] = arrows[key] ?? [0, 0];
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.shiftKey && (right || up)) pan(-40 * right, 40 * up);
    else if (right || up) moveLine(view.split + 2 * (right + up));
    else if (key === "PageUp" || key === "PageDown") moveLine(view.split + (key === "PageUp" ? 10 : -10));
    else if (key === "Home" || key === "End") moveLine(key === "Home" ? 0 : 100);
    else return;
    event.preventDefault();
  });
  addEventListener("resize", () => pan(0, 0));

  function draw(canvas, bitmap) {
    const shrink = Math.min(1, Math.sqrt(MAX_CANVAS_PIXELS / (bitmap.width * bitmap.height)));
    const [width, height] = [bitmap.width, bitmap.height].map((side) => Math.max(1, Math.round(side * shrink)));
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    canvas.getContext("2d").drawImage(bitmap, 0, 0, width, height);
  }

  return {
    // A new picture: the answer to it is still to come.
    showBefore(bitmap) {
      draw(before, bitmap);
      stage.style.setProperty("--ratio", bitmap.width / bitmap.height);
      mat.hidden = false;
      over.hidden = split.hidden = true;
      zoomTo(1);
      moveLine(50);
    },
    showAfter(bitmap) {
      draw(after, bitmap);
      over.hidden = split.hidden = false;
    },
    // Both of one moment; zoom and line stay as they are.
    showFrame(source, answer) {
      draw(before, source);
      draw(after, answer);
      stage.style.setProperty("--ratio", source.width / source.height);
      mat.hidden = over.hidden = split.hidden = false;
    },
    hide: () => (mat.hidden = true),
    zoomIn: () => zoomTo(view.zoom * STEP),
    zoomOut: () => zoomTo(view.zoom / STEP),
    fit: () => zoomTo(1),
  };
}
