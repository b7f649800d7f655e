// What is looked at: one object, kept in the link, so that the link restores the view.

const START = {
  view: 0, // which tab of the first screen
  circuit: 0, // which of DATA.circuits
  against: -1, // the one that is taken away from it; -1 for none
  width: "score", // the quantity that makes an edge wide
  size: "relevance", // and a channel large
  threshold: 60, // inputs shown: per cent of a channel's strongest input
  most: 8, // channels per layer
  zoom: 1,
  chosen: null, // number of a node
  pins: [],
  groups: [], // lists of nodes that are drawn as one
  names: {}, // the reader's own, by node
};

let state = { ...START };
const watchers = [];

function watch(watcher) {
  watchers.push(watcher);
}

/** Change what is looked at, keep it in the link, and draw what follows from it. */
function change(patch) {
  const before = state;
  state = { ...state, ...patch };
  // A page inside a notebook has no address of its own.
  if (location.protocol !== "about:") history.replaceState(null, "", fragment());
  for (const watcher of watchers) watcher(before);
}

function nodeAt(key) {
  return NODE_OF.get(key) ?? null;
}

function fragment() {
  const written = new URLSearchParams();
  for (const name of ["view", "circuit", "against", "width", "size", "threshold", "most", "zoom"]) {
    if (state[name] !== START[name]) written.set(name, state[name]);
  }
  written.set("chosen", state.chosen === null ? "" : keyOf(state.chosen));
  for (const node of state.pins) written.append("pin", keyOf(node));
  for (const group of state.groups) {
    const [layer] = DATA.nodes[group[0]];
    const channels = group.map((node) => DATA.nodes[node][1]).join(",");
    written.append("group", `${DATA.layers[layer]}:${channels}`);
  }
  for (const [node, name] of Object.entries(state.names)) {
    written.append("name", `${keyOf(Number(node))}=${name}`);
  }
  return `#${written}`;
}

/** What a link asks for; whatever it names that does not exist is left out. */
function stateOf(hash) {
  const read = new URLSearchParams(hash.slice(1));
  const wanted = { ...START, pins: [], groups: [], names: {} };
  const within = (name, low, high) => {
    const value = Number(read.get(name));
    if (read.has(name) && value >= low && value <= high) wanted[name] = value;
  };
  const place = (name, low) => {
    within(name, low, DATA.circuits.length - 1);
    wanted[name] = Math.round(wanted[name]);
  };
  within("view", 0, TABS.length - 1);
  wanted.view = Math.round(wanted.view);
  place("circuit", 0);
  place("against", -1);
  within("threshold", 0, 100);
  within("most", 1, 16);
  within("zoom", 0.1, 6);
  if (DATA.circuits[wanted.circuit].quantities.includes(read.get("width"))) wanted.width = read.get("width");
  if (read.get("size") === "effect" && DATA.effects) wanted.size = "effect";
  wanted.chosen = read.has("chosen") ? nodeAt(read.get("chosen")) : bestOfLastLayer();
  wanted.pins = read.getAll("pin").map(nodeAt).filter((node) => node !== null);
  for (const text of read.getAll("group")) {
    const cut = text.lastIndexOf(":");
    const group = text
      .slice(cut + 1)
      .split(",")
      .map((channel) => nodeAt(`${text.slice(0, cut)}:${channel}`))
      .filter((node) => node !== null);
    if (group.length > 1) wanted.groups.push(group);
  }
  for (const text of read.getAll("name")) {
    const cut = text.indexOf("=");
    const node = nodeAt(text.slice(0, cut));
    if (node !== null && cut > 0) wanted.names[node] = text.slice(cut + 1);
  }
  return wanted;
}

/** The name of a node where there is little room. */
function shortNameOf(node) {
  return state.names[node] || isClass(node) ? cut(nameOf(node), 24) : cutFront(keyOf(node), 24);
}

function nameOf(node) {
  const own = state.names[node];
  if (isClass(node)) return DATA.circuits[state.circuit].graph.label_name;
  return own ? `${own} (${keyOf(node)})` : keyOf(node);
}
