"""Train the classifier that ships with expcam, from scratch, on Tiny ImageNet.

    python training/train_bundled.py --data ../shared/data/tiny-imagenet \
        --out src/expcam/classifier/assets/bundled.safetensors

The folder holds ``train-*.parquet`` and ``val.parquet`` with the columns ``wnid`` and ``image``
(JPEG bytes, 64×64). Only the classes of ``bundled_labels.csv`` are used. Training at growing
resolution, random resized crops, CutMix, label smoothing, one-cycle learning rate and an
exponential moving average of the weights; part of the batches show an object on a replaced
background, and sharpness varies, so that photographs and masked images are no strangers.
"""

import argparse
import io
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from expcam.classifier.sources.bundled import SIDE, SmallResNet, bundled_classes

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)


def load_split(folder: Path, pattern: str) -> tuple[Tensor, Tensor]:
    """Images ``(n, 3, 64, 64)`` as uint8 and labels ``(n,)`` of the bundled classes."""
    index = {wnid: i for i, (wnids, _) in enumerate(bundled_classes()) for wnid in wnids}
    images, labels = [], []
    for path in sorted(folder.glob(pattern)):
        table = pd.read_parquet(path, columns=["wnid", "image"])
        table = table[table["wnid"].isin(index)]
        for wnid, data in zip(table["wnid"], table["image"], strict=True):
            images.append(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
            labels.append(index[wnid])
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels)


def uniform(n: int, low: float, high: float, rng: torch.Generator) -> Tensor:
    return torch.rand(n, generator=rng) * (high - low) + low


def random_resized_crop(x: Tensor, side: int, rng: torch.Generator) -> Tensor:
    """Crop 35 to 100 % of each image's area, flip half of them, resize to ``side``."""
    n = len(x)
    area = uniform(n, 0.35, 1.0, rng)
    ratio = torch.exp(uniform(n, -0.28, 0.28, rng))
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = width * torch.where(torch.rand(n, generator=rng) < 0.5, 1.0, -1.0)
    theta[:, 1, 1] = height
    theta[:, 0, 2] = (1 - width) * uniform(n, -1, 1, rng)
    theta[:, 1, 2] = (1 - height) * uniform(n, -1, 1, rng)
    grid = F.affine_grid(theta, [n, 3, side, side], align_corners=False)
    return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)


def vary_look(x: Tensor, colour: float, rng: torch.Generator) -> Tensor:
    """Random sharpness, saturation, tint, contrast and brightness of normalised images."""
    n = len(x)
    sharpness = uniform(n, -0.8, 1.6, rng) * (torch.rand(n, generator=rng) < 0.5)
    x = x + sharpness.view(-1, 1, 1, 1) * (x - F.avg_pool2d(x, 3, stride=1, padding=1))
    grey = x.mean(1, keepdim=True)
    saturation = uniform(n, 0.7 - 0.4 * colour, 1.5, rng)
    saturation *= torch.rand(n, generator=rng) > 0.15 * colour
    x = grey + (x - grey) * saturation.view(-1, 1, 1, 1)
    x = x * uniform(3 * n, 1 - 0.15 * colour, 1 + 0.15 * colour, rng).view(-1, 3, 1, 1)
    x = x * uniform(n, 0.75, 1.25, rng).view(-1, 1, 1, 1)
    return x + uniform(n, -0.3, 0.3, rng).view(-1, 1, 1, 1)


def random_box(side: int, area: float, rng: torch.Generator) -> tuple[slice, slice]:
    length = max(1, round(side * area**0.5))
    top, left = (int(torch.randint(0, side - length + 1, (1,), generator=rng)) for _ in range(2))
    return slice(top, top + length), slice(left, left + length)


def mix(x: Tensor, target: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """CutMix, a hole, or a replaced background; each for a part of the batches."""
    coin, area = torch.rand(2, generator=rng).tolist()
    side = x.shape[-1]
    if coin < 0.2:
        rows, columns = random_box(side, 0.5 * area, rng)
        other = torch.randperm(len(x), generator=rng)
        share = (rows.stop - rows.start) * (columns.stop - columns.start) / side**2
        x[:, :, rows, columns] = x[other][:, :, rows, columns]
        target = target * (1 - share) + target[other] * share
    elif coin < 0.25:
        rows, columns = random_box(side, 0.35 * area, rng)
        x[:, :, rows, columns] = 0
    elif coin < 0.33:
        rows, columns = random_box(side, 0.45 + 0.5 * area, rng)
        scale = torch.tensor([0.0, 1.0, 3.0])[torch.randint(0, 3, (len(x),), generator=rng)]
        background = torch.randn(x.shape, generator=rng) * scale.view(-1, 1, 1, 1)
        background[:, :, rows, columns] = x[:, :, rows, columns]
        x = background
    return x, target


@torch.inference_mode()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor, side: int) -> tuple[float, float]:
    """Top-1 and top-5 share on whole images resized to ``side``."""
    model.eval()
    hits1 = hits5 = 0
    for raw, y in zip(images.split(250), labels.split(250), strict=True):
        x = F.interpolate(
            raw.float() / 255, size=side, mode="bicubic", antialias=True, align_corners=False
        )
        top = (
            model(((x - MEAN) / STD).contiguous(memory_format=torch.channels_last)).topk(5).indices
        )
        hits1 += int((top[:, 0] == y).sum())
        hits5 += int((top == y[:, None]).any(1).sum())
    return hits1 / len(labels), hits5 / len(labels)


def save(model: nn.Module, path: Path, metadata: dict[str, str]) -> None:
    state = {
        name: value.half().contiguous() if value.is_floating_point() else value
        for name, value in model.state_dict().items()
    }
    save_file(state, path, metadata=metadata)


def train(args: argparse.Namespace) -> None:
    torch.set_flush_denormal(True)
    torch.manual_seed(args.seed)
    rng = torch.Generator().manual_seed(args.seed)
    classes = len(bundled_classes())
    images, labels = load_split(args.data, "train-*.parquet")
    val_images, val_labels = load_split(args.data, "val.parquet")
    print(f"{len(images)} training, {len(val_images)} validation images", flush=True)

    model = SmallResNet(classes)
    if args.init:
        model.load_state_dict(load_file(args.init))
    model.to(memory_format=torch.channels_last)
    average = AveragedModel(
        model, multi_avg_fn=get_ema_multi_avg_fn(args.average), use_buffers=True
    )
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.SGD(
        [{"params": decay, "weight_decay": 5e-4}, {"params": rest, "weight_decay": 0.0}],
        lr=args.lr,
        momentum=0.9,
        nesterov=True,
    )
    steps = len(images) // args.batch
    sides = [side for side, epochs in args.schedule for _ in range(epochs)]
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        args.lr,
        total_steps=steps * len(sides),
        pct_start=args.warmup,
        cycle_momentum=False,
    )
    eye = torch.eye(classes)
    start = time.monotonic()
    for epoch, side in enumerate(sides):
        model.train()
        order = torch.randperm(len(images), generator=rng)
        total = 0.0
        for step in range(steps):
            rows = order[step * args.batch : (step + 1) * args.batch]
            x = random_resized_crop((images[rows].float() / 255 - MEAN) / STD, side, rng)
            x, target = mix(vary_look(x, args.colour, rng), eye[labels[rows]], rng)
            logits = model(x.contiguous(memory_format=torch.channels_last))
            loss = F.cross_entropy(logits, target, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            average.update_parameters(model)
            total += float(loss.detach())
        top1, top5 = accuracy(average.module, val_images, val_labels, 64)
        print(
            f"epoch {epoch + 1}/{len(sides)} side {side} loss {total / steps:.3f} "
            f"val at 64: {top1:.4f} / {top5:.4f}, {time.monotonic() - start:.0f} s",
            flush=True,
        )
        save(average.module, args.out, {"seed": str(args.seed), "epoch": str(epoch + 1)})
    by_side = {
        side: accuracy(average.module, val_images, val_labels, side) for side in (SIDE, 80, 96)
    }
    print(json.dumps(by_side))
    top1, top5 = by_side[SIDE]
    metadata = {"seed": str(args.seed), "top1": f"{top1:.4f}", "top5": f"{top5:.4f}"}
    save(average.module, args.out, metadata)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with the Parquet files")
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    parser.add_argument("--init", type=Path, help="weights to start from")
    parser.add_argument(
        "--schedule",
        type=lambda text: [tuple(map(int, part.split(":"))) for part in text.split(",")],
        default=[(32, 4), (48, 9), (64, 3)],
        help="side of the training crop and epochs, for instance 32:4,48:9,64:3",
    )
    parser.add_argument("--warmup", type=float, default=0.05, help="share of the steps")
    parser.add_argument("--average", type=float, default=0.998, help="decay of the moving average")
    parser.add_argument(
        "--colour", type=float, default=1.0, help="0 to 1: how far saturation and tint vary"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=128, help="images per step")
    parser.add_argument("--lr", type=float, default=0.25, help="peak learning rate")
    train(parser.parse_args())
