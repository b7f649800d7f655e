import dataclasses

from expcam.explain.match import MOVED
from expcam.graphs.page.taps import match_rows
from tests.graphs.made import made_explanation, made_match


def test_each_mask_has_a_row_with_all_stages() -> None:
    ours, elsewhere, gradcam = match_rows(made_explanation())
    assert (ours.title, ours.pooled, ours.spatial) == ("this mask", ["90%", "75%"], ["72%", "60%"])
    assert ours.divergence == "0.40"
    assert (elsewhere.title, elsewhere.pooled[-1]) == ("this mask elsewhere", "45%")
    assert (gradcam.title, gradcam.pooled[-1]) == ("Grad-CAM's pixels of this area", "60%")


def test_without_a_feature_map_there_is_one_control() -> None:
    e = dataclasses.replace(made_explanation(), match_controls={MOVED: made_match(0.1)})
    assert [row.pooled[-1] for row in match_rows(e)] == ["75%", "10%"]
