// The strongest paths through a channel. A path's strength is the product over its edges of the share
// that each has in the scores of all edges into its target: what share of the class comes this way.

const MOST_PATHS = 3;

/** By node the best ways on from it (or to it, of edges turned round): strength and nodes. */
function bestWays(edges, order, from, to, shareOf) {
  const next = new Map();
  for (const edge of edges) {
    const list = next.get(edge[from]);
    if (list) list.push(edge);
    else next.set(edge[from], [edge]);
  }
  const ways = new Map();
  for (const node of order) {
    const found = [];
    for (const edge of next.get(node) ?? []) {
      for (const way of ways.get(edge[to]) ?? []) {
        found.push({ strength: way.strength * shareOf(edge), nodes: [node, ...way.nodes] });
      }
    }
    if (!next.has(node)) found.push({ strength: 1, nodes: [node] });
    found.sort((a, b) => b.strength - a.strength);
    ways.set(node, found.slice(0, MOST_PATHS));
  }
  return ways;
}

const WAYS = new Map();

/** The ways to the class and back to the image, of each circuit found once. */
function waysOf(circuit) {
  if (!WAYS.has(circuit)) {
    const depths = DATA.circuits[circuit].depths;
    const depth = (node) => depths[DATA.layers[DATA.nodes[node][0]]] ?? 0;
    const order = [...FIGURES[circuit].keys()].sort((a, b) => depth(a) - depth(b));
    const edges = EDGES[circuit].filter((edge) => edge.share > 0);
    const share = (edge) => edge.share;
    WAYS.set(circuit, {
      onwards: bestWays(edges, [...order].reverse(), "source", "target", share),
      back: bestWays(edges, order, "target", "source", share),
    });
  }
  return WAYS.get(circuit);
}

/** The strongest paths through a node, from the first layer to the class. */
function pathsThrough(node) {
  const { onwards, back } = waysOf(state.circuit);
  const paths = [];
  for (const on of onwards.get(node) ?? []) {
    if (!isClass(on.nodes.at(-1))) continue;
    for (const before of back.get(node) ?? []) {
      paths.push({
        strength: on.strength * before.strength,
        nodes: [...[...before.nodes].reverse(), ...on.nodes.slice(1)],
      });
    }
  }
  return paths.sort((a, b) => b.strength - a.strength).slice(0, MOST_PATHS);
}
