import html
import re

import pytest

import expcam
from tests.graphs.made import HOSTILE, made_circuit, made_explanation, made_facts, made_table


def test_an_explanation_shows_its_pictures_and_its_verdict() -> None:
    shown = made_explanation(HOSTILE)._repr_html_()
    assert shown.count("<img src") == 3
    assert "data:image/jpeg" in shown
    assert "These 50% of the pixels are enough" in shown
    assert "<p>It keeps 75% of the last stage&#39;s response (cosine similarity)" in shown
    assert "; this mask elsewhere 45%" in shown
    assert HOSTILE not in shown
    assert len(shown) < 100_000


def test_a_circuit_shows_the_pages_drawing_in_a_frame_of_its_own() -> None:
    shown = made_circuit(label=HOSTILE)._repr_html_()
    (attribute,) = re.findall(r'srcdoc="([^"]*)"', shown)
    page = html.unescape(attribute)
    assert 'id="drawing"' in page
    assert "default-src" in page
    assert HOSTILE not in page
    assert 'sandbox="allow-scripts allow-downloads"' in shown
    assert len(shown) < 200_000


def test_the_whole_page_can_be_shown_in_a_frame() -> None:
    shown = expcam.show_report(
        made_explanation(HOSTILE), made_circuit(), made_table(), channels=made_facts()
    )._repr_html_()
    (attribute,) = re.findall(r'srcdoc="([^"]*)"', shown)
    page = html.unescape(attribute)
    assert 'id="trust-section"' in page
    assert '"maps"' in page
    assert "default-src" in page
    assert HOSTILE not in page + shown
    with pytest.raises(TypeError, match="chanels"):
        expcam.show_report(made_explanation(), made_circuit(), made_table(), chanels=None)
