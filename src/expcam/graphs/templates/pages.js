// The first screen and the other methods: pictures that lie over each other, tabs, and buttons.

function press(buttons, chosen) {
  buttons.forEach((button, place) => button.setAttribute("aria-pressed", String(place === chosen)));
}

/** A slider that fades from one picture to the next. */
function startViewer(viewer) {
  const pictures = [...viewer.querySelectorAll(".stack img")];
  const slider = viewer.querySelector(".slider");
  const stops = [...viewer.querySelectorAll(".stops button")];
  const show = () => {
    const at = Number(slider.value);
    pictures.forEach((picture, place) => {
      picture.style.opacity = place === 0 ? 1 : Math.min(1, Math.max(0, at - place + 1));
      picture.setAttribute("aria-hidden", String(Math.round(at) !== place));
    });
    slider.setAttribute("aria-valuetext", pictures[Math.round(at)].alt);
    press(stops, Number.isInteger(at) ? at : -1);
  };
  slider.addEventListener("input", show);
  stops.forEach((button, place) =>
    button.addEventListener("click", () => {
      slider.value = place;
      show();
    }),
  );
  show();
}

const TABS = [...document.querySelectorAll('[role="tab"]')];

function showTab() {
  TABS.forEach((tab, place) => {
    const chosen = place === state.view;
    tab.setAttribute("aria-selected", String(chosen));
    tab.tabIndex = chosen ? 0 : -1;
    byId(`view-${place}`).hidden = !chosen;
  });
}

function startTabs() {
  TABS.forEach((tab, place) => {
    tab.addEventListener("click", () => change({ view: place }));
    tab.addEventListener("keydown", (event) => {
      const steps = { ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: -1 };
      if (!(event.key in steps)) return;
      event.preventDefault();
      const next = (steps[event.key] + TABS.length) % TABS.length;
      change({ view: next });
      TABS[next].focus();
    });
  });
}

function startCuts() {
  const buttons = [...document.querySelectorAll("#cuts button")];
  buttons.forEach((button, chosen) =>
    button.addEventListener("click", () => {
      press(buttons, chosen);
      for (const figure of document.querySelectorAll(".cards figure")) {
        [...figure.children].forEach((cut, place) => (cut.hidden = place !== chosen));
      }
    }),
  );
}

function startPages() {
  byId("controls").open = window.innerWidth > 720;
  document.querySelectorAll(".viewer").forEach(startViewer);
  startTabs();
  startCuts();
  for (const button of document.querySelectorAll("[data-to]")) {
    button.addEventListener("click", () => {
      const { to, circuit } = button.dataset;
      if (circuit !== undefined) chooseCircuit(Number(circuit));
      byId(to).scrollIntoView({ behavior: "smooth" });
    });
  }
}

/** The curves, in the page's colours. */
function drawCurves() {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const axis = { gridcolor: colour("--line"), linecolor: colour("--line"), zerolinecolor: colour("--line") };
  for (const [name, { data, layout }] of Object.entries(DATA.figures ?? {})) {
    const frame = byId(name);
    Plotly.react(
      frame,
      data,
      {
        ...layout,
        width: Math.min(layout.width, Math.max(340, frame.parentElement.clientWidth - 8)),
        font: { color: colour("--ink") },
        paper_bgcolor: "rgba(0,0,0,0)",
        plot_bgcolor: "rgba(0,0,0,0)",
        xaxis: { ...layout.xaxis, ...axis },
        yaxis: { ...layout.yaxis, ...axis },
      },
      { displaylogo: false, displayModeBar: false },
    );
  }
}
