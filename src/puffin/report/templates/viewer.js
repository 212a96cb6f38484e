// Draw the points of an event in three dimensions on a canvas, which a pointer or the arrow keys rotate.
const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

for (const view of document.querySelectorAll(".view")) {
  const pages = JSON.parse(view.querySelector("script").textContent);
  const canvas = view.querySelector("canvas"), pen = canvas.getContext("2d");
  const start = { turn: 0.6, tilt: 0.4, zoom: 1 };
  let camera = { ...start }, page = pages[0];
  const low = [Infinity, Infinity, Infinity], high = [-Infinity, -Infinity, -Infinity];
  for (const layer of pages.flatMap((p) => p.layers)) {
    const raw = bytes(layer.points);
    layer.xyz = new Int16Array(raw.buffer); // in mm
    layer.rgb = layer.colours && bytes(layer.colours);
    layer.xyz.forEach((value, k) => {
      low[k % 3] = Math.min(low[k % 3], value);
      high[k % 3] = Math.max(high[k % 3], value);
    });
  }
  const centre = low.map((value, k) => (value + high[k]) / 2);
  const reach = Math.hypot(...low.map((value, k) => high[k] - value)) / 2 || 1;

  function draw() {
    const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    const [c, s] = [Math.cos(camera.turn), Math.sin(camera.turn)], [d, t] = [Math.cos(camera.tilt), Math.sin(camera.tilt)];
    const scale = (0.5 * Math.min(width, height) * camera.zoom) / reach;
    const project = (x, y, z) => {
      const [a, b] = [c * x + s * y, c * y - s * x];
      return [width / 2 + scale * a, height / 2 - scale * (d * z + t * b), d * b - t * z]; // the last grows with distance
    };
    box(project);
    pen.lineWidth = 0.5;
    for (const layer of page.layers) {
      const number = layer.xyz.length / 3, side = Math.max(1.5, 1.2 * Math.sqrt(layer.size)) * Math.sqrt(camera.zoom);
      const drawn = Array.from({ length: number }, (_, k) =>
        [...project(...[0, 1, 2].map((axis) => layer.xyz[3 * k + axis] - centre[axis])), k]);
      drawn.sort((one, other) => other[2] - one[2]); // the nearest points last, in front
      pen.fillStyle = pen.strokeStyle = layer.colour;
      for (const [x, y, , k] of drawn) {
        if (layer.rgb) pen.fillStyle = `rgb(${layer.rgb[3 * k]},${layer.rgb[3 * k + 1]},${layer.rgb[3 * k + 2]})`;
        if (layer.hollow) pen.strokeRect(x - side / 2, y - side / 2, side, side);
        else pen.fillRect(x - side / 2, y - side / 2, side, side);
      }
    }
  }

  // Draw the edges of the box around the event; those from its lowest corner get the names and lengths of the axes.
  function box(project) {
    pen.strokeStyle = "#c8ced6";
    pen.lineWidth = 1;
    pen.fillStyle = "#59636e";
    pen.font = "12px system-ui, sans-serif";
    const corner = (bits) => low.map((value, k) => (bits & (1 << k) ? high[k] : value) - centre[k]);
    pen.beginPath();
    for (let bits = 0; bits < 8; bits++) {
      for (let axis = 0; axis < 3; axis++) {
        if (bits & (1 << axis)) continue;
        const from = project(...corner(bits)), to = project(...corner(bits | (1 << axis)));
        pen.moveTo(from[0], from[1]);
        pen.lineTo(to[0], to[1]);
        const text = `${"xyz"[axis]} ${((high[axis] - low[axis]) / 10).toFixed(0)} cm`;
        if (!bits) pen.fillText(text, (from[0] + to[0]) / 2 + 4, (from[1] + to[1]) / 2 - 4);
      }
    }
    pen.stroke();
  }

  function choose(chosen) {
    page = chosen;
    view.querySelectorAll(".buttons button").forEach((b, k) => b.setAttribute("aria-pressed", pages[k] === page));
    view.querySelector(".legend").replaceChildren(...page.layers.filter((l) => l.name).map((layer) => {
      const entry = document.createElement("span"), mark = document.createElement("i");
      mark.style.background = layer.colour || "linear-gradient(90deg, #440154, #21918c, #fde725)";
      entry.append(mark, layer.name);
      return entry;
    }));
    draw();
  }

  view.querySelector(".buttons").append(...pages.map((each) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = each.title;
    button.addEventListener("click", () => choose(each));
    return button;
  }));
  const pointers = new Map();
  const spread = () => {
    const [a, b] = [...pointers.values()];
    return Math.hypot(a.x - b.x, a.y - b.y);
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
  });
  canvas.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId);
    if (!before) return;
    const now = { x: event.clientX, y: event.clientY };
    if (pointers.size === 2) {
      const distance = spread();
      pointers.set(event.pointerId, now);
      camera.zoom *= spread() / (distance || 1);
    } else {
      pointers.set(event.pointerId, now);
      camera.turn -= (now.x - before.x) / 120;
      camera.tilt = Math.max(-1.57, Math.min(1.57, camera.tilt + (now.y - before.y) / 120));
    }
    draw();
  });
  for (const name of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(name, (event) => pointers.delete(event.pointerId));
  }
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    camera.zoom *= Math.exp(-event.deltaY / 500);
    draw();
  }, { passive: false });
  canvas.addEventListener("dblclick", () => {
    camera = { ...start };
    draw();
  });
  const keys = { ArrowLeft: ["turn", 0.1], ArrowRight: ["turn", -0.1], ArrowUp: ["tilt", -0.1], ArrowDown: ["tilt", 0.1] };
  canvas.addEventListener("keydown", (event) => {
    if (!(event.key in keys)) return;
    event.preventDefault();
    camera[keys[event.key][0]] += keys[event.key][1];
    draw();
  });
  new ResizeObserver(draw).observe(canvas);
  window.addEventListener("beforeprint", draw);
  choose(page);
}
