import torch

import expcam
from expcam.circuits.subjects import Nodes, randomised
from tests.circuits.test_edge_ablation import X


def test_shuffled_weights_are_the_same_numbers_in_other_places(bundled: expcam.Classifier) -> None:
    shuffled = randomised(bundled.module, torch.Generator().manual_seed(0))
    for (name, before), after in zip(
        bundled.module.named_parameters(), shuffled.parameters(), strict=True
    ):
        if before.ndim > 1:
            assert not torch.equal(before, after), name
        assert torch.equal(before.flatten().sort().values, after.flatten().sort().values)


def test_choices_of_channels_run_together_as_they_would_alone(micro: expcam.Classifier) -> None:
    subject = Nodes(micro, micro.module, X[0], 1)
    assert subject.counts == {"conv1": 2, "conv2": 2}
    keeps = [
        {"conv1": torch.tensor(first), "conv2": torch.tensor(second)}
        for first in ([True, False], [True, True])
        for second in ([False, True], [True, True])
    ]
    together = subject.logits(keeps)
    alone = torch.cat([subject.logits([keep]) for keep in keeps])
    assert torch.equal(together, alone)
    assert torch.allclose(together[-1], subject.whole)
