// The part of the data that is drawn now: units (a channel, or a group of channels) and edges.

const NODE_FIELDS = { activation: 1, relevance: 2, rank: 3, total: 4 };

/** The figures of a circuit's nodes, by node. */
const FIGURES = DATA.circuits.map(
  (circuit) =>
    new Map(
      circuit.nodes.map((row) => [
        row[0],
        Object.fromEntries(Object.entries(NODE_FIELDS).map(([name, place]) => [name, row[place]])),
      ]),
    ),
);

/** A circuit's edges: ends, quantities by name, and the share of all that goes into the target. */
const EDGES = DATA.circuits.map((circuit, place) =>
  circuit.edges.map(([source, target, ...figures]) => {
    const edge = { source, target };
    circuit.quantities.forEach((name, i) => (edge[name] = figures[i]));
    const total = FIGURES[place].get(target).total;
    edge.share = total ? edge.score / total : 0;
    return edge;
  }),
);

function figuresOf(node) {
  return FIGURES[state.circuit].get(node) ?? FIGURES[state.against]?.get(node);
}

/** How far a node changes the class's logit when it alone is cut; undefined where nobody tried. */
function effectOf(node) {
  const effect = DATA.effects?.[node];
  return effect && effect[0] - DATA.logit;
}

/** Edges of the circuit, or of the difference of two: then `change` is the share gained. */
function edgesNow() {
  const edges = EDGES[state.circuit];
  if (state.against < 0) return edges;
  const merged = new Map();
  const add = (edge, sign) => {
    const key = edge.source * DATA.nodes.length + edge.target;
    const before = merged.get(key) ?? { ...edge, change: 0 };
    merged.set(key, { ...before, change: before.change + sign * edge.share });
  };
  for (const edge of edges) add(edge, 1);
  for (const edge of EDGES[state.against]) add(edge, -1);
  return [...merged.values()];
}

/** The number by which an edge is wide, with its sign. */
function quantityOf(edge) {
  if (state.against >= 0) return edge.change;
  if (state.width === "score") return edge.score * (edge.signed < 0 ? -1 : 1);
  return edge[state.width];
}

/**
 * What is drawn: units with their members, layer and place in it, and the edges between them.
 * An edge's `value` is the chosen quantity; `width` is its size beside the largest one into the layer.
 */
function viewNow() {
  const unitOf = new Map();
  const units = [];
  const always = new Set([...state.pins, state.chosen]);
  const here = (node) => {
    const ranks = [FIGURES[state.circuit].get(node), FIGURES[state.against]?.get(node)];
    return ranks.some((each) => each && (each.rank <= state.most || DATA.nodes[node][2] !== "channel"));
  };
  const grouped = new Map(state.groups.flatMap((group) => group.map((node) => [node, group])));
  DATA.nodes.forEach(([layer], node) => {
    if (!here(node) && !(always.has(node) && figuresOf(node))) return;
    const group = grouped.get(node);
    const known = group && group.map((member) => unitOf.get(member)).find((unit) => unit);
    if (known) known.members.push(node);
    const unit = known ?? { members: [node], layer, group };
    if (!known) units.push(unit);
    unitOf.set(node, unit);
  });
  for (const unit of units) if (unit.members.length === 1) unit.group = undefined;
  return { units, unitOf, edges: edgesBetween(unitOf) };
}

function edgesBetween(unitOf) {
  const sums = new Map();
  for (const edge of edgesNow()) {
    const [source, target] = [unitOf.get(edge.source), unitOf.get(edge.target)];
    if (!source || !target) continue;
    let row = sums.get(source);
    if (!row) sums.set(source, (row = new Map()));
    const sum = row.get(target);
    if (sum) {
      sum.value += quantityOf(edge);
      sum.signed += edge.signed;
    } else row.set(target, { source, target, value: quantityOf(edge), signed: edge.signed });
  }
  const edges = [...sums.values()].flatMap((row) => [...row.values()]);
  const strongest = new Map();
  const widest = new Map();
  for (const { target, value } of edges) {
    const size = Math.abs(value);
    strongest.set(target, Math.max(strongest.get(target) ?? 0, size));
    widest.set(target.layer, Math.max(widest.get(target.layer) ?? 0, size));
  }
  return edges.filter((edge) => {
    const size = Math.abs(edge.value);
    edge.width = size / (widest.get(edge.target.layer) || 1);
    return size > 0 && size >= (state.threshold / 100) * strongest.get(edge.target);
  });
}
