// What a reader ticks off and notes, kept in this browser, and the pictures that a reader saves.

// Notes belong to a page of these numbers: one that is written anew with others begins without any.
const SHELF = `fewmask:${document.body.dataset.key}`, NOTHING = { seen: false, figure: false, note: "" };
const MOST_ROWS = 24, SIDE = 480; // of a saved picture: cases, and pixels of a slice
const review = { kept: new Map(), refused: false };
try { review.kept = new Map(Object.entries(JSON.parse(localStorage.getItem(SHELF) ?? "{}"))); }
catch { review.refused = true; }

const reviewOf = (id) => review.kept.get(id) ?? NOTHING;

function keep(id, change) {
  review.kept.set(id, { ...reviewOf(id), ...change });
  try { localStorage.setItem(SHELF, JSON.stringify(Object.fromEntries(review.kept))); }
  catch { review.refused = true; }
  showReview();
  fillTable();
}

function buildReview() {
  const current = () => DATA.cases[DATA.volumes[state.n].case].id;
  $("seen").addEventListener("change", () => keep(current(), { seen: $("seen").checked }));
  $("in-figure").addEventListener("change", () => keep(current(), { figure: $("in-figure").checked }));
  $("note").addEventListener("change", () => keep(current(), { note: $("note").value }));
  $("save-notes").addEventListener("click", () => save(new Blob(["\ufeff", notesAsCsv()], { type: "text/csv" }), "notes.csv"));
  $("save-figure").addEventListener("click", saveFigure);
}

/** Show what is kept of the current case, and how far the reader has come. */
function showReview() {
  const kept = reviewOf(DATA.cases[DATA.volumes[state.n].case].id);
  const all = DATA.volumes.map((about) => reviewOf(DATA.cases[about.case].id));
  const chosen = all.filter(({ figure }) => figure).length;
  $("seen").checked = kept.seen;
  $("in-figure").checked = kept.figure;
  $("note").value = kept.note;
  $("progress").textContent = `${all.filter(({ seen }) => seen).length} of ${all.length} looked at; ${review.refused ? "this browser keeps nothing: save the CSV before you close the page" : "kept in this browser"}`;
  $("save-figure").textContent = chosen ? `Save figure of ${chosen} case${chosen > 1 ? "s" : ""}` : "Save picture";
}

/** Return a field of CSV; an apostrophe keeps spreadsheets from running text as a formula. */
function field(value) {
  const text = /^[=+\-@\t\r\n＝＋－＠]/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function notesAsCsv() {
  const measure = WORDS.measure.toLowerCase().replaceAll(" ", "_");
  const rows = DATA.cases.map(({ id, dice }) => {
    const kept = reviewOf(id);
    return [field(id), dice === null ? "" : dice.toFixed(4), kept.seen ? "yes" : "", field(kept.note)];
  });
  return [["case", measure, "looked_at", "note"], ...rows].map((row) => `${row.join(",")}\n`).join("");
}

function save(blob, name) {
  const link = element("a", "", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/** Save the cases that were chosen for the figure, or else the slices that are shown. */
async function saveFigure() {
  const chosen = [...DATA.volumes.keys()].filter((n) => reviewOf(DATA.cases[DATA.volumes[n].case].id).figure);
  const rows = [];
  for (const n of chosen.slice(0, MOST_ROWS)) rows.push(await rowOf(n));
  if (!rows.length) rows.push({ ...(await rowOf(state.n)), at: state.at, lens: state.lens });
  const name = chosen.length ? "cases" : DATA.cases[DATA.volumes[state.n].case].id.replace(/[^\w.-]+/g, "_").slice(0, 100);
  figureOf(rows).toBlob((blob) => save(blob, `${name}.png`));
}

async function rowOf(n) {
  const about = DATA.volumes[n], volume = await unpack(n, about), shown = n === state.n;
  return { entry: DATA.cases[about.case], volume, at: shown ? state.at : volume.focus, lens: shown ? state.lens : WHOLE };
}

/** Draw cases below one another on white, each in its planes, with names, scale bars and a legend. */
function figureOf(rows) {
  const gap = 12, head = 34, ratio = SIDE / 320;
  const planesOf = (volume) => PLANES.filter((plane) => Math.min(volume.shape[plane.across], volume.shape[plane.down]) > 1);
  const canvas = element("canvas"), context = canvas.getContext("2d");
  canvas.width = gap + Math.max(...rows.map(({ volume }) => planesOf(volume).length)) * (SIDE + gap);
  const words = legendWords(rows), font = "16px system-ui, sans-serif";
  context.font = font;
  const lines = wrapped(context, words, canvas.width - 2 * gap);
  canvas.height = rows.length * (head + SIDE) + gap + 24 * lines.length + gap;
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.textBaseline = "middle";
  rows.forEach(({ entry, volume, at, lens }, n) => {
    const top = n * (head + SIDE);
    context.font = `600 ${font}`; context.fillStyle = "#000";
    context.fillText(`${entry.id}${entry.dice === null ? "" : ` · ${WORDS.measure} ${entry.dice.toFixed(3)}`}`, gap, top + head / 2, canvas.width - 2 * gap);
    planesOf(volume).forEach((plane, column) => {
      const stage = element("canvas");
      stage.width = stage.height = SIDE;
      draw(stage, volume, plane, at, view, PRINTED, ratio, lens);
      context.drawImage(stage, gap + column * (SIDE + gap), top + head);
    });
  });
  context.font = font;
  lines.forEach((line, n) => line.forEach(({ colour, text, x }) => {
    const y = rows.length * (head + SIDE) + gap + 24 * n + 12;
    if (colour) { context.fillStyle = colour; context.fillRect(x, y - 7, 14, 14); }
    context.fillStyle = "#000";
    context.fillText(text, x + (colour ? 20 : 0), y);
  }));
  return canvas;
}

/** Return what the colours of a saved picture mean: those that are in its cases. */
function legendWords(rows) {
  if (view.errors) return [[MISSED, "missed"], [TOO_MUCH, "too much"], [SWAPPED, "wrong class"]].map(([colour, text]) => ({ colour: css(colour), text }));
  const there = new Set(rows.flatMap(({ volume }) => [...new Set(volume.truth), ...new Set(volume.prediction)]));
  const classes = DATA.classes.map(({ name }, n) => ({ place: n + 1, colour: css(colourOf(n + 1)), text: name })).filter(({ place }) => there.has(place) && !view.hidden.has(place));
  const how = { fill: "filled", outline: "outlined", both: "filled and outlined" };
  const told = [view.truth && `truth: ${how[view.truthStyle]}`, view.prediction && `prediction: ${how[view.predictionStyle]}`].filter(Boolean);
  return [...classes, { text: [...told, "right of the patient is on the left"].join("; ") }];
}

/** Return lines of words that are no wider than so many pixels, each word with its place. */
function wrapped(context, words, most) {
  const lines = [[]];
  let x = 0;
  for (const word of words) {
    const width = context.measureText(word.text).width + (word.colour ? 44 : 24);
    if (x && x + width > most) { lines.push([]); x = 0; }
    lines.at(-1).push({ ...word, x: x + 12 });
    x += width;
  }
  return lines;
}
