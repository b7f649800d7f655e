// Where a channel fires, over the photograph: strong colour where it is strong, warm above zero and
// blue below.

const ABOVE = [255, 176, 0];
const BELOW = [80, 150, 255];

function levelsOf(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

/** Draw a channel's map on the picture with this number. */
function drawMap(canvas, node, picture) {
  const [height, width, low, high, ...levels] = DATA.maps[node];
  const values = levelsOf(levels[picture === 0 ? 0 : 1]);
  const most = Math.max(Math.abs(low), Math.abs(high)) || 1;
  const small = make("canvas", { width, height });
  const pixels = new ImageData(width, height);
  values.forEach((level, i) => {
    const value = low + (level / 255) * (high - low);
    pixels.data.set([...(value < 0 ? BELOW : ABOVE), Math.abs(value / most) * 225], 4 * i);
  });
  small.getContext("2d").putImageData(pixels, 0, 0);
  const photo = byId(`picture-${picture === 0 ? 0 : 2}`);
  const paint = () => {
    const context = canvas.getContext("2d");
    canvas.height = Math.round((canvas.width * photo.naturalHeight) / photo.naturalWidth);
    context.filter = "grayscale(1) brightness(0.65)";
    context.drawImage(photo, 0, 0, canvas.width, canvas.height);
    context.filter = "none";
    context.imageSmoothingQuality = "high";
    context.drawImage(small, 0, 0, canvas.width, canvas.height);
  };
  if (photo.complete) paint();
  else photo.addEventListener("load", paint);
}

/** Two canvases with captions: a channel on the photograph and on the explanation. */
function mapsOf(node, side) {
  if (!DATA.maps?.[node] || !byId("picture-0")) return null;
  const figures = ["on the photograph", "on the explanation"].map((title, picture) => {
    const canvas = make("canvas", {
      width: side, height: side, role: "img", "aria-label": `${keyOf(node)} ${title}`,
    });
    drawMap(canvas, node, picture);
    return make("figure", {}, canvas, make("figcaption", {}, title));
  });
  return make("div", { class: "maps" }, ...figures);
}
