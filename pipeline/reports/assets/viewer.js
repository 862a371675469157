"use strict";
// Volumes come as [scan,] truth, prediction: one byte a voxel, axes right, anterior, superior, the first running fastest.

// Okabe and Ito's colours and five more, in the order of the page's style; further classes are told apart by the read-out.
const COLOURS = [[230, 159, 0], [86, 180, 233], [0, 158, 115], [204, 121, 167], [213, 94, 0], [240, 228, 66], [0, 114, 178], [125, 74, 30], [238, 221, 255], [34, 51, 170], [255, 179, 167], [47, 95, 95]];
// What is wrong has colours that no class has, for colour-blind eyes too.
const MISSED = [215, 0, 64], TOO_MUCH = [170, 255, 215], SWAPPED = [170, 64, 255];
// `across` and `down` are axes of the volume; both run against it, which puts the patient's right on the left.
const PLANES = [
  { name: "Axial", key: "a", axis: 2, across: 0, down: 1, letters: "RLAP" },
  { name: "Coronal", key: "c", axis: 1, across: 0, down: 2, letters: "RLSI" },
  { name: "Sagittal", key: "s", axis: 0, across: 1, down: 2, letters: "APSI" },
];

const IGNORED = 255; // voxels of the truth that are not scored
const colourOf = (place) => (place === IGNORED ? [150, 150, 150] : COLOURS[(place - 1) % COLOURS.length]);
const css = ([r, g, b], alpha = 1) => `rgb(${r} ${g} ${b} / ${alpha})`;

/** Return the bytes of a case: unpacked when it is first looked at, and kept for a few cases. */
const unpacked = new Map();
function unpack(n, about) {
  if (unpacked.has(n)) return unpacked.get(n);
  if (unpacked.size > 16) unpacked.delete(unpacked.keys().next().value);
  const promise = (async () => {
    const packed = Uint8Array.from(atob(document.getElementById(`volume-${n}`).textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
    const size = about.shape[0] * about.shape[1] * about.shape[2];
    const parts = [0, 1, 2].map((part) => bytes.subarray(part * size, (part + 1) * size));
    const [image, truth, prediction] = about.has_image ? parts : [null, parts[0], parts[1]];
    return { ...about, image, truth, prediction };
  })();
  unpacked.set(n, promise);
  return promise;
}

/** Cut one slice out of a block of bytes, as it is seen on the screen. */
function cut(block, shape, plane, at) {
  const strides = [1, shape[0], shape[0] * shape[1]];
  const width = shape[plane.across], height = shape[plane.down];
  const pixels = new Uint8Array(width * height);
  for (let y = 0, p = 0; y < height; y++) {
    let voxel = at * strides[plane.axis] + (height - 1 - y) * strides[plane.down] + (width - 1) * strides[plane.across];
    for (let x = 0; x < width; x++, p++, voxel -= strides[plane.across]) pixels[p] = block[voxel];
  }
  return { pixels, width, height };
}

/** Make a small canvas of a slice whose pixels `paint` colours. */
function picture({ pixels, width, height }, paint) {
  const canvas = document.createElement("canvas");
  canvas.width = width; canvas.height = height;
  const context = canvas.getContext("2d"), image = context.createImageData(width, height);
  for (let p = 0; p < pixels.length; p++) {
    const colour = paint(pixels[p], p);
    if (colour) image.data.set(colour, 4 * p);
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

function greyOf(view) {
  const slope = 4 ** (view.contrast / 100), shift = view.brightness * 1.28;
  return Uint8ClampedArray.from({ length: 256 }, (_, value) => (value - 128) * slope + 128 + shift);
}

/** Trace the edges between the voxels of one class and all others. */
function outline({ pixels, width, height }, place, left, top, sx, sy) {
  const path = new Path2D();
  const is = (x, y) => x >= 0 && y >= 0 && x < width && y < height && pixels[y * width + x] === place;
  const edge = (x1, y1, x2, y2) => { path.moveTo(left + x1 * sx, top + y1 * sy); path.lineTo(left + x2 * sx, top + y2 * sy); };
  // Edges that go on are one line: dashes then run along it.
  for (let y = 0; y <= height; y++) for (let x = 0, from = -1; x <= width; x++) {
    const border = x < width && is(x, y - 1) !== is(x, y);
    if (border && from < 0) from = x;
    if (!border && from >= 0) { edge(from, y, x, y); from = -1; }
  }
  for (let x = 0; x <= width; x++) for (let y = 0, from = -1; y <= height; y++) {
    const border = y < height && is(x - 1, y) !== is(x, y);
    if (border && from < 0) from = y;
    if (!border && from >= 0) { edge(x, from, x, y); from = -1; }
  }
  return path;
}

// The whole slice, as large as fits. A lens with a zoom above 1 shows the part around its centre, a voxel.
const WHOLE = { zoom: 1, centre: null };

/** Where a slice lies on its canvas, its millimetres square; beside it is nothing unless all of it is shown. */
function placeOf(canvas, volume, plane, lens = WHOLE) {
  const wide = volume.shape[plane.across] * volume.spacing_mm[plane.across];
  const high = volume.shape[plane.down] * volume.spacing_mm[plane.down];
  const perMm = Math.min(canvas.width / wide, canvas.height / high) * lens.zoom;
  const begin = (room, size, axis) => {
    if (size <= room) return (room - size) / 2;
    return Math.min(0, Math.max(room - size, room / 2 - size * (1 - (lens.centre[axis] + 0.5) / volume.shape[axis])));
  };
  const width = wide * perMm, height = high * perMm;
  return { left: begin(canvas.width, width, plane.across), top: begin(canvas.height, height, plane.down), width, height, perMm };
}

// What is written on a slice: nothing on a small one, letters and a scale bar on a picture, the cross too on the screen.
const BARE = { letters: false, cross: false }, PRINTED = { letters: true, cross: false }, SCREEN = { letters: true, cross: true };

/** Draw one slice of a volume: the scan, the fills, the outlines, and what `marks` asks for; `ratio` is pixels a point. */
function draw(canvas, volume, plane, at, view, marks, ratio, lens = WHOLE) {
  const context = canvas.getContext("2d"), place = placeOf(canvas, volume, plane, lens), { left, top, width, height } = place;
  const index = at[plane.axis];
  const put = (small, smooth) => { context.imageSmoothingEnabled = smooth; context.imageSmoothingQuality = "high"; context.drawImage(small, left, top, width, height); };
  context.fillStyle = "#000";
  context.fillRect(0, 0, canvas.width, canvas.height);
  if (volume.image) {
    const grey = greyOf(view);
    put(picture(cut(volume.image, volume.shape, plane, index), (value) => [grey[value], grey[value], grey[value], 255]), true);
  }
  const truth = cut(volume.truth, volume.shape, plane, index), prediction = cut(volume.prediction, volume.shape, plane, index);
  const alpha = Math.round(view.opacity * 2.55);
  if (view.errors) {
    const wrong = (t, p) => (p === t || t === IGNORED ? null : t && !p ? MISSED : p && !t ? TOO_MUCH : SWAPPED);
    put(picture(truth, (t, p) => { const c = wrong(visible(view, t), visible(view, prediction.pixels[p])); return c && [...c, Math.max(alpha, 140)]; }), false);
  }
  for (const [mask, shown, style] of [[truth, view.truth, view.truthStyle], [prediction, view.prediction, view.predictionStyle]]) {
    if (!shown) continue;
    if (!view.errors && style !== "outline") put(picture(mask, (place) => (visible(view, place) ? [...colourOf(place), alpha] : null)), false);
    if (!view.errors && style === "fill") continue;
    const isTruth = mask === truth;
    for (const place of new Set(mask.pixels)) {
      if (!visible(view, place)) continue;
      const path = outline(mask, place, left, top, width / mask.width, height / mask.height);
      context.lineCap = "square";
      context.setLineDash(isTruth ? [5 * ratio, 4 * ratio] : []);
      if (!isTruth) { context.strokeStyle = "rgb(0 0 0 / .55)"; context.lineWidth = (view.thin ? 2.2 : 3.6) * ratio; context.stroke(path); }
      context.strokeStyle = css(colourOf(place)); context.lineWidth = (view.thin ? 1.2 : 1.8) * ratio;
      context.stroke(path);
    }
    context.setLineDash([]);
  }
  if (marks.letters) { letters(context, canvas, plane, ratio); scaleBar(context, canvas, place.perMm, ratio); }
  if (marks.cross) crosshair(context, volume, plane, at, place, ratio);
}

const visible = (view, place) => (place && !view.hidden.has(place) ? place : 0);

function letters(context, canvas, plane, ratio) {
  const [west, east, north, south] = plane.letters, { width, height } = canvas, gap = 11 * ratio;
  context.font = `600 ${12 * ratio}px system-ui, sans-serif`;
  context.textAlign = "center"; context.textBaseline = "middle";
  context.lineWidth = 3 * ratio; context.strokeStyle = "rgb(0 0 0 / .7)"; context.fillStyle = "#fff";
  for (const [letter, x, y] of [[west, gap, height / 2], [east, width - gap, height / 2], [north, width / 2, gap], [south, width / 2, height - gap]]) {
    context.strokeText(letter, x, y);
    context.fillText(letter, x, y);
  }
}

/** Return the longest of 1, 2, 5, 10, 20, … that is no longer than `most`. */
function roundLength(most) {
  const power = 10 ** Math.floor(Math.log10(most));
  return [5, 2, 1].find((factor) => factor * power <= most * (1 + 1e-9)) * power;
}

/** Draw a scale bar in the lower left, at most a third of the canvas long. */
function scaleBar(context, canvas, perMm, ratio) {
  const mm = roundLength(canvas.width / 3 / perMm), x = 10 * ratio, y = canvas.height - 10 * ratio, end = x + mm * perMm;
  context.beginPath();
  context.moveTo(x, y); context.lineTo(end, y);
  context.lineCap = "butt";
  for (const [colour, width] of [["rgb(0 0 0 / .7)", 6], ["#fff", 3]]) { context.strokeStyle = colour; context.lineWidth = width * ratio; context.stroke(); }
  context.textAlign = "left"; context.textBaseline = "alphabetic";
  context.lineWidth = 3 * ratio; context.strokeStyle = "rgb(0 0 0 / .7)"; context.fillStyle = "#fff";
  const words = `${+mm.toPrecision(2)} mm`;
  context.strokeText(words, x, y - 6 * ratio);
  context.fillText(words, x, y - 6 * ratio);
}

function crosshair(context, volume, plane, at, { left, top, width, height }, ratio) {
  const x = left + width * (1 - (at[plane.across] + 0.5) / volume.shape[plane.across]);
  const y = top + height * (1 - (at[plane.down] + 0.5) / volume.shape[plane.down]);
  context.strokeStyle = "rgb(255 255 255 / .38)"; context.lineWidth = ratio;
  context.beginPath();
  context.moveTo(left, y); context.lineTo(left + width, y); context.moveTo(x, top); context.lineTo(x, top + height);
  context.stroke();
}

/** Return the voxel under a point of a canvas, the slice's own axis included, or null beside the slice. */
function voxelAt(canvas, volume, plane, at, event, lens = WHOLE) {
  const frame = canvas.getBoundingClientRect(), { left, top, width, height } = placeOf(canvas, volume, plane, lens);
  const across = ((event.clientX - frame.left) * canvas.width / frame.width - left) / width;
  const down = ((event.clientY - frame.top) * canvas.height / frame.height - top) / height;
  if (across < 0 || down < 0 || across >= 1 || down >= 1) return null;
  const voxel = [...at];
  voxel[plane.across] = Math.floor((1 - across) * volume.shape[plane.across]);
  voxel[plane.down] = Math.floor((1 - down) * volume.shape[plane.down]);
  return voxel.map((n, axis) => Math.min(n, volume.shape[axis] - 1));
}
