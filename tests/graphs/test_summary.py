import dataclasses
import json
from pathlib import Path

import pandas as pd
import pytest

import expcam
from expcam.circuits.ablation.choices import CIRCUIT, RANDOM
from expcam.circuits.ablation.verification import CircuitCheck
from expcam.graphs.finding import Finding
from expcam.graphs.summary import as_dict, lines
from tests.graphs.made import large_circuit, made_circuit, made_facts

OUT = Path("g.html")


def finding_of(
    explanation: expcam.Explanation, circuit: expcam.Circuit, table: pd.DataFrame, **more: object
) -> Finding:
    return Finding(explanation=explanation, circuit=circuit, table=table, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"robustness": 1.0}, "yes; on 8 of 8 unseen backgrounds; lost without"),
        ({"robustness": 7 / 8}, "mostly: on 7 of 8 unseen backgrounds"),
        (
            {"robustness": 3 / 8},
            "NO: on the mean colour, but only on 3 of 8 unseen backgrounds",
        ),
        ({"robustness": 1 / 8, "objective": "sufficient"}, "yes; on 1 of 8"),
        ({"kept": False, "robustness": 0.0}, "NO; on 0 of 8"),
        ({"kept": False, "robustness": 0.0, "objective": "necessary"}, "no; on 0 of 8"),
        ({"predicted": False}, "the whole image has another label"),
    ],
)
def test_whether_the_label_is_kept_is_said_plainly(
    cat: expcam.Explanation,
    cat_circuit: expcam.Circuit,
    failed_table: pd.DataFrame,
    changes: dict[str, object],
    text: str,
) -> None:
    fixed: dict[str, object] = {"kept": True, "robustness": 1.0, "necessary": True}
    explanation = dataclasses.replace(cat, **{**fixed, **changes})  # type: ignore[arg-type]
    found = lines(finding_of(explanation, cat_circuit, failed_table), OUT, 2.0)
    assert text in found["label kept"]


def test_the_lines_tell_what_was_found(
    cat: expcam.Explanation,
    cat_circuit: expcam.Circuit,
    cat_check: CircuitCheck,
    failed_table: pd.DataFrame,
) -> None:
    finding = finding_of(cat, cat_circuit, failed_table, check=cat_check, instances=[cat, cat])
    found = lines(finding, OUT, 2.0)
    assert found["class"].startswith("cat, confidence")
    assert found["circuit"].endswith("layers, published readout: a hypothesis")
    assert "readout" not in found
    assert found["tested"].startswith("all others at zero: ")
    assert "not tried: " in found["claims"]
    assert found["instances"].startswith("2 more")
    assert found["written"] == "g.html in 2 s"
    needs = "Integrated Gradients 10% (all backgrounds –), Grad-CAM: no feature map"
    assert found["others need"] == needs


def test_a_circuit_says_how_it_was_found(
    cat: expcam.Explanation, failed_table: pd.DataFrame
) -> None:
    finding = finding_of(cat, large_circuit(), failed_table, readout=made_circuit())
    found = lines(finding, OUT, 2.0)
    assert found["circuit"] == (
        "47 channels and 50 edges in 3 layers, 27% of all channels, discovered (gates) against rest"
    )
    assert found["wrong class"].startswith("at least 1.4 times as many channels")
    assert found["readout"].startswith("7 channels and 10 edges in 3 layers, published readout")
    numbers = as_dict(finding, OUT, 2.0)
    assert numbers["no_circuit"] is None
    assert numbers["circuit"] == {
        **{"method": "gates", "channels": 47, "edges": 50, "reference": "rest", "size": 0.27},
        **{"selectivity": 1.4, "wrong": "cat", "edges_per_channel": None, "edges_hold": None},
    }
    assert numbers["readout"]["channels"] == 7  # type: ignore[index]


def test_where_there_is_no_circuit_the_lines_and_json_say_so(
    cat: expcam.Explanation, failed_table: pd.DataFrame
) -> None:
    finding = finding_of(cat, made_circuit(), failed_table, no_circuit="no small set")
    found = lines(finding, OUT, 2.0)
    assert found["circuit"] == "NONE: no small set"
    assert found["readout"].endswith("published readout: a hypothesis")
    numbers = as_dict(finding, OUT, 2.0)
    assert numbers["no_circuit"] == "no small set"
    assert numbers["circuit"]["method"] == "readout"  # type: ignore[index]


def test_one_json_object_without_nan(
    cat: expcam.Explanation,
    cat_circuit: expcam.Circuit,
    cat_check: CircuitCheck,
    failed_table: pd.DataFrame,
) -> None:
    finding = finding_of(cat, cat_circuit, failed_table, check=cat_check, channels=made_facts())
    found = json.loads(json.dumps(as_dict(finding, OUT, 2.0), allow_nan=False))
    assert found["label_name"] == "cat"
    assert found["holding"] in ("yes", "mostly", "no")
    assert found["nodes"] == cat_circuit.graph.number_of_nodes()
    assert found["necessary_channels"] == [["late", 7]]
    ours, ran, failed = found["methods"]
    assert (ours["method"], ran["area_robust"]) == ("expcam", None)
    assert (failed["area_kept"], failed["reason"]) == (None, "no feature map")
    check = found["circuit_check"]
    assert set(check) == {"distance", "controls_as_good", "claims", "untested", CIRCUIT, RANDOM}
    assert check[CIRCUIT]["size"] == pytest.approx(
        cat_check.of("nodes", "zero")[1].query("method == @CIRCUIT")["size"].mean()
    )
    assert as_dict(finding_of(cat, cat_circuit, failed_table), OUT, 2.0)["circuit_check"] is None
