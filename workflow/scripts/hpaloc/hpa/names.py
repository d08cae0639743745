"""Names of atlas images: ids to parts, files and addresses, and addresses to ids.

An id is ``<antibody>_<plate>_<well>_<n>``, of some images with a fifth part ``_cr<hash>``. An image
that stands twice in the paper's set has ``_w<number>`` at the end of its second id: the same files.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import urlsplit

from hpaloc.log import InputError

_ANTIBODY = "(?P<antibody>[0-9]{1,12})"
_REST = (
    "(?P<plate>[0-9A-Za-z]{1,20})_(?P<well>[A-Z][0-9]{1,2})"
    "_(?P<position>[0-9]{1,6})(?P<suffix>_cr[0-9a-f]{1,40})?"
)
_ID = re.compile(f"{_ANTIBODY}_{_REST}(?:_w[0-9]{{1,6}})?")
# Of the composite or of a channel; the host, and the folders before the antibody's, don't matter.
_ADDRESS = re.compile(rf"(?:.*/)?{_ANTIBODY}/{_REST}(?:_(?:red|green|blue|yellow))+\.jpg")


class ImageName(NamedTuple):
    """The parts of an id; ``suffix`` is the fifth part with its underscore, or ""."""

    antibody: str
    plate: str
    well: str
    position: str
    suffix: str

    @property
    def image_id(self) -> str:
        return f"{self.antibody}_{self.plate}_{self.well}_{self.position}{self.suffix}"


def parse_image_id(image_id: str, where: str) -> ImageName:
    """The parts of an id. Raises InputError (``where`` names file and row) for anything else."""
    match = _ID.fullmatch(image_id)
    if match is None:
        raise InputError(
            f"{where}: {image_id!r} is no id of an atlas image"
            " (<antibody>_<plate>_<well>_<n>, such as 10008_57_F11_1)."
        )
    return ImageName(**match.groupdict(""))


def id_of_address(url: str) -> str | None:
    """The id of the image that an address shows, composite or channel; None where it is no image.

    ``http://v18.proteinatlas.org/images/4109/24_H11_1_blue_red_green.jpg`` is ``4109_24_H11_1``.
    """
    try:
        match = _ADDRESS.fullmatch(urlsplit(url.strip()).path)
    except ValueError:  # a bracket without its other one
        return None
    return ImageName(**match.groupdict("")).image_id if match else None


def is_sirna(name: ImageName) -> bool:
    """Whether the plate is one of the siRNA experiments, whose cells lack the protein on purpose."""
    return name.plate.startswith("si")


def channel_path(name: ImageName, channel: str) -> str:
    """Where a channel's file lies, relative to the folder of images."""
    return f"{name.antibody}/{name.plate}_{name.well}_{name.position}{name.suffix}_{channel}.jpg"


def channel_addresses(name: ImageName, channel: str, templates: Iterable[str]) -> tuple[str, ...]:
    """The addresses of a channel's file, in the order of the templates of the configuration.

    Raises InputError for a template with other names in braces than antibody, plate, well, n,
    suffix and colour.
    """
    parts = {
        "antibody": name.antibody, "plate": name.plate, "well": name.well, "n": name.position,
        "suffix": name.suffix, "colour": channel,
    }  # fmt: skip
    addresses = []
    for template in templates:
        try:
            addresses.append(template.format_map(parts))
        except (KeyError, ValueError, IndexError, TypeError, AttributeError) as error:
            raise InputError(
                f"addresses.images: {template!r} cannot be filled in ({error}); the names in"
                f" braces are {', '.join(parts)}."
            ) from None
    return tuple(addresses)
