from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

import expcam
from expcam.graphs.plots import save_figure


def test_stills_are_written_without_a_browser(
    cat: expcam.Explanation, cat_circuit: expcam.Circuit, cat_table: pd.DataFrame, tmp_path: Path
) -> None:
    save_figure(expcam.plot_circuit(cat_circuit), tmp_path / "c.png")
    save_figure(expcam.plot_circuit(cat_circuit), tmp_path / "c.svg")
    save_figure(expcam.plot_explanation(cat, cat_table), tmp_path / "e.png")
    assert (tmp_path / "c.svg").read_text().count("<path") > 100
    for name in ("c.png", "e.png"):
        picture = np.asarray(Image.open(tmp_path / name).convert("L"))
        assert picture.std() > 10


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
