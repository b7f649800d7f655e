// The controls above the drawing, and what they say.

const WIDTH_NAMES = { score: "score", signed: "signed, on this image", effect: "effect when cut" };

function options(select, pairs, value) {
  select.replaceChildren(
    ...pairs.map(([key, text]) => make("option", { value: key, selected: String(key) === String(value) }, text)),
  );
}

function showControls() {
  const circuit = DATA.circuits[state.circuit];
  const titles = DATA.circuits.map(({ title }, place) => [place, title]);
  options(byId("choose-circuit"), titles, state.circuit);
  const others = titles.filter(([place]) => place !== state.circuit);
  options(byId("choose-against"), [[-1, "nothing"], ...others], state.against);
  byId("circuit-choice").hidden = byId("against-choice").hidden = titles.length < 2;
  const widths = circuit.quantities.map((name) => [
    name, name === "score" ? circuit.graph.edges : WIDTH_NAMES[name],
  ]);
  options(byId("choose-width"), widths, state.width);
  byId("choose-width").disabled = state.against >= 0;
  const sizes = [["relevance", "relevance"], ...(DATA.effects ? [["effect", "effect when cut"]] : [])];
  options(byId("choose-size"), sizes, state.size);
  byId("threshold").value = state.threshold;
  byId("show-threshold").textContent = `${state.threshold} %`;
  byId("most").value = state.most;
  byId("show-most").textContent = state.most;
  byId("export").textContent = isWhole(state.circuit) ? "save circuit" : "save this excerpt";
  byId("group-alike").disabled = !DATA.alike?.length;
  byId("group-pins").disabled = !pinnedGroups().length;
  byId("ungroup").disabled = !state.groups.length;
}

function count(number) {
  return number.toLocaleString("en");
}

/** How many channels of a circuit the page has. */
function held(circuit) {
  return DATA.circuits[circuit].nodes.filter(([node]) => DATA.nodes[node][2] === "channel").length;
}

/** Whether the page has all of a circuit's channels and edges. */
function isWhole(circuit) {
  const { size, edges } = DATA.circuits[circuit];
  return held(circuit) === size[0] && edges.length === size[1];
}

/** One line that says what the drawing holds. */
function told() {
  const { units, edges } = drawn;
  const shown = units.flatMap((unit) => unit.members).filter((node) => DATA.nodes[node][2] === "channel").length;
  const circuit = DATA.circuits[state.circuit];
  const [nodes, all] = circuit.size;
  if (state.against < 0) {
    const part = isWhole(state.circuit)
      ? ""
      : ` This page holds ${count(held(state.circuit))} of the channels and ${count(circuit.edges.length)} of the edges, the strongest of each layer; a file written by --out circuit.json holds all.`;
    return `Shows ${shown} of ${count(nodes)} channels and ${count(edges.length)} of ${count(all)} edges of “${circuit.title}”.${part}`;
  }
  const other = DATA.circuits[state.against];
  const row = DATA.differences.find(([a, b]) => a + b === state.circuit + state.against && (a === state.circuit || b === state.circuit));
  const only = units.filter((unit) => membership(unit.members[0]) === "first").length;
  const lacking = units.filter((unit) => membership(unit.members[0]) === "second").length;
  return `“${circuit.title}” less “${other.title}”: ${only} of those drawn are in the first alone, ${lacking} in the second alone (dashed rims); of all, ${digits(row[2] * 100)} % of the channels are in both, and ${digits(row[3] * 100)} % of the edges by score.`;
}

function showKey() {
  const line = (sign, text) =>
    make(
      "li", {},
      makeSvg("svg", { width: 34, height: 10, class: "edges", "aria-hidden": "true" }, makeSvg("path", { d: "M2 5H32", class: sign })),
      text,
    );
  const lines =
    state.against < 0
      ? [line("positive", "excites"), line("negative", "inhibits (dashed)")]
      : [line("more", "a larger share in the first"), line("less", "in the second (dashed)")];
  const notes = [
    "wider: stronger beside the others into the same layer",
    `larger dot: more ${state.size === "effect" ? "effect when cut" : "relevant"} in its layer`,
    "darker dot: more active",
    ...(DATA.effects && Object.values(DATA.effects).some((effect) => !effect[1])
      ? ["red rim: without it alone the label is lost"]
      : []),
    "lines above and below: connections that pass over layers, bundled",
  ];
  byId("key").replaceChildren(...lines, ...notes.map((note) => make("li", {}, note)));
}

/** Nodes that the search box asks for: ``layer3``, ``174``, ``layer3.1.conv2:174``, or a name. */
function searched() {
  const text = byId("search").value.trim().toLowerCase();
  if (!text) return [];
  const number = /^:?\d+$/.test(text) ? Number(text.replace(":", "")) : null;
  return DATA.nodes.flatMap((row, node) => {
    if (!figuresOf(node)) return [];
    const fits = number === null ? `${nameOf(node)} ${keyOf(node)}`.toLowerCase().includes(text) : row[1] === number;
    return fits ? [node] : [];
  });
}

function showSearch() {
  const text = byId("search").value.trim();
  const count = searched().length;
  const found = count ? `${count} found; Enter looks at ${count > 1 ? "the next" : "it"}` : "no such channel here";
  byId("search-result").textContent = text ? found : "";
}

function nextFound() {
  const found = searched();
  if (!found.length) return;
  choose(found[(found.indexOf(state.chosen) + 1) % found.length]);
}

/** The pinned channels by layer, where a layer has several. */
function pinnedGroups() {
  const layers = new Map();
  for (const node of state.pins) {
    const [layer] = DATA.nodes[node];
    layers.set(layer, [...(layers.get(layer) ?? []), node]);
  }
  return [...layers.values()].filter((group) => group.length > 1);
}

function addGroups(groups) {
  const taken = new Set(groups.flat());
  const others = state.groups.filter((group) => !group.some((node) => taken.has(node)));
  change({ groups: [...others, ...groups] });
}

/** The circuit as `Circuit.load` reads it, with what is known here of each channel. */
function exported() {
  const circuit = DATA.circuits[state.circuit];
  const [channels, all] = circuit.size;
  const part = isWhole(state.circuit)
    ? {}
    : { excerpt: `${held(state.circuit)} of ${channels} channels, ${circuit.edges.length} of ${all} edges` };
  const nodes = [...FIGURES[state.circuit]].map(([node, figures]) => {
    const [layer, channel, kind] = DATA.nodes[node];
    const name = DATA.layers[layer];
    const { activation, relevance } = figures;
    const row = { layer: name, channel, depth: circuit.depths[name], activation, relevance, kind, id: [name, channel] };
    if (state.names[node]) row.name = state.names[node];
    if (state.pins.includes(node)) row.pinned = true;
    return row;
  });
  const end = (node) => [DATA.layers[DATA.nodes[node][0]], DATA.nodes[node][1]];
  const edges = EDGES[state.circuit].map((edge) => ({
    source: end(edge.source), target: end(edge.target), score: edge.score, signed: edge.signed,
  }));
  return { format: DATA.format, directed: true, multigraph: false, graph: { ...circuit.graph, ...part }, nodes, edges };
}

function download(name, text) {
  const link = make("a", { href: URL.createObjectURL(new Blob([text], { type: "application/json" })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

async function copyLink() {
  const button = byId("copy-link");
  try {
    await navigator.clipboard.writeText(location.href);
    button.textContent = "copied";
  } catch {
    button.textContent = "copy it from the address bar";
  }
  setTimeout(() => (button.textContent = "copy link"), 2000);
}

function chooseCircuit(circuit) {
  const widths = DATA.circuits[circuit].quantities;
  change({
    circuit,
    against: state.against === circuit ? -1 : state.against,
    width: widths.includes(state.width) ? state.width : "score",
  });
}

function startControls() {
  const on = (id, event, action) => byId(id).addEventListener(event, action);
  const chosenValue = (event) => event.target.value;
  on("choose-circuit", "change", (event) => chooseCircuit(Number(chosenValue(event))));
  on("choose-against", "change", (event) => change({ against: Number(chosenValue(event)) }));
  on("choose-width", "change", (event) => change({ width: chosenValue(event) }));
  on("choose-size", "change", (event) => change({ size: chosenValue(event) }));
  on("threshold", "input", (event) => change({ threshold: Number(chosenValue(event)) }));
  on("most", "input", (event) => change({ most: Number(chosenValue(event)) }));
  on("search", "input", () => {
    showSearch();
    light();
  });
  on("search", "keydown", (event) => event.key === "Enter" && nextFound());
  on("zoom-in", "click", () => change({ zoom: Math.min(6, state.zoom * 1.3) }));
  on("zoom-out", "click", () => change({ zoom: Math.max(0.1, state.zoom / 1.3) }));
  on("zoom-fit", "click", () => change({ zoom: drawn.where.fit / Math.max(drawn.where.fit, READABLE) }));
  on("group-alike", "click", () => addGroups(DATA.alike));
  on("group-pins", "click", () => addGroups(pinnedGroups()));
  on("ungroup", "click", () => change({ groups: [] }));
  on("copy-link", "click", copyLink);
  on("export", "click", () => download("circuit.json", JSON.stringify(exported(), null, 1)));
  on("reset", "click", () => {
    byId("search").value = "";
    change({ ...START, chosen: bestOfLastLayer() });
  });
}
