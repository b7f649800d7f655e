import warnings

import pytest
import torch
from torch import nn

import expcam
from expcam.classifier.frozen import frozen
from expcam.errors import ClassifierError, TargetError
from expcam.explain.decision import Decision, decide
from expcam.explain.request import Request
from tests.helpers import red_square


def decided(classifier: expcam.Classifier, **asked: object) -> Decision:
    request = Request(**asked)  # type: ignore[arg-type]
    with frozen(classifier.module):
        return decide(classifier, classifier.prepare(red_square()), request)


def test_the_predicted_class_by_hand(detector: expcam.Classifier) -> None:
    decision = decided(detector)
    # 64 of 1024 pixels have red 2, times 64.
    assert decision.whole.logits.tolist() == pytest.approx([2.0, 8.0, 0.0])
    assert (decision.target, decision.label, decision.contrast) == (1, 1, None)
    assert decision.predicted
    assert decision.confidence == pytest.approx(float(decision.whole.logits.softmax(0)[1]))


def test_another_class_is_not_predicted(detector: expcam.Classifier) -> None:
    decision = decided(detector, target="blue")
    assert decision.target == decision.label == 2
    assert not decision.predicted


def test_a_contrast_leaves_two_classes(detector: expcam.Classifier) -> None:
    decision = decided(detector, target="nothing", contrast="blue")
    assert (decision.target, decision.contrast, decision.label) == (0, 2, 1)
    assert decision.whole.logits.tolist() == pytest.approx([0.0, 2.0])
    assert decision.predicted  # of the two
    with pytest.raises(TargetError, match="`red` cannot be compared to itself"):
        decided(detector, contrast="red")


def test_nothing_is_necessary_for_what_is_not_said(detector: expcam.Classifier) -> None:
    with pytest.raises(TargetError, match="does not say `blue`, so nothing is necessary"):
        decided(detector, target="blue", objective="both")


def test_a_classifier_without_gradient_is_refused(detector: expcam.Classifier) -> None:
    class Blind(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                logits: torch.Tensor = self.inner(x)
            return logits

    with pytest.raises(ClassifierError, match="passes no gradient"):
        decided(expcam.Classifier(Blind(detector.module), detector.transform))


def test_several_classes_count_as_one(detector: expcam.Classifier) -> None:
    decision = decided(detector, target=["blue", "red"])
    assert (decision.target, decision.group, decision.label) == (1, (2, 1), 0)
    assert decision.name == "blue or red"
    shares = torch.tensor([2.0, 8.0, 0.0]).softmax(0)
    assert decision.confidence == pytest.approx(float(shares[1] + shares[2]))
    assert decision.predicted
    with pytest.raises(TargetError, match="a group of all classes is always said"):
        decided(detector, target=["blue", "red", "nothing"])
    with pytest.raises(TargetError, match="cannot be explained together: a contrast is of two"):
        decided(detector, target=["blue", "red"], contrast="nothing")


class Fixed(nn.Module):
    """Says the same of every image."""

    def __init__(self, shares: list[float]) -> None:
        super().__init__()
        self.logits = torch.tensor(shares).log() + 9  # none is a finding by itself

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits + 0 * x.mean((1, 2, 3))[:, None]


def test_classes_that_are_nearly_tied_are_named_with_the_group_to_ask_for() -> None:
    def of(*shares: float) -> expcam.Classifier:
        return expcam.Classifier(Fixed([*shares]), labels=["tabby", "tiger cat", "dog", "car"])

    # Another class counts from a third of the first one's probability.
    torn = of(0.3, 0.55, 0.1, 0.05)
    said = r'nearly tied \(`tiger cat` 55%, `tabby` 30%\).*target "tiger cat, tabby"; the mask'
    with pytest.warns(expcam.ExpcamWarning, match=said):
        decision = decided(torn)
    assert decision.tied == pytest.approx({"tiger cat": 0.55, "tabby": 0.3})
    twins = expcam.Classifier(Fixed([0.3, 0.55, 0.1, 0.05]), labels=["cat", "cat", "a, b", "car"])
    with pytest.warns(expcam.ExpcamWarning, match='target "1, 0"'):
        decided(twins)  # by index, where labels do not tell
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decided(torn, target=["tabby", "tiger cat"])
        decided(torn, target="dog")
        decided(of(0.6, 0.15, 0.15, 0.1))  # sure
        decided(of(0.4, 0.2, 0.13, 0.13))  # it does not know
