import expcam


def test_tables_of_a_real_circuit(cat_circuit: expcam.Circuit) -> None:
    assert len(cat_circuit.nodes) == cat_circuit.graph.number_of_nodes()
    assert len(cat_circuit.edges) == cat_circuit.graph.number_of_edges()
    assert list(cat_circuit.edges.columns[-2:]) == ["score", "signed"]
    # |signed| is a sum over the kernel with signs, score one without: the second bounds the
    # first where nothing lies between source and target but the kernel and the border.
    assert (cat_circuit.edges["score"] >= 0).all()


def test_layers_in_order_of_execution(cat_circuit: expcam.Circuit) -> None:
    assert cat_circuit.layers[0] == "conv1"
    assert cat_circuit.layers[-1] == cat_circuit.class_node[0] == "fc"
