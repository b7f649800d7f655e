// Start: read the link, draw, and follow what changes.

/** Where a reader begins: the most relevant channel of the last layer before the class. */
function bestOfLastLayer() {
  const channels = [...FIGURES[0]].filter(([node]) => DATA.nodes[node][2] === "channel");
  const last = Math.max(...channels.map(([node]) => DATA.nodes[node][0]));
  const found = channels.find(([node, { rank }]) => DATA.nodes[node][0] === last && rank === 1);
  return found ? found[0] : null;
}

const REDRAWS = ["circuit", "against", "width", "size", "threshold", "most", "zoom", "groups", "names"];

function follow(before) {
  const redraw = REDRAWS.some((name) => before[name] !== state[name]);
  const appears = [state.chosen, ...state.pins].some((node) => node !== null && !drawn.unitOf.has(node));
  if (redraw || appears) draw();
  else light();
  showTab();
  showControls();
  byId("told").textContent = told();
  showKey();
  showPanel();
  showPins();
}

function restore() {
  change(stateOf(location.hash));
  bringIntoView();
}

startPages();
startDrawing();
startControls();
draw();
watch(follow);
restore();
window.addEventListener("hashchange", restore);
window.addEventListener("resize", draw);
// Plotly comes behind these scripts, so that nobody waits for it.
window.addEventListener("load", drawCurves);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawCurves);
