"""What is each method worth? Run with recipes that share a teacher, after `pocketgan compress`.

Teacher and students translate the same held-back images, those of the recipes' ``[data]`` or of
``--photos``. FID and KID are against the real images of the target domain where there are any,
LPIPS against the truth and against the teacher's images. Costs are true MACs. ``--sheet`` draws
what came out.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import nn

from compress.checkpoints import load_network
from compress.data.augment import Jitter
from compress.data.cache import PixelCache
from compress.data.dataset import Dataset
from compress.data.folders import open_folder
from compress.data.photos import Photos
from compress.evaluate import held_back, translate
from compress.features import as_generator
from compress.macs import cost
from compress.measures.measure import measure
from compress.recipe import CompressRecipe, load_recipe
from deploy.grid import draw_grid
from deploy.imaging import Pixels

UNPAIRED = "real images of the target domain have no pairs"


def main() -> None:
    """Translate, measure, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--photos", type=Path, help="translate these images, whole")
    parser.add_argument("--side", type=int, help="of --photos: length of the shorter side, px")
    parser.add_argument("--sheet", type=Path, help="draw this many images: a PNG to write")
    parser.add_argument("--draw", type=int, default=6)
    args = parser.parse_args()

    recipes = {name: load_recipe(name, CompressRecipe)[0] for name in args.recipes}
    first = next(iter(recipes.values()))
    exports = {r.name: Path("build") / r.name / args.device / "export" for r in recipes.values()}
    networks = {"teacher": load_network(exports[first.name] / "teacher.safetensors")} | {
        name: load_network(path / "student.safetensors") for name, path in exports.items()
    }
    data: Dataset = first.data.read("test")
    if args.photos is not None:
        folder = open_folder(args.photos, "refuse")
        data = Photos(folder, PixelCache(), Jitter(whole=args.side))
    multiple = math.lcm(*(as_generator(network).multiple for network in networks.values()))
    images = held_back(data, multiple=multiple)
    made = {name: translate(network, images.source) for name, network in networks.items()}

    truth, real = images.target, list(data.references())
    print_table(networks, made, truth=truth, real=real, size=first.image_size)
    if args.sheet is not None:
        columns = {"input": images.source, **made} | ({} if truth is None else {"truth": truth})
        draw(columns, args.draw).save(args.sheet)


def print_table(
    networks: Mapping[str, nn.Module],
    made: Mapping[str, Sequence[Pixels]],
    *,
    truth: Sequence[Pixels] | None,
    real: Sequence[Pixels],
    size: int,
) -> None:
    """One row for each network."""
    count = len(made["teacher"])
    table = Table(title=f"{count} images, {len(real)} real ones", title_justify="left")
    for column in ("", "GMACs", "fewer", "params M", "FID", "KID", "LPIPS", "LPIPS T", "PSNR T"):
        table.add_column(column, justify="left" if not column else "right")
    teacher = cost(networks["teacher"], size)
    for name, network in networks.items():
        ours = cost(network, size)
        row = [name, f"{ours.macs / 1e9:.3f}", f"{teacher.macs / ours.macs:.1f}x"]
        row.append(f"{ours.params / 1e6:.3f}")
        if real:
            sets = measure(made[name], real, ["fid", "kid"], unpaired=UNPAIRED)
            row += [f"{sets.value('fid'):.1f}", f"{sets.value('kid'):.4f}"]
        else:
            row += ["", ""]
        row.append(lpips(made[name], truth) if truth is not None else "")
        if name == "teacher":
            row += ["", ""]
        else:
            near = measure(made[name], made["teacher"], ["lpips", "psnr"], unpaired=None)
            row += [f"{near.value('lpips'):.4f}", f"{near.value('psnr'):.2f}"]
        table.add_row(*row)
    Console(width=120).print(table)
    print("LPIPS: alex, to the truth; LPIPS T and PSNR T (dB): to the teacher's images.")


def lpips(images: Sequence[Pixels], references: Sequence[Pixels]) -> str:
    """The mean distance of pairs."""
    return f"{measure(images, references, ['lpips'], unpaired=None).value('lpips'):.4f}"


def draw(columns: Mapping[str, Sequence[Pixels]], count: int) -> Image.Image:
    """Evenly spaced images, a row each; large ones are cut to their middle."""
    total = len(columns["input"])
    chosen = sorted({round(i * (total - 1) / max(count - 1, 1)) for i in range(count)})
    return draw_grid(
        {label: [middle(images[i], 384) for i in chosen] for label, images in columns.items()}
    )


def middle(pixels: Pixels, side: int) -> Pixels:
    """The square in the middle, of at most ``side`` pixels."""
    height, width = pixels.shape[:2]
    side = min(side, height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return pixels[top : top + side, left : left + side]


if __name__ == "__main__":
    main()
