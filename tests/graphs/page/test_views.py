import dataclasses

from expcam.graphs.page.headline import Fact
from expcam.graphs.page.views import first_screen, readout_title
from tests.graphs.made import made_circuit, made_explanation

CIRCUIT = Fact(name="the circuit", value="7 channels", meaning="")


def test_one_explanation_is_called_so_and_its_alternatives_too() -> None:
    one, other = made_explanation(), dataclasses.replace(made_explanation(), area=0.25)
    views = first_screen([one], [other], CIRCUIT, [], ["published readout"])
    assert [view.name for view in views] == ["explanation", "alternative 1"]
    assert [view.circuit for view in views] == [0, None]
    assert views[0].facts[-1] is CIRCUIT
    assert views[1].about.endswith("in the mask of “explanation”.")
    assert [fact.value for fact in views[1].facts] == ["25%", "8 of 8", "lost", "75%"]
    assert [name for name, _ in views[0].pictures] == [
        "photograph", "mask", "explanation", "the rest",
    ]  # fmt: skip


def test_each_object_knows_its_circuit() -> None:
    objects = [made_explanation()] * 3
    readouts = [made_circuit()] * 3
    titles = ["discovered", "published readout", readout_title(2), readout_title(3)]
    views = first_screen(objects, [], CIRCUIT, readouts, titles)
    assert [view.name for view in views] == ["object 1", "object 2", "object 3"]
    assert [view.circuit for view in views] == [0, 2, 3]
    assert views[2].facts[-1].value == "7 channels"
    # Without readouts there is nothing to go to.
    assert first_screen(objects, [], CIRCUIT, [], titles)[1].circuit is None
