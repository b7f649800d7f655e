"""A circuit with fewer layers: the paths through those that are left out summed up."""

import networkx as nx

from expcam.circuits.circuit import Circuit
from expcam.circuits.trace.kinds import Kind
from expcam.circuits.trace.wiring import Wiring


def where_maps_meet(wiring: Wiring) -> set[str]:
    """The layers whose maps are summed, concatenated or pooled before the next layer's turn.

    With the first and the last layer these are what people call the blocks of a network.
    """
    names = list(wiring.sites)
    found = {names[0], wiring.output_layer}
    meeting = (Kind.SUM, Kind.JOIN, Kind.AVERAGE, Kind.MAX_POOL, Kind.MAX)
    by_activation = {site.activation: name for name, site in wiring.sites.items()}
    # From each place where maps meet back to the layers that they come from.
    for step in wiring.steps.values():
        if step.kind not in meeting:
            continue
        todo = list(step.sources)
        while todo:
            source = todo.pop()
            if source in by_activation:
                found.add(by_activation[source])
            else:
                todo += wiring.steps[source].sources
    return found


def contract(circuit: Circuit, layers: set[str]) -> Circuit:
    """Leave layers out of a circuit, and join the edges that went through them.

    The scores of a channel that is left out go to its sources, to each in proportion to its
    share of the scores that the channel receives; so the sum of the scores stays. Signed values
    are shared out in the same way, and the signs of both edges are multiplied.

    Args:
        circuit: It is left as it is.
        layers: Names of those that stay; the class and the image's colours stay anyway.
    """
    graph = circuit.graph.copy()
    order = nx.topological_sort(circuit.graph)
    for key in order:
        data = graph.nodes[key]
        if data["kind"] != "channel" or data["layer"] in layers:
            continue
        received = list(graph.in_edges(key, data=True))
        total = sum(edge["score"] for *_, edge in received)
        signed_total = sum(abs(edge["signed"]) for *_, edge in received)
        for _, target, onward in list(graph.out_edges(key, data=True)):
            for source, _, edge in received:
                before = graph.get_edge_data(source, target, {"score": 0.0, "signed": 0.0})
                share = edge["score"] / total if total else 0.0
                signed_share = edge["signed"] / signed_total if signed_total else 0.0
                graph.add_edge(
                    source,
                    target,
                    score=before["score"] + share * onward["score"],
                    signed=before["signed"] + signed_share * onward["signed"],
                )
        graph.remove_node(key)
    depths = sorted({data["depth"] for _, data in graph.nodes(data=True)})
    for _, data in graph.nodes(data=True):
        data["depth"] = depths.index(data["depth"])
    graph.graph["granularity"] = "blocks"
    return Circuit(graph)
