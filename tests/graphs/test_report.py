import dataclasses
from pathlib import Path

import pandas as pd
import pytest

import expcam
from expcam.circuits.verification import CircuitCheck
from expcam.errors import FileFormatError
from expcam.graphs.report import report_html


def test_untrusted_text_is_escaped(
    cat: expcam.Explanation, cat_circuit: expcam.Circuit, cat_table: pd.DataFrame
) -> None:
    evil = "<script>alert(1)</script>"
    explanation = dataclasses.replace(cat, label_name=evil, source=f"{evil}.jpg", classifier=evil)
    graph = cat_circuit.graph.copy()
    graph.graph["label_name"] = evil
    page = report_html(explanation, expcam.Circuit(graph), cat_table)
    assert evil not in page
    assert "&lt;script&gt;alert(1)" in page


def test_the_page_names_what_it_needs_of_a_table(
    cat: expcam.Explanation, cat_circuit: expcam.Circuit, cat_table: pd.DataFrame, tmp_path: Path
) -> None:
    with pytest.raises(FileFormatError, match="no column `seconds`"):
        expcam.write_report(
            tmp_path / "g.html", cat, cat_circuit, cat_table.drop(columns="seconds")
        )
    assert list(tmp_path.iterdir()) == []


def test_instances_are_shown(
    cat: expcam.Explanation, cat_circuit: expcam.Circuit, cat_table: pd.DataFrame
) -> None:
    page = report_html(cat, cat_circuit, cat_table, instances=[cat])
    assert "Further instances" in page
    assert "Instance 2" in page
    assert "Further instances" not in report_html(cat, cat_circuit, cat_table)


def test_a_circuit_that_was_not_tested_or_not_followed_is_called_so(
    cat: expcam.Explanation,
    cat_circuit: expcam.Circuit,
    cat_table: pd.DataFrame,
    cat_check: CircuitCheck,
) -> None:
    untested = report_html(cat, cat_circuit, cat_table)
    assert "no channel was ablated to test it" in untested
    assert "edges come from gradients" not in untested
    graph = cat_circuit.graph.copy()
    graph.graph["wiring"] = "modules: a <b>reason</b>"
    page = report_html(
        cat, expcam.Circuit(graph), cat_table, check=cat_check, necessary=[("conv1", 3)]
    )
    assert "no channel was ablated" not in page
    assert "<code>conv1:3</code>" in page
    assert "a &lt;b&gt;reason&lt;/b&gt;); edges come from gradients" in page
