// What is known of the chosen channel, and the pinned ones side by side.

const LISTED = 5;

function edgeButton(node, edge, largest, how) {
  const value = how(edge);
  const width = Math.max(2, (Math.abs(value) / (largest || 1)) * 74);
  const bar = make("span", { class: `bar${value < 0 ? " negative" : ""}` });
  bar.style.width = `${width}px`;
  return make(
    "li", {},
    make(
      "button", { onclick: () => choose(node), title: nameOf(node) },
      make("span", { class: "name" }, shortNameOf(node)), bar, make("span", { class: "figure" }, signed(value)),
    ),
  );
}

/** Lists of a channel's neighbours on one side, those that excite apart from those that inhibit. */
function neighbours(node, side, other, verbs) {
  const edges = EDGES[state.circuit].filter((edge) => edge[side] === node);
  const how = (edge) => (state.width === "score" ? edge.signed : edge[state.width]);
  const largest = Math.max(0, ...edges.map((edge) => Math.abs(how(edge))));
  return [1, -1].flatMap((sign, i) => {
    const some = edges
      .filter((edge) => how(edge) * sign > 0)
      .sort((a, b) => Math.abs(how(b)) - Math.abs(how(a)));
    const rows = some.slice(0, LISTED).map((edge) => edgeButton(edge[other], edge, largest, how));
    const title = some.length > LISTED ? `${verbs[i]} (${LISTED} of ${some.length} here)` : verbs[i];
    return rows.length ? [make("h3", {}, title), make("ul", { class: "list" }, ...rows)] : [];
  });
}

function pathList(node) {
  const paths = pathsThrough(node);
  if (!paths.length) return [];
  const rows = paths.map(({ strength, nodes }) => {
    const steps = nodes.flatMap((each, i) => [
      ...(i ? [" → "] : []),
      each === node
        ? make("b", {}, nameOf(each))
        : make("button", { onclick: () => choose(each), title: nameOf(each) }, shortNameOf(each)),
    ]);
    const share = strength < 1e-4 ? "less than 0.01" : digits(strength * 100);
    return make("p", { class: "path" }, `${share} % of the class: `, ...steps);
  });
  const [first, ...others] = rows;
  const more = others.length
    ? [make("details", {}, make("summary", {}, `${others.length} more`), ...others)]
    : [];
  return [make("h3", {}, "strongest path, from the image to the class"), first, ...more];
}

/** What the class is without a channel, in one sentence. */
function withoutIt(node) {
  const effect = DATA.effects?.[node];
  if (!effect) return isClass(node) ? "" : "What the class is without it was not computed.";
  const [logit, kept, instead] = effect;
  const name = DATA.circuits[state.circuit].graph.label_name;
  const then = kept ? `and “${name}” still comes first` : `and the classifier says “${instead}” instead`;
  return `Without it (set to zero, all else as it is) the class’s logit on the explanation goes from ${digits(DATA.logit)} to ${digits(logit)} (${signed(logit - DATA.logit)}), ${then}.`;
}

function figuresLine(node) {
  const figures = figuresOf(node);
  if (!figures) return "It is not in this circuit.";
  const [layer] = DATA.nodes[node];
  const most = node === bestOfLastLayer() ? "It matters most in the last layer before the class. " : "";
  return `${most}Number ${figures.rank} by relevance in ${DATA.layers[layer]}: relevance ${digits(figures.relevance)}, mean activation ${digits(figures.activation)}.`;
}

function cropList(node) {
  const crops = DATA.crops?.[node];
  if (!crops) return [];
  const pictures = crops.map(([src, image, activation]) =>
    make("img", { src, alt: `crop of photograph ${image}`, title: `photograph ${image}: ${digits(activation)}` }),
  );
  return [
    make("h3", {}, "other photographs that drive it most"),
    make("div", { class: "crops" }, ...pictures),
    make("p", { class: "soft" }, "Bright where it fires at least half as strongly as at its best."),
  ];
}

function tools(node, unit) {
  const pinned = state.pins.includes(node);
  const name = make("input", {
    type: "text", value: state.names[node] ?? "", size: 14, maxlength: 60, id: "own-name",
    placeholder: "name it", "aria-label": `a name of your own for ${keyOf(node)}`,
    onchange: (event) => rename(node, event.target.value.trim()),
  });
  const buttons = [
    make("button", { onclick: () => togglePin(node), "aria-pressed": String(pinned), id: "pin" }, pinned ? "unpin" : "pin"),
    make("button", { onclick: () => choose(null), id: "unchoose" }, "close"),
  ];
  if (unit?.group) {
    const open = () => change({ groups: state.groups.filter((group) => group !== unit.group) });
    buttons.push(make("button", { onclick: open, id: "open-group" }, "open this group"));
  }
  return make("div", { class: "row" }, name, ...buttons);
}

function rename(node, name) {
  const names = { ...state.names };
  if (name) names[node] = name;
  else delete names[node];
  change({ names });
}

function membersOf(unit) {
  if (!unit?.group) return [];
  const rows = unit.members.map((member) =>
    make("button", { onclick: () => choose(member) }, nameOf(member)),
  );
  return [
    make("h3", {}, `one of ${rows.length} that stand as one`),
    make("div", { class: "row" }, ...rows),
  ];
}

function showPanel() {
  const node = state.chosen;
  const panel = byId("panel");
  if (node === null || !figuresOf(node)) {
    panel.replaceChildren(
      make("h3", {}, "No channel is chosen"),
      make("p", {}, node === null ? "Click a channel in the drawing, or search for one." : figuresLine(node)),
    );
    return;
  }
  const maps = mapsOf(node, 336);
  const scale = DATA.maps?.[node];
  const unit = drawn.unitOf.get(node);
  const parts = [
    make("h3", {}, nameOf(node)),
    make("p", { class: "soft" }, isClass(node) ? "The class that is explained." : figuresLine(node)),
    isClass(node) ? "" : tools(node, unit),
    ...membersOf(unit),
    maps ?? (isClass(node) ? "" : make("p", { class: "soft" }, "Where it fires was not computed, or it has no place in the image.")),
    maps ? make("p", { class: "soft" }, `Yellow: above zero, blue: below; from ${digits(scale[2])} to ${digits(scale[3])}, one scale for both.`) : "",
    make("p", { id: "without" }, withoutIt(node)),
    ...cropList(node),
    ...neighbours(node, "target", "source", ["excited by", "inhibited by"]),
    ...neighbours(node, "source", "target", ["excites", "inhibits"]),
    ...(isClass(node) ? [] : pathList(node)),
  ];
  panel.replaceChildren(...parts.filter((part) => part !== ""));
}

function showPins() {
  byId("pinned").hidden = state.pins.length === 0;
  byId("pins").replaceChildren(
    ...state.pins.map((node) =>
      make(
        "article", {},
        make("h3", {}, nameOf(node)),
        mapsOf(node, 220) ?? "",
        make("p", {}, figuresLine(node)),
        make("p", {}, withoutIt(node)),
        make(
          "div", { class: "row" },
          make("button", { onclick: () => choose(node) }, "look at it"),
          make("button", { onclick: () => togglePin(node), "aria-label": `unpin ${keyOf(node)}` }, "unpin"),
        ),
      ),
    ),
  );
}
