import dataclasses
import re
from pathlib import Path

import pandas as pd
import pytest

import expcam
from expcam.circuits.ablation.verification import CircuitCheck
from expcam.errors import FileFormatError
from expcam.graphs import report, wording
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


def test_a_method_that_did_not_run_has_its_reason_in_the_table_and_no_picture(
    cat: expcam.Explanation, cat_circuit: expcam.Circuit, failed_table: pd.DataFrame
) -> None:
    table = failed_table.assign(reason=["", "", "needs a <feature> map"])
    page = report_html(cat, cat_circuit, table)
    assert '<td>Grad-CAM</td><td colspan="3" class="soft">needs a &lt;feature&gt; map</td>' in page
    assert 'alt="Integrated Gradients"' in page
    assert 'alt="Grad-CAM"' not in page
    assert "nan" not in page.split("</table>")[0].split("<table")[1]


def test_the_number_of_backgrounds_is_the_one_that_was_used(
    cat: expcam.Explanation,
    cat_circuit: expcam.Circuit,
    cat_table: pd.DataFrame,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (report, wording):
        monkeypatch.setattr(module, "EVALUATION", ("zero", "blur", "normal"))
    robust = dataclasses.replace(cat, kept=True, robustness=1.0)
    page = report.report_html(robust, cat_circuit, cat_table)
    assert "on all 3 unseen backgrounds" in page
    assert "pixels, on all 3 backgrounds" in page
    assert "the share of 3 fillings" in page
    assert not re.search(r"\beight\b", page[: page.index("<script>")])
