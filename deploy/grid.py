"""Images side by side: one column for each way that the same inputs went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

from deploy.imaging import Pixels

GAP = 6
HEADER = 34
INK, PAPER = "#1d1d1f", "#ffffff"


def draw_grid(columns: Mapping[str, Sequence[Pixels]]) -> Image.Image:
    """Draw columns of images under their labels.

    Args:
        columns: ``{label: images}``, equally many (H, W, 3) each; smaller ones, such as the input
            of super-resolution, are enlarged to the size of the largest.
    """
    height = max(image.shape[0] for images in columns.values() for image in images)
    width = max(image.shape[1] for images in columns.values() for image in images)
    rows = len(next(iter(columns.values())))
    size = (len(columns) * (width + GAP) + GAP, HEADER + rows * (height + GAP))
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=16)
    for column, (label, images) in enumerate(columns.items()):
        left = GAP + column * (width + GAP)
        draw.text((left, HEADER / 2), label, fill=INK, font=font, anchor="lm")
        for row, pixels in enumerate(images):
            image = Image.fromarray(pixels)
            if image.size != (width, height):
                image = image.resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(image, (left, HEADER + row * (height + GAP)))
    return sheet
