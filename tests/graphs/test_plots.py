from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

import expcam
from expcam.graphs.plots import save_figure
from tests.graphs.made import (
    large_circuit,
    made_check,
    made_circuit,
    made_explanation,
    made_table,
)


def test_stills_are_written_without_a_browser(
    cat: expcam.Explanation, cat_circuit: expcam.Circuit, cat_table: pd.DataFrame, tmp_path: Path
) -> None:
    save_figure(expcam.plot_circuit(cat_circuit), tmp_path / "c.png")
    save_figure(expcam.plot_explanation(cat, cat_table), tmp_path / "e.png")
    for name in ("c.png", "e.png"):
        picture = np.asarray(Image.open(tmp_path / name).convert("L"))
        assert picture.std() > 10


def test_texts_stay_texts_and_the_same_figure_gives_the_same_file(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_figure(expcam.plot_circuit(made_circuit(label="red <&$x$>")), tmp_path / f"{name}.svg")
        save_figure(expcam.plot_circuit(made_circuit()), tmp_path / f"{name}.pdf")
    drawing = (tmp_path / "a.svg").read_text()
    assert "red &lt;&amp;$x$&gt;</text>" in drawing
    for suffix in ("svg", "pdf"):
        first, second = ((tmp_path / f"{name}.{suffix}").read_bytes() for name in "ab")
        assert first == second
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("name", ["mask", "comparison", "circuit", "faithfulness"])
def test_every_plot_can_be_drawn_into_a_figure_of_ones_own(name: str, tmp_path: Path) -> None:
    drawn = {"mask": made_explanation, "comparison": made_table, "circuit": made_circuit,
             "faithfulness": made_check}[name]()  # fmt: skip
    plot = getattr(expcam, f"plot_{name}")
    own = Figure()
    left, right = own.subplots(1, 2)
    assert plot(drawn, ax=left) is own
    assert left.has_data()
    assert not right.has_data()
    alone = plot(drawn)
    assert len(alone.axes) == 1
    save_figure(alone, tmp_path / "alone.pdf")


def test_a_mask_is_drawn_as_it_is() -> None:
    (axes,) = expcam.plot_mask(made_explanation()).axes
    assert axes.get_title() == "red: 50% of the pixels"
    assert np.asarray(axes.images[0].get_array()).shape == (64, 64, 3)


def test_bars_are_as_long_as_what_each_method_needs() -> None:
    (axes,) = expcam.plot_comparison(made_table()).axes
    assert sorted(bar.get_width() for bar in axes.patches) == [0.25, 0.25, 0.3, 0.5]
    texts = [text.get_text() for text in axes.texts]
    assert "no gradient" in texts
    assert texts.count("–") == 2  # the disc never keeps the label


def test_curves_are_those_of_the_check() -> None:
    (axes,) = expcam.plot_faithfulness(made_check(0.9, random=0.1)).axes
    handles, names = axes.get_legend_handles_labels()
    assert names == ["the circuit itself", "relevance (this circuit's)", "random"]
    assert handles[0].get_ydata().tolist() == [0.9]
    assert handles[1][0].get_ydata().tolist() == [0.9, 0.9]
    assert axes.get_xscale() == "log"


def test_edges_excite_or_inhibit_and_long_ones_go_around() -> None:
    (axes,) = expcam.plot_circuit(made_circuit()).axes
    excites, inhibits = axes.collections[:2]
    assert len(inhibits.get_paths()) == 1  # late 8 to the class
    assert len(excites.get_paths()) + len(inhibits.get_paths()) == 6
    highest = max(path.vertices[:, 1].max() for path in excites.get_paths())
    assert highest > 1


def test_a_row_of_pictures_has_one_per_method(
    cat: expcam.Explanation, cat_table: pd.DataFrame
) -> None:
    assert len(expcam.plot_explanation(cat).axes) == 3
    figure = expcam.plot_explanation(cat, cat_table)
    assert len(figure.axes) == 3 + len(cat_table) - 1


def test_a_method_that_did_not_run_has_its_reason_in_place_of_a_picture(
    cat: expcam.Explanation, failed_table: pd.DataFrame
) -> None:
    figure = expcam.plot_explanation(cat, failed_table)
    shown, absent = figure.axes[-2], figure.axes[-1]
    assert len(shown.images) == 1
    assert len(absent.images) == 0
    assert " ".join(absent.texts[0].get_text().split()) == "no feature map"


def test_of_a_large_circuit_the_title_says_how_much_is_drawn() -> None:
    (axes,) = expcam.plot_circuit(large_circuit()).axes
    assert axes.get_title() == "shows 21 of 47 channels of the circuit"
    (axes,) = expcam.plot_circuit(made_circuit()).axes
    assert axes.get_title() == ""
    title = expcam.circuit_figure(large_circuit()).layout.title.text
    assert title == "shows 21 of 47 channels of the circuit"
