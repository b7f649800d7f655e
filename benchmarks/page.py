"""How quickly the page draws a large circuit and answers a click, in headless Chromium.

    python benchmarks/page.py

A circuit of 401 nodes and about 4,100 edges, all of them drawn. Times are in milliseconds: from the
start of the page until its drawing is painted, and from a click to the next frame.
"""

import random
import shutil
import statistics
import tempfile
from pathlib import Path

import networkx as nx
from playwright.sync_api import sync_playwright

import expcam
from expcam.circuits.formats import Node
from expcam.graphs.report import circuit_html

LAYERS, CHANNELS, CLICKS = 25, 16, 20
PAINTED = """async () => {
    const frame = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    for (let n = 0; n < 3; n++) await frame();
    return performance.now();
}"""
CLICK = """async (key) => {
    const node = document.querySelector(`[data-node="${key}"]`);
    const start = performance.now();
    node.dispatchEvent(new MouseEvent("click", { bubbles: true }));
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    return performance.now() - start;
}"""


def large_circuit(rng: random.Random) -> expcam.Circuit:
    """Each channel reads eight of the layer before and three of the third before."""
    graph: nx.DiGraph[Node] = nx.DiGraph(
        classifier="made", label=1, label_name="class", coverage=0.9, top_k=CHANNELS,
        nodes="relevance", edges="weight×activation", granularity="layers", wiring="exact",
    )  # fmt: skip
    layers = [f"layer{depth}" for depth in range(LAYERS)]
    nodes = [[(layer, channel) for channel in range(CHANNELS)] for layer in layers]
    for depth, row in enumerate([*nodes, [("fc", 1)]]):
        for layer, channel in row:
            graph.add_node(
                (layer, channel), layer=layer, channel=channel, depth=depth,
                activation=rng.random(), relevance=rng.random(),
                kind="class" if layer == "fc" else "channel",
            )  # fmt: skip
    for depth, row in enumerate(nodes):
        for target in row:
            sources = rng.sample(nodes[depth - 1], 8) if depth else []
            sources += rng.sample(nodes[depth - 3], 3) if depth > 2 else []
            for source in sources:
                graph.add_edge(source, target, score=rng.random(), signed=rng.random() - 0.5)
    for source in nodes[-1]:
        graph.add_edge(source, ("fc", 1), score=rng.random(), signed=1.0)
    return expcam.Circuit(graph)


def main() -> None:
    rng = random.Random(0)
    circuit = large_circuit(rng)
    channels = [f"{layer}:{channel}" for layer, channel in circuit.graph if layer != "fc"]
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = Path(folder) / "page.html"
        path.write_text(circuit_html(circuit), encoding="utf-8")
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(f"{path.as_uri()}#threshold=0&most=16")
        drawn = page.evaluate(PAINTED)
        print(page.inner_text("#told"))
        clicks = [page.evaluate(CLICK, key) for key in rng.sample(channels, CLICKS)]
        browser.close()
    print(f"painted after {drawn:.0f} ms")
    print(f"click {statistics.median(clicks):.0f} ms, the slowest of {CLICKS} {max(clicks):.0f} ms")


if __name__ == "__main__":
    main()
