// The circuit as a drawing. The edges are painted once, in a layer of their own; a click dims that
// layer and draws anew only what it lights.

const TALLEST = 520; // all channels of a layer, in pixels
const GAP = 44; // between two of them, at most
const READABLE = 40; // between two layers
const NARROWEST = 12;
const TOP = 20;
const FEET = 150;
const LETTER = 7.5; // width of one, at most
const DASHED = 1500; // of more edges only the lit ones are dashed: dashes take long to paint
const LONGEST = 22; // names are cut beyond so many letters
const LANE = 15; // between two lanes, at most
const LANES = 140; // all lanes on one side, at most

let drawn = null; // the view, with places and elements

function drawingWidth() {
  return Math.max(300, byId("drawing").clientWidth - 4);
}

/** Give every unit its place. */
function place(view) {
  const used = [...new Set(view.units.map((unit) => unit.layer))].sort((a, b) => a - b);
  const column = new Map(used.map((layer, i) => [layer, i]));
  // The first layer's name hangs to the left, the class's stands to the right.
  const left = 16 + Math.min(LONGEST, DATA.layers[used[0]].length) * 3;
  const label = DATA.circuits[state.circuit].graph.label_name;
  const right = 34 + Math.min(LONGEST, label.length) * LETTER;
  const fit = Math.max(NARROWEST, (drawingWidth() - left - right) / Math.max(1, used.length - 1));
  const step = Math.max(NARROWEST, Math.max(fit, READABLE) * state.zoom);
  const lanes = lanesOf(view, column);
  const lane = Math.min(LANE, LANES / (lanes.count + 1));
  const margin = lane * (lanes.count + 1);
  const layers = new Map();
  for (const unit of view.units) {
    if (!layers.has(unit.layer)) layers.set(unit.layer, []);
    layers.get(unit.layer).push(unit);
  }
  const longest = Math.max(...[...layers.values()].map((units) => units.length));
  const tall = Math.min(TALLEST, GAP * Math.max(1, longest - 1));
  for (const [layer, units] of layers) {
    const gap = Math.min(GAP, tall / Math.max(1, units.length - 1));
    units.forEach((unit, i) => {
      unit.x = left + column.get(layer) * step;
      unit.y = TOP + margin + tall / 2 + (i - (units.length - 1) / 2) * gap;
    });
  }
  const width = left + (used.length - 1) * step + right;
  return { used, column, step, fit, lanes, lane, left, width, top: TOP + margin, bottom: TOP + margin + tall, margin };
}

/** Lanes of edges that pass over layers: edges between the same two layers run as one bundle. */
function lanesOf(view, column) {
  const spans = new Map();
  for (const { source, target } of view.edges) {
    const ends = [column.get(source.layer), column.get(target.layer)];
    if (ends[1] - ends[0] > 1) spans.set(ends.join(), ends);
  }
  const taken = [];
  const lanes = new Map();
  const longestFirst = [...spans.values()].sort((a, b) => b[1] - b[0] - (a[1] - a[0]) || a[0] - b[0]);
  for (const [first, last] of longestFirst) {
    let lane = taken.findIndex((others) => others.every(([a, b]) => first >= b || last <= a));
    if (lane < 0) lane = taken.push([]) - 1;
    taken[lane].push([first, last]);
    lanes.set([first, last].join(), lane);
  }
  return { lanes, count: Math.ceil(taken.length / 2) };
}

function curve(edge, where) {
  const { source, target } = edge;
  const ends = [where.column.get(source.layer), where.column.get(target.layer)];
  const lane = where.lanes.lanes.get(ends.join());
  const ease = (x0, y0, x1, y1) => {
    const half = ((x0 + x1) / 2).toFixed(1);
    return `C${half} ${y0.toFixed(1)} ${half} ${y1.toFixed(1)} ${x1.toFixed(1)} ${y1.toFixed(1)}`;
  };
  const start = `M${source.x.toFixed(1)} ${source.y.toFixed(1)}`;
  if (lane === undefined) return start + ease(source.x, source.y, target.x, target.y);
  const depth = where.lane * (1 + Math.floor(lane / 2));
  const y = lane % 2 ? where.bottom + depth : where.top - depth;
  const [up, down] = [source.x + where.step * 0.9, target.x - where.step * 0.9];
  return `${start}${ease(source.x, source.y, up, y)}L${down.toFixed(1)} ${y.toFixed(1)}${ease(down, y, target.x, target.y)}`;
}

function signOf(edge) {
  if (state.against >= 0) return edge.value < 0 ? "less" : "more";
  return edge.value < 0 ? "negative" : "positive";
}

function strokeOf(width) {
  return 0.6 + 3.6 * width;
}

/** A path for each edge: few long ones would be quicker to make, and far slower to paint. */
function baseEdges(view, where) {
  const paths = view.edges.map((edge) =>
    makeSvg("path", {
      d: curve(edge, where), class: signOf(edge), "stroke-width": strokeOf(edge.width).toFixed(2),
    }),
  );
  return makeSvg("g", { class: "edges base" }, ...paths);
}

/** How large a unit is beside the largest of its layer, from 0 to 1. */
function weightOf(unit, largest) {
  const most = largest.get(unit.layer);
  return most ? amountOf(unit) / most : 0;
}

function amountOf(unit) {
  const of = (node) =>
    state.size === "effect" ? Math.abs(effectOf(node) ?? 0) : (figuresOf(node)?.relevance ?? 0);
  return unit.members.reduce((sum, node) => sum + of(node), 0);
}

function largestBy(units, amount) {
  const most = new Map();
  for (const unit of units) most.set(unit.layer, Math.max(most.get(unit.layer) ?? 0, amount(unit)));
  return most;
}

function describe(unit) {
  if (unit.members.length > 1) {
    return `${unit.members.length} channels of ${DATA.layers[unit.layer]} that stand as one`;
  }
  const [node] = unit.members;
  if (isClass(node)) return `class ${nameOf(node)}`;
  const { relevance, activation } = figuresOf(node);
  const effect = effectOf(node);
  const cut = effect === undefined ? "" : `, without it the logit changes by ${signed(effect)}`;
  return `${nameOf(node)}, relevance ${digits(relevance)}, activation ${digits(activation)}${cut}`;
}

function membership(node) {
  if (state.against < 0) return "";
  const [here, there] = [FIGURES[state.circuit].has(node), FIGURES[state.against].has(node)];
  return here && there ? "both" : here ? "first" : "second";
}

function drawUnit(unit, size, dark) {
  const [node] = unit.members;
  const radius = 3.5 + 7 * Math.sqrt(size);
  const several = unit.members.length > 1;
  const lost = unit.members.some((member) => DATA.effects?.[member]?.[1] === false);
  const group = makeSvg("g", {
    class: `node ${membership(node)}${lost ? " lost" : ""}`,
    transform: `translate(${unit.x.toFixed(1)} ${unit.y.toFixed(1)})`,
    role: "button", tabindex: -1, "aria-label": describe(unit), "data-node": keyOf(node),
  });
  const shape = (className, r, extra = {}) =>
    several
      ? makeSvg("rect", { class: className, x: -r, y: -r, width: 2 * r, height: 2 * r, rx: 3, ...extra })
      : makeSvg("circle", { class: className, r, ...extra });
  const face = Math.max(radius, several ? 8 : 0);
  group.append(
    makeSvg("title", {}, describe(unit)),
    shape("ring", face + 4),
    shape("back", face),
    shape("face", face, { "fill-opacity": (0.15 + 0.85 * dark).toFixed(2) }),
  );
  if (several) {
    group.append(makeSvg("text", { y: -face - 5, "text-anchor": "middle" }, String(unit.members.length)));
  }
  if (isClass(node)) {
    const name = nameOf(node);
    group.append(makeSvg("text", { x: radius + 8, y: 5, "font-weight": 700 }, cut(name, LONGEST)));
  } else if (state.names[node]) {
    group.append(makeSvg("text", { x: radius + 5, y: 4 }, cut(state.names[node], LONGEST)));
  }
  unit.element = group;
  return group;
}

/** Draw all of it anew. */
function draw() {
  const view = viewNow();
  const where = place(view);
  const height = where.bottom + where.margin + FEET;
  const size = { width: where.width, height, viewBox: `0 0 ${where.width} ${height}` };
  const sizes = largestBy(view.units, amountOf);
  const activity = (unit) =>
    Math.max(...unit.members.map((node) => figuresOf(node)?.activation ?? 0));
  const active = largestBy(view.units, activity);
  const layers = where.used.map((layer) => {
    const x = (where.left + where.column.get(layer) * where.step).toFixed(1);
    const y = where.bottom + where.margin + 20;
    const name = DATA.layers[layer];
    return makeSvg(
      "text",
      { class: "layer", transform: `translate(${x} ${y}) rotate(-60)`, "text-anchor": "end" },
      makeSvg("title", {}, name), cutFront(name, LONGEST),
    );
  });
  const nodes = view.units.map((unit) =>
    drawUnit(unit, weightOf(unit, sizes), active.get(unit.layer) ? activity(unit) / active.get(unit.layer) : 0),
  );
  const lit = makeSvg("g", { class: "edges lit" });
  // The many edges are a picture of their own, so that to dim them paints none of them again.
  const many = view.edges.length > DASHED ? " many" : "";
  const below = makeSvg("svg", { ...size, class: `below${many}`, "aria-hidden": "true" }, baseEdges(view, where));
  const above = makeSvg("svg", size, lit, makeSvg("g", {}, ...layers), makeSvg("g", {}, ...nodes));
  byId("drawing").replaceChildren(below, above);
  drawn = { ...view, where, lit };
  light();
}

/** A step of a path that is no edge of the drawing: too weak for it, or over channels not drawn. */
function stepOf(source, target) {
  const value = EDGES[state.circuit]
    .filter((edge) => source.members.includes(edge.source) && target.members.includes(edge.target))
    .reduce((sum, edge) => sum + quantityOf(edge), 0);
  return { source, target, value, width: 0.1, via: value === 0 };
}

/** Light what belongs to the chosen channel: its edges, and its strongest paths. */
function light() {
  const { units, unitOf, edges, where, lit } = drawn;
  const chosen = state.chosen === null ? undefined : unitOf.get(state.chosen);
  const shining = new Set(chosen ? [chosen] : []);
  const lines = chosen ? edges.filter((edge) => edge.source === chosen || edge.target === chosen) : [];
  for (const { source, target } of lines) shining.add(source).add(target);
  if (chosen) {
    for (const { nodes } of pathsThrough(state.chosen)) {
      const stations = nodes.map((node) => unitOf.get(node)).filter((unit) => unit);
      stations.forEach((target, i) => {
        shining.add(target);
        const source = stations[i - 1];
        if (!source || source === target) return;
        const known = edges.find((edge) => edge.source === source && edge.target === target);
        if (!lines.includes(known)) lines.push(known ?? stepOf(source, target));
      });
    }
  }
  lit.replaceChildren(
    ...lines.map((edge) =>
      makeSvg(
        "path",
        { d: curve(edge, where), class: edge.via ? "via" : signOf(edge), "stroke-width": strokeOf(edge.width) },
        makeSvg("title", {}, `${describe(edge.source)} → ${describe(edge.target)}: ${edge.via ? "over channels that are not drawn" : signed(edge.value)}`),
      ),
    ),
  );
  byId("drawing").classList.toggle("focus", Boolean(chosen));
  const found = new Set(searched().map((node) => unitOf.get(node)));
  const pinned = new Set(state.pins.map((node) => unitOf.get(node)));
  for (const unit of units) {
    const { element } = unit;
    element.classList.toggle("lit", shining.has(unit));
    element.classList.toggle("chosen", unit === chosen);
    element.classList.toggle("pinned", pinned.has(unit));
    element.classList.toggle("found", found.has(unit));
    element.setAttribute("aria-pressed", String(unit === chosen));
    element.setAttribute("tabindex", unit === (chosen ?? units[0]) ? 0 : -1);
  }
}

/** The unit that lies next to another one in the direction of an arrow key. */
function neighbour(unit, key) {
  const { units } = drawn;
  if (key === "ArrowUp" || key === "ArrowDown") {
    const layer = units.filter((each) => each.layer === unit.layer).sort((a, b) => a.y - b.y);
    return layer[layer.indexOf(unit) + (key === "ArrowDown" ? 1 : -1)];
  }
  const right = key === "ArrowRight";
  const beyond = units.filter((each) => (right ? each.x > unit.x : each.x < unit.x));
  const nearest = right ? Math.min(...beyond.map((each) => each.x)) : Math.max(...beyond.map((each) => each.x));
  return beyond
    .filter((each) => each.x === nearest)
    .sort((a, b) => Math.abs(a.y - unit.y) - Math.abs(b.y - unit.y))[0];
}

function unitAt(target) {
  const element = target.closest?.(".node");
  return element && drawn.units.find((unit) => unit.element === element);
}

function choose(node) {
  change({ chosen: node });
  bringIntoView();
}

/** Scroll the drawing, and it alone, to the chosen channel. */
function bringIntoView() {
  const unit = drawn.unitOf.get(state.chosen);
  const frame = byId("drawing");
  if (!unit) return;
  const margin = 60;
  const [low, high] = [frame.scrollLeft + margin, frame.scrollLeft + frame.clientWidth - margin];
  if (unit.x < low || unit.x > high) frame.scrollLeft = unit.x - frame.clientWidth / 2;
}

function togglePin(node) {
  const pins = state.pins.includes(node)
    ? state.pins.filter((each) => each !== node)
    : [...state.pins, node];
  change({ pins });
}

function startDrawing() {
  const frame = byId("drawing");
  frame.addEventListener("click", (event) => {
    const unit = unitAt(event.target);
    if (!unit) return;
    choose(unit.members[0]);
    unit.element.focus({ preventScroll: true });
  });
  frame.addEventListener("keydown", (event) => {
    if (event.key === "Escape") return choose(null);
    const unit = unitAt(event.target);
    if (event.key.startsWith("Arrow")) {
      const next = unit ? neighbour(unit, event.key) : drawn.units[0];
      if (next) next.element.focus();
      event.preventDefault();
    } else if (unit && (event.key === "Enter" || event.key === " ")) {
      choose(unit.members[0]);
      drawn.unitOf.get(unit.members[0])?.element.focus({ preventScroll: true });
      event.preventDefault();
    } else if (unit && event.key.toLowerCase() === "p") {
      togglePin(unit.members[0]);
      drawn.unitOf.get(unit.members[0])?.element.focus({ preventScroll: true });
    }
  });
}
