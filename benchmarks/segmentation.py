"""Segmentation with the paper's recipe at v1_100's size on two threads.

Measures a training step against the same network written in plain PyTorch, sliding windows against mmseg's own
inference on the same checkpoint, and the loader against the training.

Ours computes as the compute resource chooses, in bf16 on a CPU with AMX; the other sides in fp32. That the two networks
are the same is shown at a small size: the same weights and batches give the same 100 losses, in fp32. The checkpoint
for the windows is trained on discs for a few steps first, since the labels of untrained weights are ties. A round takes
a quarter of an hour.

    python benchmarks/segmentation.py
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from measure import compute, measure, parser, report, surroundings, verdict
from PIL import Image

if TYPE_CHECKING:
    from mars_assets.training.compute import PrecisionChoice

THREADS = 2
IMAGES = 2
LOADED = 64
STEPS = 100
TRAINED = 30


def paper(**changes: Any) -> Any:
    import yaml

    from mars_assets.segmentation.recipe import SegRecipe

    file = Path(__file__).parent.parent / "recipes" / "seg_paper.yaml"
    return SegRecipe(**yaml.safe_load(file.read_text())["ops"]["seg_model"]["config"] | changes)


def encoder_config(small: bool = False) -> Any:
    from dataclasses import replace

    from mars_assets.prithvi.config import VARIANTS

    config = VARIANTS["v1_100"].config
    return replace(config, embed_dim=96, depth=3, num_heads=3) if small else config


def our_network(
    recipe: Any, prithvi: Any, precision: PrecisionChoice | None = None, *, theirs: bool = False
) -> tuple[Any, Any]:
    """The network and its config; ``theirs`` with nothing of ours but encoder and neck, which mmseg has not."""
    from mars_assets.segmentation.mmseg_setup import mmseg_ready

    with mmseg_ready():
        from mmseg.registry import MODELS

        from mars_assets.segmentation.mmseg_config import mmseg_config

        config = mmseg_config(recipe, prithvi, compute(THREADS, precision))
        if theirs:
            config.model.type = "EncoderDecoder"
            for ours in ("scales", "orientations", "crater_prior", "crater_threshold", "crater_peak"):
                del config.model[ours]
            config.model.neck.deferred = False
            config.model.decode_head.type = config.model.auxiliary_head.type = "FCNHead"
        return MODELS.build(config.model), config


def plain_network(recipe: Any, prithvi: Any) -> Any:
    """The same network as plain modules, with parameters in the order of ours."""
    import torch
    from timm.models.vision_transformer import Block
    from torch import nn

    class Norm2d(nn.LayerNorm):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def up(inside: int, outside: int) -> nn.ConvTranspose2d:
        return nn.ConvTranspose2d(inside, outside, 2, stride=2)

    def head(inside: int, convolutions: int) -> nn.Sequential:
        width = recipe.head_channels
        layers: list[nn.Module] = []
        for number in range(convolutions):
            before = inside if number == 0 else width
            layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        return nn.Sequential(*layers, nn.Dropout2d(recipe.dropout), nn.Conv2d(width, 2, 1))

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            d, wide = prithvi.embed_dim, recipe.neck_channels
            self.positions: torch.Tensor
            self.register_buffer("positions", torch.zeros(1, 1 + (recipe.crop_size // 16) ** 2, d))
            self.token = nn.Parameter(torch.zeros(1, 1, d))
            self.patches = nn.Conv2d(prithvi.in_chans, d, 16, stride=16)
            self.blocks = nn.Sequential(
                *(Block(d, prithvi.num_heads, prithvi.mlp_ratio, qkv_bias=True) for _ in range(prithvi.depth))
            )
            self.norm = nn.LayerNorm(d)
            stages = [nn.Sequential(up(a, wide), Norm2d(wide, 1e-6), nn.GELU(), up(wide, wide)) for a in (d, wide)]
            self.neck = nn.Sequential(*stages)
            self.heads = nn.ModuleList([head(wide, recipe.head_convolutions), head(wide, 2)])

        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            tokens = self.patches(x).flatten(2).transpose(1, 2)
            tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], 1) + self.positions
            tokens = self.norm(self.blocks(tokens))[:, 1:]
            side = x.shape[-1] // 16
            feature = self.neck(tokens.transpose(1, 2).reshape(len(x), -1, side, side))
            return [head(feature) for head in self.heads]

    return Plain()


def dice(logits: Any, labels: Any) -> Any:
    import torch.nn.functional as F  # noqa: N812

    truth = F.one_hot(labels, 2).movedim(-1, 1).float()
    probability = logits.softmax(1)
    overlap = (probability * truth).sum((2, 3))
    return (1 - (2 * overlap + 1) / ((probability**2 + truth).sum((2, 3)) + 1)).mean()


def batches(count: int, recipe: Any, seed: int = 0) -> list[tuple[Any, Any]]:
    import torch

    random = torch.Generator().manual_seed(seed)
    shape = (recipe.batch_size, recipe.crop_size, recipe.crop_size)
    found = []
    for _ in range(count):
        labels = (torch.rand(shape, generator=random) < 0.1).long()
        images = torch.randn((shape[0], 6, *shape[1:]), generator=random) + labels[:, None]
        found.append((images, labels))
    return found


def our_step(recipe: Any, prithvi: Any, precision: PrecisionChoice | None = None) -> tuple[Any, Any]:
    from mmengine.optim import build_optim_wrapper
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    model, config = our_network(recipe, prithvi, precision)
    wrapper = build_optim_wrapper(model.train(), config.optim_wrapper)

    def step(images: Any, labels: Any) -> float:
        samples = [SegDataSample(gt_sem_seg=PixelData(data=mask[None])) for mask in labels]
        with wrapper.optim_context(model):
            total, _ = model.parse_losses(model.loss(images, samples))
        wrapper.update_params(total)
        return float(total.detach())

    return model, step


def plain_step(recipe: Any, prithvi: Any) -> tuple[Any, Any]:
    import torch

    model = plain_network(recipe, prithvi).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.lr)

    def step(images: Any, labels: Any) -> float:
        optimizer.zero_grad(set_to_none=True)
        total = sum(dice(logits, labels) for logits in model(images))
        total.backward()
        optimizer.step()
        return float(total.detach())

    return model, step


def ours(work: Path) -> None:
    _, step = our_step(paper(), encoder_config())
    (first, second) = batches(2, paper())
    step(*first)
    report(lambda: step(*second))


def plain(work: Path) -> None:
    _, step = plain_step(paper(), encoder_config())
    (first, second) = batches(2, paper())
    step(*first)
    report(lambda: step(*second))


def curves(work: Path) -> None:
    """Both networks from the same weights on the same batches, ours in fp32 and as chosen; writes their losses."""
    import json

    import torch

    recipe, prithvi = (
        paper(neck_channels=32, head_channels=16, crop_size=64, lr=1e-3, dropout=0.0),
        encoder_config(True),
    )
    our, our_do = our_step(recipe, prithvi, "fp32")
    chosen, chosen_do = our_step(recipe, prithvi)
    their, their_do = plain_step(recipe, prithvi)
    chosen.load_state_dict(our.state_dict())
    with torch.no_grad():
        theirs = dict(their.named_parameters())
        for name, parameter in our.named_parameters():
            theirs.pop(plain_name(name)).copy_(parameter.reshape(theirs_shape(name, parameter)))
        assert not theirs, f"not in ours: {list(theirs)}"
        side = recipe.crop_size // 16
        their.positions.copy_(our.backbone.encoder.positions.at((1, side, side), torch.device("cpu")))
    losses = [(their_do(*batch), our_do(*batch), chosen_do(*batch)) for batch in batches(STEPS, recipe)]
    (work / "curves.json").write_text(json.dumps(losses))
    report(lambda: None)


def plain_name(name: str) -> str:
    """Of a parameter of ours in the plain network."""
    for ours_, plain_ in (
        ("backbone.encoder.cls_token", "token"),
        ("backbone.encoder.patch_embed.proj", "patches"),
        ("backbone.encoder.", ""),
        ("neck.blocks.", "neck."),
    ):
        if name.startswith(ours_):
            return plain_ + name.removeprefix(ours_)
    head, *rest = name.split(".")
    number = {"decode_head": 0, "auxiliary_head": 1}[head]
    convolutions = (1, 2)[number]
    if rest[0] == "conv_seg":
        return f"heads.{number}.{3 * convolutions + 1}.{rest[1]}"
    layer, part, what = rest[1:]
    return f"heads.{number}.{3 * int(layer) + (part != 'conv')}.{what}"


def theirs_shape(name: str, parameter: Any) -> Any:
    """Ours has an axis of frames in its patches."""
    return parameter.flatten(1, 2).shape if name.endswith("patch_embed.proj.weight") else parameter.shape


def prepare(work: Path) -> None:
    """Writes a model's folder, mmseg's config and checkpoint of it, chips and masks."""
    import numpy as np
    import torch

    from mars_assets.bands import HLS_BANDS, impute, scale_to_reflectance
    from mars_assets.lake import CONFIG, MMSEG_CONFIG, SEGMENTER
    from mars_assets.storage.files import write_json
    from mars_assets.tensors.geotiff import write_chip

    rng = np.random.default_rng(0)
    scenes = [discs(rng) for _ in range(8)]
    torch.manual_seed(0)
    recipe, prithvi = paper(), encoder_config()
    model = trained(scenes)
    _, config = our_network(recipe, prithvi)
    meta = {"dataset_meta": {"classes": ("background", "crater"), "palette": [[0, 0, 0], [255, 255, 255]]}}
    folder = work / "model"
    folder.mkdir()
    torch.save({"meta": meta, "state_dict": model.state_dict()}, folder / SEGMENTER)
    (folder / MMSEG_CONFIG).write_text(config.pretty_text)
    about = {"bands": list(prithvi.bands), "statistics": prithvi.to_dict()["statistics"], "recipe": recipe.model_dump()}
    write_json(folder / CONFIG, about)
    _, theirs = our_network(recipe, prithvi, theirs=True)
    (work / "theirs.py").write_text(theirs.pretty_text)
    for number, (rgb, mask) in enumerate(scenes):
        write_chip(work / f"{number}.tif", impute(scale_to_reflectance(rgb), "post_norm"), HLS_BANDS)
        Image.fromarray(mask.astype(np.uint8)).save(work / f"{number}.png")


def discs(rng: Any) -> tuple[Any, Any]:
    """An image (512, 512, 3) of noise with dark discs, and their mask."""
    import numpy as np

    rows, columns = np.mgrid[:512, :512]
    mask = np.zeros((512, 512), bool)
    for row, column, radius in zip(*rng.integers(0, 512, (2, 12)), rng.integers(8, 60, 12), strict=True):
        mask |= (rows - row) ** 2 + (columns - column) ** 2 < radius**2
    grey = 140 - 60 * mask + rng.normal(0, 25, (512, 512))
    return np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2), mask


def trained(scenes: list[tuple[Any, Any]]) -> Any:
    """The paper's network after a few steps on crops of scenes, at a rate that shows within them."""
    import numpy as np
    import torch

    from mars_assets.bands import STATISTICS, impute, scale_to_reflectance

    recipe, prithvi = paper(lr=1e-4, loss="weighted_cross_entropy", class_weights=[0.3, 0.7]), encoder_config()
    model, step = our_step(recipe, prithvi)
    means, stds = (np.array(values)[:, None, None] for values in (STATISTICS["v1"].means, STATISTICS["v1"].stds))
    rng, side = np.random.default_rng(1), recipe.crop_size
    for number in range(TRAINED):
        images, labels = [], []
        for rgb, mask in (scenes[n] for n in rng.integers(0, len(scenes), recipe.batch_size)):
            top, left = rng.integers(0, 512 - side, 2)
            window = slice(top, top + side), slice(left, left + side)
            images.append((impute(scale_to_reflectance(rgb[window]), "post_norm") - means) / stds)
            labels.append(mask[window])
        loss = step(torch.tensor(np.stack(images), dtype=torch.float32), torch.tensor(np.stack(labels)).long())
        print(f"  training step {number + 1} of {TRAINED}: loss {loss:.3f}", flush=True)
    return model.eval()


def our_windows(work: Path) -> None:
    from mars_assets.segmentation.predict import predict_masks

    images = pd.DataFrame(
        {"image_id": [str(n) for n in range(IMAGES)], "chip": [work / f"{n}.tif" for n in range(IMAGES)]}
    )
    shutil.rmtree(work / "ours", ignore_errors=True)
    report(lambda: predict_masks(work / "model", images, work / "ours", compute(THREADS)))


def their_windows(work: Path) -> None:
    import numpy as np

    from mars_assets.segmentation.mmseg_setup import mmseg_ready

    with mmseg_ready():
        from mmseg.apis import inference_model, init_model

        def infer() -> None:
            model = init_model(str(work / "theirs.py"), str(work / "model" / "model.pth"), device="cpu")
            for number in range(IMAGES):
                result = inference_model(model, str(work / f"{number}.tif"))
                np.save(work / f"theirs_{number}.npy", result.pred_sem_seg.data[0].numpy().astype(np.uint8))

        report(infer)


def loader(work: Path) -> None:
    from mmengine.runner import Runner

    from mars_assets.segmentation.mmseg_config import mmseg_config
    from mars_assets.segmentation.mmseg_setup import mmseg_ready
    from mars_assets.segmentation.train import _loader

    names = range(8)
    images = pd.DataFrame({"chip": [work / f"{n}.tif" for n in names], "mask": [work / f"{n}.png" for n in names]})
    chosen = compute(THREADS)
    with mmseg_ready():
        from mars_assets.segmentation.dataset import SeededBatches

        pipeline = mmseg_config(paper(), encoder_config(), chosen).train_pipeline
        batches = SeededBatches(len(images), 4, range(LOADED // 4 + 1), chosen.seed)
        loaded = iter(Runner.build_dataloader(_loader(images, pipeline, chosen, 0, batches)))
        next(loaded)

        def load() -> None:
            for _ in range(LOADED // 4):
                next(loaded)

        report(load)


SIDES = {
    "step": ours,
    "step, plain PyTorch": plain,
    "windows": our_windows,
    "windows, mmseg": their_windows,
    "loader": loader,
}


def agreement(work: Path) -> tuple[float, float]:
    """Shares of the pixels: with the same label on both sides, and craters on theirs."""
    import numpy as np

    from mars_assets.segmentation.prediction_file import read_mask

    ours = np.stack([read_mask(work / "ours" / f"{n}.png") for n in range(IMAGES)])
    theirs = np.stack([np.load(work / f"theirs_{n}.npy") == 1 for n in range(IMAGES)])
    return float((ours == theirs).mean()), float(theirs.mean())


def main() -> int:
    options = parser(__doc__, repeats=1).parse_args()
    if options.side:
        import torch

        torch.set_num_threads(THREADS)
        torch.manual_seed(0)
        (SIDES | {"curves": curves})[options.side](options.work)
        return 0
    import json

    surroundings(options, THREADS)
    work = Path(tempfile.mkdtemp(prefix="mars-bench-"))
    try:
        prepare(work)
        measure(Path(__file__), {"curves": ["--work", str(work)]}, 1)
        found = measure(Path(__file__), {name: ["--work", str(work)] for name in SIDES}, options.repeats)
        same, craters = agreement(work)
        losses = json.loads((work / "curves.json").read_text())
    finally:
        shutil.rmtree(work)
    fell = losses[0][0] - losses[-1][0]
    exact, apart = (max(abs(row[0] - row[side]) for row in losses) for side in (1, 2))
    print(f"{STEPS} losses of the same weights and batches fall by {fell:.3f}; at most {exact:.1e} apart in fp32")
    print(f"predicted as crater: {100 * craters:.1f} % of the pixels")
    step, images_a_step = found["step"].seconds, paper().batch_size
    holds = [
        verdict("a training step, times plain PyTorch's speed", found["step, plain PyTorch"].seconds / step, 1.5),
        verdict("sliding windows, times mmseg's speed", found["windows, mmseg"].seconds / found["windows"].seconds, 2),
        verdict("the same labels, percent of the pixels", 100 * same, 99.9),
        verdict(
            "the loader, times the training's images a second",
            (LOADED / found["loader"].seconds) / (images_a_step / step),
            3,
        ),
        verdict("losses apart in fp32, of what they fall by", exact / fell, 0.01, at_least=False),
        verdict("losses apart as chosen, of what they fall by", apart / fell, 0.05, at_least=False),
    ]
    return 0 if all(holds) else 1


if __name__ == "__main__":
    sys.exit(main())
