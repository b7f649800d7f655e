"""Which architectures a circuit is read of exactly, and what the reading costs.

    python benchmarks/wiring.py                      # one of each family of timm
    python benchmarks/wiring.py davit_tiny resnet18  # these

Weights are random, images are noise of the size that the model was made for. Each model is read in
a process of its own, on one thread, so that one that does not end or fails costs no other its row.
Seconds are those of the processor.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import timm
import torch
from torch import Tensor, nn

from expcam.circuits.edges.gradients import read_modules
from expcam.circuits.edges.layers import follow
from expcam.circuits.readout import select
from expcam.circuits.scores import COVERAGE, TOP_K
from expcam.circuits.trace.recording import INPUT, Channels, measure
from expcam.classifier.frozen import frozen
from expcam.errors import WiringError

LIMIT = 300
"""Seconds, by the clock, after which a model is given up."""
MODELS = [
    *("bat_resnext26ts", "beit_base_patch16_224", "botnet26t_256", "caformer_s18"),
    *("cait_xxs24_224", "coat_tiny", "coatnet_nano_rw_224", "convformer_s18", "convit_tiny"),
    *("convmixer_768_32", "convnext_atto", "convnextv2_atto", "crossvit_tiny_240"),
    *("cs3darknet_focus_s", "cspresnet50", "davit_tiny", "deit_tiny_distilled_patch16_224"),
    *("deit_tiny_patch16_224", "densenet121", "dla46x_c", "dpn48b", "eca_resnet33ts"),
    *("edgenext_xx_small", "efficientformer_l1", "efficientformerv2_s0", "efficientnet_b0"),
    *("efficientvit_b0", "efficientvit_m0", "ese_vovnet19b_slim_dw", "eva02_tiny_patch14_224"),
    *("fasternet_t0", "fastvit_t8", "focalnet_tiny_srf", "gcvit_xxtiny", "gernet_s"),
    *("ghostnet_050", "gmlp_ti16_224", "halonet26t", "hardcorenas_a", "hgnetv2_b0"),
    *("hiera_tiny_224", "hrnet_w18_small", "inception_next_atto", "inception_resnet_v2"),
    *("inception_v3", "inception_v4", "lambda_resnet26t", "lcnet_050", "legacy_seresnet18"),
    *("legacy_xception", "levit_128s", "mambaout_femto", "maxvit_rmlp_pico_rw_256"),
    *("mixer_s32_224", "mobilenetv3_small_050", "mobilenetv4_conv_small", "mobileone_s0"),
    *("mobilevit_xxs", "mobilevitv2_050", "mvitv2_tiny", "nest_tiny", "nextvit_small"),
    *("nf_regnet_b0", "pit_ti_224", "poolformerv2_s12", "poolformer_s12", "pvt_v2_b0"),
    *("rdnet_tiny", "regnetx_002", "regnety_002", "repghostnet_050", "repvgg_a0", "repvit_m1"),
    *("res2net50_14w_8s", "res2next50", "resmlp_12_224", "resnest14d", "resnet10t", "resnet18"),
    *("resnetv2_50", "rexnet_100", "selecsls42", "sequencer2d_s", "shvit_s1", "skresnet18"),
    *("starnet_s050", "swiftformer_xs", "swin_tiny_patch4_window7_224", "swinv2_cr_tiny_224"),
    *("swinv2_tiny_window8_256", "tf_efficientnet_lite0", "tiny_vit_5m_224"),
    *("tnt_s_legacy_patch16_224", "tresnet_m", "twins_svt_small", "vgg11", "visformer_tiny"),
    *("vit_base_patch16_siglip_224", "vit_relpos_small_patch16_224", "vit_tiny_patch16_224"),
    *("vit_tiny_r_s16_p8_224", "vitamin_small_224", "volo_d1_224", "xception41p"),
    "xcit_nano_12_p16_224",
]
"""One of the smallest of each family of timm, and of each kind within the large families."""


def read(name: str) -> dict[str, object]:
    """How a model is read: its wiring, seconds, layers, edges, gibibytes."""
    torch.manual_seed(0)
    module = timm.create_model(name, pretrained=False).eval()
    for parameter in module.parameters():
        if not parameter.any():  # some begin with a last layer of zeros
            nn.init.normal_(parameter, 0, 0.1)
    x = torch.randn(1, *module.default_cfg["input_size"])

    def selection(layer: str, channels: Channels) -> Tensor:
        if layer == INPUT:
            return torch.arange(0)
        return select(channels.relevance, COVERAGE, TOP_K)

    begin = time.process_time()
    with frozen(module):
        try:
            measured = measure(module, x, 0, selection)
            layers = list(measured.recording.layers)
            with torch.no_grad():
                found = list(follow(measured.recording, measured.active))
            wiring = "exact"
        except WiringError as error:
            reading = read_modules(module, x, 0, selection)
            layers, found, wiring = list(reading.channels), reading.edges, f"modules: {error}"
    return {
        "wiring": wiring,
        "seconds": time.process_time() - begin,
        "layers": len(layers),
        "edges": sum(int((each.weight > 0).sum()) for each in found),
        "GiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def apart(name: str) -> dict[str, object]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--one", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    except subprocess.TimeoutExpired:
        return {"wiring": f"not within {LIMIT} s"}
    if done.returncode:
        return {"wiring": "fails: " + (done.stderr.strip().splitlines() or ["killed"])[-1]}
    row: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return row


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        torch.set_num_threads(1)
        print(json.dumps(read(options.models[0])))
        return
    exact = 0
    print("| model | seconds | GiB | layers | edges | wiring |\n|---|---|---|---|---|---|")
    for name in options.models:
        row = apart(name)
        exact += row["wiring"] == "exact"
        numbers = [f"{row.get('seconds', float('nan')):.1f}", f"{row.get('GiB', float('nan')):.1f}"]
        cells = [name, *numbers, row.get("layers", ""), row.get("edges", ""), row["wiring"]]
        print("|", " | ".join(map(str, cells)), "|", flush=True)
    print(f"\n{exact} of {len(options.models)} exact")


if __name__ == "__main__":
    main()
