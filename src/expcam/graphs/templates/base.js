// What the other scripts share. They are put into one page in the order of `report.SCRIPTS`, and see
// each other's names; nothing is loaded from anywhere.

const DATA = JSON.parse(document.getElementById("data").textContent);

function byId(id) {
  return document.getElementById(id);
}

/** An HTML element. Strings among the children become text, never markup. */
function make(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** The same of SVG. */
function makeSvg(name, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function fill(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value != null) element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

/** Three digits, with a true minus sign. */
function digits(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text = size >= 1e4 || size < 1e-3 ? value.toExponential(1) : String(Number(value.toPrecision(3)));
  return text.replace("-", "−");
}

function signed(value) {
  return (value > 0 ? "+" : "") + digits(value);
}

function cut(name, length) {
  return name.length > length ? `${name.slice(0, length - 1)}…` : name;
}

/** Of a layer's name the end tells more. */
function cutFront(name, length) {
  return name.length > length ? `…${name.slice(1 - length)}` : name;
}

/** ``layer:channel``, as links and searches write it. */
function keyOf(node) {
  const [layer, channel] = DATA.nodes[node];
  return `${DATA.layers[layer]}:${channel}`;
}

const NODE_OF = new Map(DATA.nodes.map((_, node) => [keyOf(node), node]));

function isClass(node) {
  return DATA.nodes[node][2] === "class";
}
