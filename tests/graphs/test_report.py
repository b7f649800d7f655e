import dataclasses
import json
import re
from pathlib import Path

import pytest

import expcam
from expcam.errors import FileFormatError, OptionError
from expcam.explain.match import UNKNOWN
from expcam.graphs import report, wording
from expcam.graphs.page import headline, provenance, trust
from expcam.graphs.report import circuit_html, report_html
from expcam.graphs.wording import channels_in
from tests.graphs.made import (
    HOSTILE,
    large_circuit,
    made_check,
    made_circuit,
    made_curve,
    made_explanation,
    made_facts,
    made_match,
    made_table,
)


def block(page: str) -> dict[str, object]:
    """The page's data."""
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page)
    found: dict[str, object] = json.loads(text)
    return found


def test_untrusted_text_is_escaped_everywhere() -> None:
    page = report_html(
        made_explanation(HOSTILE, HOSTILE),
        made_circuit(label=HOSTILE, wiring=f"modules: {HOSTILE}"),
        made_table().assign(title=HOSTILE, reason=HOSTILE),
        circuits={HOSTILE: made_circuit(label=HOSTILE)},
        made=provenance.Provenance(weights="", device="", command=HOSTILE),
    )
    assert HOSTILE not in page
    assert page.count("&lt;img src=x") > 8
    assert block(page)["circuits"][1]["title"] == HOSTILE  # type: ignore[index]


def test_a_text_that_ends_a_script_ends_none() -> None:
    page = report_html(made_explanation(), made_circuit(label="</script>"), made_table())
    assert page.count("</script>") == 2
    assert block(page)["circuits"][0]["graph"]["label_name"] == "</script>"  # type: ignore[index]


def test_only_the_pages_own_scripts_may_run_and_nothing_is_loaded() -> None:
    page = report_html(made_explanation(), made_circuit(), made_table(), check=made_check())
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    assert "default-src &#39;none&#39;" in policy
    assert policy.count("sha256-") == 2
    assert "unsafe-inline" not in policy.split("script-src")[1].split(";")[0]
    own = page[: page.index("plotly.js")]
    assert "http:" not in own.replace("http://www.w3.org/2000/svg", "")
    assert "https:" not in own


def test_a_page_names_what_it_needs_of_a_table(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="no column `seconds`"):
        expcam.write_report(
            tmp_path / "g.html",
            made_explanation(),
            made_circuit(),
            made_table().drop(columns="seconds"),
        )
    assert list(tmp_path.iterdir()) == []


def test_circuits_of_different_classifiers_are_not_compared() -> None:
    other = made_circuit(classifier="other")
    with pytest.raises(OptionError, match="of different classifiers: made, other"):
        report_html(made_explanation(), made_circuit(), made_table(), circuits={"b": other})


def test_a_circuit_that_was_not_followed_is_called_so() -> None:
    page = report_html(made_explanation(), made_circuit(wiring="modules: why"), made_table())
    assert "(modules: why); edges come from gradients" in page
    assert "edges come from gradients" not in report_html(
        made_explanation(), made_circuit(), made_table()
    )


def test_necessary_channels_are_named() -> None:
    facts = made_facts()
    page = report_html(made_explanation(), made_circuit(), made_table(), channels=facts)
    assert "<code>late:7</code>" in page
    facts.effects["kept"] = True
    page = report_html(made_explanation(), made_circuit(), made_table(), channels=facts)
    assert "None of the 7 channels that were set to zero one by one" in page


def test_where_no_circuit_was_found_the_readout_is_called_a_hypothesis() -> None:
    why = "no small set of channels carries the decision “red”"
    page = report_html(
        made_explanation(), made_circuit(), made_table(), no_circuit=why, check=made_check()
    )
    assert f"<b>No circuit was found:</b> {why}. What is drawn is the published readout" in page
    assert page.index("Is there a circuit?") < page.index("Does the circuit hold")
    assert "<dt>the readout</dt>" in page
    assert "No circuit was found" not in report_html(
        made_explanation(), made_circuit(), made_table()
    )


def test_a_discovered_circuit_says_how_it_was_found() -> None:
    page = report_html(
        made_explanation(), large_circuit(), made_table(), circuits={"readout": made_circuit()}
    )
    assert "27% of all, in 3 layers, 50 edges" in page
    assert "at least 1.4 times as many channels" in page
    assert [each["title"] for each in block(page)["circuits"]] == [  # type: ignore[attr-defined]
        "discovered (gates)",
        "readout",
    ]


def test_how_a_circuit_was_found_is_its_title() -> None:
    found, readout = made_circuit(method="ablation"), made_circuit()
    page = report_html(
        made_explanation(), found, made_table(), circuits={"published readout": readout}
    )
    titles = [each["title"] for each in block(page)["circuits"]]  # type: ignore[attr-defined]
    assert titles == ["discovered (ablation)", "published readout"]


def test_the_number_of_backgrounds_is_the_one_that_was_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (report, wording, headline, trust):
        monkeypatch.setattr(module, "EVALUATION", ("zero", "blur", "normal"))
    page = report.report_html(made_explanation(), made_circuit(), made_table())
    assert "on all 3 unseen backgrounds" in page
    assert "pixels, on all 3 backgrounds" in page
    assert "the share of 3 fillings" in page
    assert "8 of 8" not in page


def test_each_object_and_alternative_is_told_with_its_figures() -> None:
    other = dataclasses.replace(made_explanation(), area=0.25, match=made_match(0.5))
    first, second = made_circuit(), made_circuit(without=(("late", 8),))
    page = report_html(
        made_explanation(), made_circuit(), made_table(),
        instances=[other], readouts=[first, second], alternatives=[other],
    )  # fmt: skip
    assert re.findall(r'<button role="tab"[^>]*>([^<]*)<', page) == [
        "object 1", "object 2", "alternative 1",
    ]  # fmt: skip
    assert "none of them is in the mask of “object 1”" in page
    assert page.count("<dt>keeps of the computation</dt>") == 3
    assert "6 of them are also in object 1’s readout" in page
    assert "The readouts of the 2 objects (7, 6 channels) have 6 channels in common." in page
    titles = [each["title"] for each in block(page)["circuits"]]  # type: ignore[attr-defined]
    assert titles == ["published readout", "readout of object 2"]
    assert 'data-circuit="1"' in page


def test_one_explanation_has_no_tabs_and_no_further_readout() -> None:
    page = report_html(made_explanation(), made_circuit(), made_table(), alternatives=())
    assert '<button role="tab"' not in page
    assert "in common" not in page


def test_each_object_has_one_readout() -> None:
    with pytest.raises(OptionError, match="2 objects, and readouts of 1: give one of each"):
        report_html(
            made_explanation(), made_circuit(), made_table(),
            instances=[made_explanation()], readouts=[made_circuit()],
        )  # fmt: skip


def test_what_a_match_costs_is_drawn_where_it_is_known() -> None:
    page = report_html(made_explanation(), made_circuit(), made_table(), curve=made_curve())
    assert 'id="match-curve"' in page
    assert list(block(page)["figures"]) == ["match-curve"]  # type: ignore[call-overload]
    assert "--match-curve" not in page
    without = report_html(made_explanation(), made_circuit(), made_table())
    assert 'id="match-curve"' not in without
    assert "graph.html --match-curve" in re.sub("</?span>", "", without)


def test_what_is_kept_at_each_stage_is_a_table() -> None:
    page = report_html(made_explanation(), made_circuit(), made_table())
    (table,) = re.findall(r'<table id="taps">(.*?)</table>', page, re.DOTALL)
    rows = [re.findall(r">([^<>]+)</t[dh]>", row) for row in table.split("<tr")]
    assert rows[1] == ["kept by", "mid", "late", "divergence"]
    assert rows[2] == ["this mask", "90% (72%)", "75% (60%)", "0.40"]
    unknown = dataclasses.replace(made_explanation(), match=UNKNOWN)
    assert 'id="taps"' not in report_html(unknown, made_circuit(), made_table())


def test_a_page_is_small(cat: expcam.Explanation, cat_circuit: expcam.Circuit) -> None:
    page = report_html(cat, cat_circuit, made_table(), check=made_check())
    assert len(page) < 3e6


def test_a_circuit_alone_has_a_page(cat_circuit: expcam.Circuit) -> None:
    page = circuit_html(cat_circuit)
    assert 'id="drawing"' in page
    assert f"{channels_in(cat_circuit)} channels" in page
    assert len(page) < 400_000
