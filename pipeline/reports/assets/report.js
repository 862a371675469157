const DATA = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const STRIP = 12, PAGE = 100, WORDS = DATA.words;

function element(tag, text = "", attributes = {}) {
  const made = document.createElement(tag);
  made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

/** Shorten a name in its middle: names of one dataset differ at their ends. */
const brief = (name, most) => (name.length > most ? `${name.slice(0, most / 2 - 2)}…${name.slice(1 - most / 2 - 2)}` : name);
const shown = (value, metric) => (value === null ? "–" : value.toFixed(metric.decimals));
const volumeOf = new Map(DATA.volumes.map((about, n) => [about.case, n]));

// Theme: as the system, light, dark.
const THEMES = ["auto", "light", "dark"];
$("theme").addEventListener("click", () => {
  const root = document.documentElement, next = THEMES[(THEMES.indexOf(root.dataset.theme || "auto") + 1) % 3];
  root.dataset.theme = next;
  $("theme").lastElementChild.textContent = next;
  $("theme").setAttribute("aria-label", `Colours: ${next === "auto" ? "as the system" : next}`);
});

// The table: filtered, sorted, and a hundred rows at a time.
const sortedBy = DATA.metrics.findIndex((metric) => metric.key === DATA.sorted_by);
const OUTCOMES = Object.fromEntries(DATA.outcomes.map((entry) => [entry.key, entry]));
const GROUPS = new Map(DATA.outcome_groups.map(({ key, outcomes }) => [key, outcomes]));
const COLUMNS = [
  { title: "Case", value: (row) => DATA.cases[row[0]].id },
  { title: "Class", value: (row) => DATA.classes[row[1]].name },
  { title: "Outcome", value: (row) => OUTCOMES[row[2]].title },
  ...DATA.metrics.map((metric, n) => ({ title: metric.title, metric, value: (row) => row[3][n] })),
];
const sorting = { column: sortedBy < 0 ? 0 : 3 + sortedBy, down: false };
let limit = PAGE;

function compare(a, b) {
  // A number that there is not comes last, whichever way.
  if (a === null || b === null) return (a === null) - (b === null);
  const order = typeof a === "string" ? a.localeCompare(b, undefined, { numeric: true }) : a - b;
  return sorting.down ? -order : order;
}

function rowsShown() {
  const text = $("filter").value.toLowerCase(), wanted = $("class-filter").value, outcome = $("outcome-filter").value;
  const column = COLUMNS[sorting.column];
  return DATA.rows
    .filter((row) => DATA.cases[row[0]].id.toLowerCase().includes(text) && (!wanted || row[1] === +wanted))
    .filter((row) => !outcome || row[2] === outcome || GROUPS.get(outcome)?.includes(row[2]))
    .sort((a, b) => compare(column.value(a), column.value(b)));
}

function cell(row, column) {
  const value = column.value(row), metric = column.metric;
  if (metric) return element("td", shown(value, metric));
  if (column.title === "Outcome") return element("td", value, OUTCOMES[row[2]].bad ? { class: "bad" } : {});
  if (column.title === "Class") {
    const made = element("td");
    made.append(element("span", "", { class: `swatch k${row[1] % COLOURS.length}` }), value);
    return made;
  }
  const made = element("td"), kept = reviewOf(value);
  made.append(volumeOf.has(row[0]) ? element("button", value, { type: "button" }) : value);
  if (kept.seen || kept.note) made.append(element("span", kept.seen ? " ✓" : " ✎", { class: "mark", title: [kept.seen && "looked at", kept.note].filter(Boolean).join(": ") }));
  return made;
}

function fillTable() {
  const rows = rowsShown(), body = document.createDocumentFragment();
  for (const row of rows.slice(0, limit)) {
    const line = element("tr", "", volumeOf.has(row[0]) ? { "data-volume": volumeOf.get(row[0]) } : {});
    line.append(...COLUMNS.map((column) => cell(row, column)));
    body.append(line);
  }
  $("table").tBodies[0].replaceChildren(body);
  $("count").textContent = `${rows.length} of ${DATA.rows.length} rows`;
  $("more").hidden = rows.length <= limit;
  for (const [n, head] of [...$("table").tHead.rows[0].cells].entries()) {
    if (n === sorting.column) head.setAttribute("aria-sort", sorting.down ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  }
  markCurrent();
}

function buildTable() {
  const head = element("tr");
  COLUMNS.forEach((column, n) => {
    const made = element("th", "", { scope: "col" }), button = element("button", column.title, { type: "button", ...(column.metric?.note && { title: column.metric.note }) });
    button.addEventListener("click", () => {
      sorting.down = sorting.column === n && !sorting.down;
      sorting.column = n;
      fillTable();
    });
    made.append(button);
    head.append(made);
  });
  $("table").tHead.append(head);
  DATA.classes.forEach((entry, n) => $("class-filter").append(element("option", entry.name, { value: n })));
  for (const { key, title } of DATA.outcome_groups) $("outcome-filter").append(element("option", title, { value: key }));
  for (const { key, title } of DATA.outcomes) if (DATA.rows.some((row) => row[2] === key)) $("outcome-filter").append(element("option", title, { value: key }));
  for (const id of ["filter", "class-filter", "outcome-filter"]) $(id).addEventListener("input", () => { limit = PAGE; fillTable(); });
  $("more").addEventListener("click", () => { limit += 4 * PAGE; fillTable(); });
  $("table").tBodies[0].addEventListener("click", (event) => {
    const line = event.target.closest("tr[data-volume]");
    if (line) look(+line.dataset.volume, true);
  });
  fillTable();
}

// The viewer.
const view = { truth: WORDS.truth, prediction: true, errors: false, truthStyle: "fill", predictionStyle: WORDS.truth ? "outline" : "fill", opacity: 45, brightness: 0, contrast: 0, hidden: new Set() };
const state = { n: -1, volume: null, at: [0, 0, 0], plane: 0, lens: WHOLE, drag: null };
const stages = [], ZOOMS = [1, 1.5, 2, 3, 4, 6, 8];
const pixelRatio = () => window.devicePixelRatio || 1;

function buildViewer() {
  PLANES.forEach((plane, n) => {
    const figure = element("div", "", { class: "plane" }), stage = element("div", "", { class: "stage" });
    const canvas = element("canvas", "", { role: "img" });
    const slider = element("input", "", { type: "range", min: 0, "aria-label": `${plane.name} slice` });
    const where = element("p", "", { class: "where" });
    where.append(element("span", plane.name), element("span"));
    stage.append(canvas);
    figure.append(stage, where, slider);
    $("planes").append(figure);
    stages.push({ figure, canvas, slider, where: where.lastElementChild });
    slider.addEventListener("input", () => { state.plane = n; state.at[plane.axis] = +slider.value; redraw(); });
    slider.addEventListener("focus", () => { state.plane = n; redraw(); });
    canvas.addEventListener("pointerdown", (event) => {
      const voxel = state.volume && voxelAt(canvas, state.volume, plane, state.at, event, state.lens);
      $("viewer").focus({ preventScroll: true });
      state.plane = n;
      if (voxel) state.at = voxel;
      if (state.lens.zoom > 1) { canvas.setPointerCapture(event.pointerId); state.drag = { x: event.clientX, y: event.clientY, centre: state.lens.centre }; }
      redraw();
    });
    canvas.addEventListener("pointermove", (event) => {
      if (state.drag) drag(canvas, plane, event);
      else if (state.volume) readOut(voxelAt(canvas, state.volume, plane, state.at, event, state.lens));
    });
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { state.drag = null; });
    canvas.addEventListener("pointerleave", () => readOut(null));
    canvas.addEventListener("wheel", (event) => {
      // Only in a viewer that was clicked into: otherwise the wheel is the page's.
      if (!$("viewer").contains(document.activeElement)) return;
      event.preventDefault();
      state.plane = n;
      const way = event.deltaY < 0 ? 1 : -1;
      if (event.ctrlKey || event.metaKey) zoomBy(way);
      else scroll(way);
    }, { passive: false });
  });
  for (const id of WORDS.truth ? ["truth", "prediction", "errors"] : ["prediction"]) $(id).addEventListener("change", () => { view[id] = $(id).checked; redraw(); });
  for (const id of ["opacity", "brightness", "contrast"]) $(id).addEventListener("input", () => { view[id] = +$(id).value; redraw(); });
  if (WORDS.truth) $("truth-style").addEventListener("change", (event) => { view.truthStyle = event.target.value; redraw(); });
  $("prediction-style").addEventListener("change", (event) => { view.predictionStyle = event.target.value; redraw(); });
  $("zoom-in").addEventListener("click", () => zoomBy(1));
  $("zoom-out").addEventListener("click", () => zoomBy(-1));
  $("previous").addEventListener("click", () => look(state.n - 1));
  $("next").addEventListener("click", () => look(state.n + 1));
  $("viewer").addEventListener("keydown", press);
  new ResizeObserver(redraw).observe($("planes"));
}

function press(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select, input[type=search], input[type=text]")) return;
  const key = event.key.toLowerCase(), onRange = event.target.matches("input[type=range]");
  const act = {
    arrowup: () => scroll(1), arrowdown: () => scroll(-1), pageup: () => scroll(10), pagedown: () => scroll(-10),
    arrowleft: () => look(state.n - 1), arrowright: () => look(state.n + 1),
    p: () => $("prediction").click(), ...(WORDS.truth && { t: () => $("truth").click(), e: () => $("errors").click() }),
    f: () => { state.at = [...state.volume.focus]; redraw(); },
    "+": () => zoomBy(1), "=": () => zoomBy(1), "-": () => zoomBy(-1), 0: () => zoomBy(-ZOOMS.length),
  }[key];
  const plane = PLANES.findIndex((entry) => entry.key === key);
  if ((onRange && key.startsWith("arrow")) || (onRange && key.startsWith("page"))) return;
  if (plane >= 0) { state.plane = plane; redraw(); }
  else if (act && state.volume) act();
  else return;
  event.preventDefault();
}

function scroll(steps) {
  const axis = PLANES[state.plane].axis;
  state.at[axis] = Math.max(0, Math.min(state.volume.shape[axis] - 1, state.at[axis] + steps));
  redraw();
}

/** Zoom so many steps in or out, around the voxel where the planes meet. */
function zoomBy(steps) {
  if (!state.volume) return;
  const zoom = ZOOMS[Math.max(0, Math.min(ZOOMS.length - 1, ZOOMS.indexOf(state.lens.zoom) + steps))];
  state.lens = { zoom, centre: [...state.at] };
  redraw();
}

/** Move what is seen of a slice with the pointer. */
function drag(canvas, plane, event) {
  const { volume, lens } = state, { width, height } = placeOf(canvas, volume, plane, lens);
  const scale = canvas.width / canvas.getBoundingClientRect().width, centre = [...state.drag.centre];
  centre[plane.across] += (event.clientX - state.drag.x) * scale / (width / volume.shape[plane.across]);
  centre[plane.down] += (event.clientY - state.drag.y) * scale / (height / volume.shape[plane.down]);
  state.lens = { zoom: lens.zoom, centre: centre.map((place, axis) => Math.max(0, Math.min(volume.shape[axis] - 1, place))) };
  redraw();
}

function redraw() {
  const { volume, at, lens } = state;
  if (!volume) return;
  if (WORDS.truth) $("error-key").hidden = !view.errors;
  const ratio = pixelRatio();
  $("zoom").textContent = `${Math.round(100 * lens.zoom)} %`;
  $("zoom-out").disabled = lens.zoom === ZOOMS[0];
  $("zoom-in").disabled = lens.zoom === ZOOMS.at(-1);
  stages.forEach(({ figure, canvas, slider, where }, n) => {
    const plane = PLANES[n], last = volume.shape[plane.axis] - 1;
    figure.hidden = Math.min(volume.shape[plane.across], volume.shape[plane.down]) < 2;
    figure.classList.toggle("active", n === state.plane);
    const side = Math.round(canvas.clientWidth * ratio);
    if (canvas.width !== side || canvas.height !== side) { canvas.width = side; canvas.height = side; }
    slider.max = last; slider.value = at[plane.axis];
    where.textContent = `${at[plane.axis] + 1} / ${last + 1}`;
    canvas.setAttribute("aria-label", `${plane.name} slice ${at[plane.axis] + 1} of ${last + 1}`);
    canvas.classList.toggle("zoomed", lens.zoom > 1);
    if (side) draw(canvas, volume, plane, at, view, SCREEN, ratio, lens);
  });
}

function readOut(voxel) {
  const { volume } = state, name = (place) => (place === IGNORED ? "not scored" : place ? DATA.classes[place - 1].name : "background");
  if (!volume || !voxel) { $("readout").textContent = "\u00a0"; return; }
  const p = voxel[0] + volume.shape[0] * (voxel[1] + volume.shape[1] * voxel[2]);
  $("readout").textContent = `voxel ${voxel.map((n) => n + 1).join(", ")}${WORDS.truth ? ` · truth: ${name(volume.truth[p])}` : ""} · prediction: ${name(volume.prediction[p])}`;
}

/** Show a case, at the slices where most is wrong. */
async function look(n, bring = false) {
  if (n < 0 || n >= DATA.volumes.length) return;
  state.n = n;
  const about = DATA.volumes[n], entry = DATA.cases[about.case];
  const volume = await unpack(n, about);
  if (state.n !== n) return; // another case was asked for meanwhile
  state.volume = volume;
  state.at = [...volume.focus];
  state.lens = WHOLE;
  $("viewer-title").textContent = entry.id;
  const size = about.spacing_mm.map((mm) => mm.toFixed(2)).join(" × ");
  $("viewer-note").textContent = [`${WORDS.measure} ${entry.dice === null ? "–" : entry.dice.toFixed(3)}`, `${n + 1} of ${DATA.volumes.length}, ${WORDS.order}`, `voxels of ${size} mm`, about.note].filter(Boolean).join(" · ");
  $("previous").disabled = n === 0;
  $("next").disabled = n === DATA.volumes.length - 1;
  showNumbers(about.case);
  showReview();
  markCurrent();
  redraw();
  if (bring) { $("viewer").scrollIntoView({ block: "start" }); $("viewer").focus({ preventScroll: true }); }
}

/** List the numbers of the case, a class a row, whose box switches its masks. */
function showNumbers(place) {
  const wanted = DATA.metrics.map((metric, n) => [metric, n]).filter(([metric]) => (metric.better || !WORDS.truth) && !metric.key.startsWith("lesions_found"));
  const head = element("tr");
  head.append(element("th", "Class", { scope: "col" }), element("th", "Outcome", { scope: "col" }));
  head.append(...wanted.map(([metric]) => element("th", metric.title, { scope: "col", title: metric.note })));
  const lines = DATA.rows.filter((row) => row[0] === place).map((row) => {
    const line = element("tr"), first = element("th", "", { scope: "row" }), label = element("label");
    const box = element("input", "", { type: "checkbox" });
    box.checked = !view.hidden.has(row[1] + 1);
    box.addEventListener("change", () => { view.hidden[box.checked ? "delete" : "add"](row[1] + 1); redraw(); });
    label.append(box, " ", element("span", "", { class: `swatch k${row[1] % COLOURS.length}` }), DATA.classes[row[1]].name);
    first.append(label);
    line.append(first, cell(row, COLUMNS[2]), ...wanted.map(([metric, n]) => element("td", shown(row[3][n], metric))));
    return line;
  });
  const thead = element("thead"), tbody = element("tbody");
  thead.append(head);
  tbody.append(...lines);
  $("case-table").replaceChildren(thead, tbody);
}

function markCurrent() {
  for (const line of document.querySelectorAll("#table tr[data-volume]")) line.classList.toggle("current", +line.dataset.volume === state.n);
  for (const [n, button] of [...document.querySelectorAll("#strip button")].entries()) {
    button.setAttribute("aria-current", n === state.n);
    button.classList.toggle("seen", reviewOf(DATA.cases[DATA.volumes[n].case].id).seen);
  }
}

/** The worst cases at a glance, each at its worst slice. */
async function buildStrip() {
  const ratio = pixelRatio();
  for (const [n, about] of DATA.volumes.slice(0, STRIP).entries()) {
    const entry = DATA.cases[about.case], item = element("div", "", { role: "listitem" });
    const button = element("button", "", { type: "button" }), canvas = element("canvas"), text = element("span");
    text.append(element("b", brief(entry.id, 26), { title: entry.id }), element("span", entry.dice === null ? "–" : entry.dice.toFixed(3)));
    button.append(canvas, text);
    button.addEventListener("click", () => look(n));
    item.append(button);
    $("strip").append(item);
    canvas.width = canvas.height = Math.round(131 * ratio);
    const volume = await unpack(n, about);
    const plane = PLANES.find((entry) => Math.min(volume.shape[entry.across], volume.shape[entry.down]) > 1) ?? PLANES[0];
    draw(canvas, volume, plane, volume.focus, { ...view, thin: true }, BARE, ratio);
    markCurrent();
  }
}

buildTable();
if (DATA.volumes.length) {
  buildViewer();
  buildReview();
  look(0).then(buildStrip);
}
// A link of the summary brings its case, or the rows with its outcome.
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-case], a[data-outcome]");
  if (!link) return;
  event.preventDefault();
  if (link.dataset.case) { bringCase(+link.dataset.case); return; }
  narrow("", link.dataset.outcome);
});
// A dot brings its case.
document.addEventListener("click", (event) => {
  const dot = event.target.closest("svg [data-case]");
  if (dot) bringCase(+dot.dataset.case);
});

/** Bring the pictures of a case, or where there are none its rows. */
function bringCase(place) {
  if (volumeOf.has(place)) look(volumeOf.get(place), true);
  else narrow(DATA.cases[place].id, "");
}

/** Narrow the table to a case and an outcome, and go there. */
function narrow(name, outcome) {
  $("filter").value = name;
  $("class-filter").value = "";
  $("outcome-filter").value = [...$("outcome-filter").options].some(({ value }) => value === outcome) ? outcome : "";
  $("filter").dispatchEvent(new Event("input"));
  $("filter").scrollIntoView({ block: "center" });
}
