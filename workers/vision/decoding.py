"""Encoded image files to pixels, within bounds on the size of what is decoded."""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image, ImageOps, UnidentifiedImageError

from parquetry.schemas.errors import RowError

#: formats that Pillow reads by itself; others start programs, or are seldom read and seldom tested
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
#: of one row; small ones are made larger, each by itself
MAX_IMAGES = 256
# our bound is asked in its place: Pillow's own first warns, and then says nothing of who may raise it
Image.MAX_IMAGE_PIXELS = None


def decode_all(contents: Sequence[bytes], *, max_pixels: int) -> list[Image.Image]:
    """The images of one row as RGB, which may have `max_pixels` together. Raises RowError."""
    if len(contents) > MAX_IMAGES:
        raise RowError(reason=f"the row has {len(contents)} images, but at most {MAX_IMAGES} are allowed")
    images: list[Image.Image] = []
    for content in contents:
        used = sum(image.width * image.height for image in images)
        images.append(decode(content, max_pixels=max_pixels - used))
    return images


def decode(content: bytes, *, max_pixels: int) -> Image.Image:
    """The image as RGB, upright, the first frame of several. Raises RowError."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            _require_size(image, max_pixels)
            return ImageOps.exif_transpose(image).convert("RGB")
    except RowError:
        raise
    except UnidentifiedImageError:
        kinds = ", ".join(FORMATS)
        raise RowError(reason=f"the image is none of {kinds}, or its first bytes are damaged") from None
    # a decoder meets whatever a file makes up, and only this row is at fault
    except Exception as error:  # noqa: BLE001
        raise RowError(reason=f"the image cannot be decoded: {_first_line(error)}") from None


def _require_size(image: Image.Image, max_pixels: int) -> None:
    """Asked of the header, before a pixel is decoded."""
    width, height = image.size
    if width * height > max_pixels:
        reason = f"the image has {width} x {height} pixels, but its row has room for {max_pixels}"
        raise RowError(reason=f"{reason}; an operator may raise PARQUETRY_IMAGE_MAX_PIXELS")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__
