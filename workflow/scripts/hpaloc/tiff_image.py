"""The planes of a TIFF file, as the file itself says that they are to be understood.

A TIFF file holds pages, and names of their axes only where its writer put them into a description
(OME-XML, ImageJ, tifffile, LSM, …). Nothing is guessed: what is not one channel, or four, is
refused with the axis and its length.
"""

import io
import math
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
import tifffile
from tifffile import TiffFile, TiffPage

from hpaloc.image_header import BadImage, Header, Reading

# Formats whose description names the axes, by tifffile's names for them. OME is read here.
_DESCRIBED = (
    "shaped", "lsm", "mmstack", "imagej", "ndtiff", "fluoview", "stk", "sis", "svs", "scn", "qpi",
    "ndpi", "bif", "avs", "eer", "philips", "scanimage", "nih", "mdgel",
)  # fmt: skip
# Values of PhotometricInterpretation.
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _INKS, _YCBCR = 0, 1, 2, 3, 5, 6
_GREY = (_WHITE_IS_ZERO, _BLACK_IS_ZERO)
_JPEG, _OLD_JPEG = 7, 6
_OPACITY = (1, 2)  # values of ExtraSamples; 1 says that colours are multiplied by it
_OF_AXIS = {"Z": "z", "T": "t", "I": "pages", "Q": "pages"}
_ONE_PLANE = "export one plane a file"
_KEPT = (
    "ImageJ wrote it with an inverting look-up table (white is 0), which is for display: the values"
    " are taken as they are"
)
_COPIES = (
    "smaller pages of the same shape, which do not call themselves reduced copies, are left out as"
    " copies"
)
WHAT_IS_READ = "only 8 and 16 bits without sign are read; export it so"
RGBA_NOTE = "red, green, blue and opacity of an RGBA file are taken as the four channels"
# What must be the same for all pages of a picture, by tag; _kind has its values.
_MEANING = {
    262: "photometric interpretation",
    258: "bits",
    338: "extra samples",
    320: "palette",
    274: "orientation",
}
# And where the tags of the first page serve to decode them all.
_CODING = {259: "compression", 317: "predictor", 266: "fill order", 284: "planar configuration"}
# Tags beyond the usual ones (to 532) that say what a file is: STK, LSM, ImageJ, Micro-Manager.
_DESCRIBING = (*range(33628, 33632), 34412, 50838, 50839, 51123)
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_SIZES |= {16: 8, 17: 8, 18: 8}


class _Picture(NamedTuple):
    """One picture of a file, of all its pages: ``axes`` and ``shape`` of its array.

    The first ``outer`` axes count pages; ``page(index)`` reads the rest at a place of these.
    ``notes`` say what was left out.
    """

    keyframe: TiffPage
    axes: str
    shape: tuple[int, ...]
    outer: int
    page: Callable[[tuple[int, ...]], np.ndarray]
    notes: tuple[str, ...] = ()


class _Plan(NamedTuple):
    """What becomes of a picture: ``taken`` has a number, "max" or "all" for each axis.

    ``planes`` is the number of planes in the end, ``dtype`` that of their values.
    """

    taken: tuple[int | str, ...]
    planes: int
    dtype: str
    notes: tuple[str, ...]


def tiff_header(data: bytes, reading: Reading) -> Header:
    """The header of a TIFF file's contents; raises BadImage where it is not to be used."""
    with _opened(data) as picture:
        return _header(picture, _plan(picture, reading))


def tiff_planes(data: bytes, reading: Reading) -> np.ndarray:
    """The planes of a TIFF file's contents, H × W × P; not turned by its orientation."""
    with _opened(data) as picture:
        plan = _plan(picture, reading)
        return _planes(picture, plan, reading.stacked)


def _header(picture: _Picture, plan: _Plan) -> Header:
    height, width = (picture.shape[picture.axes.index(axis)] for axis in "YX")
    orientation = picture.keyframe.tags.valueof(274)
    orientation = orientation if orientation in range(1, 9) else 1
    return Header("TIFF", height, width, plan.planes, plan.dtype, orientation, plan.notes)


# ---------------------------------------------------------------- which pages are the picture


@contextmanager
def _opened(data: bytes) -> Iterator[_Picture]:
    with TiffFile(io.BytesIO(data), _multifile=False) as file:
        offsets = _page_offsets(file, data)
        picture, notes = None, ()
        if file.is_ome or "<OME" in (file.pages.first.description or "")[:4096]:
            picture, notes = _of_ome(file, data)
        elif any(getattr(file, f"is_{kind}", False) for kind in _DESCRIBED):
            picture = _of_series(file, data, offsets)
        if picture is not None:
            yield picture
            return
    # Once more: reading the description may have left pages without their tags.
    with TiffFile(io.BytesIO(data), _multifile=False) as file:
        picture = _of_pages(file, data)
        yield picture._replace(notes=(*notes, *picture.notes))


def _page_offsets(file: TiffFile, data: bytes) -> list[int]:
    """Where the tags of each page begin; raises BadImage where the list of pages is cut off.

    A library would take the pages before the cut for the whole file, and a description that lies
    beyond it for none.
    """
    found: list[int] = []
    seen = set()
    at = file.pages.first.offset
    while at:
        if at in seen:
            raise BadImage("truncated or broken TIFF file (its list of pages is a circle)")
        try:
            tags, following = _tags(file, data, at)
        except struct.error:
            tags, following = {}, 0
        if not 1 <= len(tags) <= 4096:
            raise BadImage(
                f"truncated or broken TIFF file (its page {len(found) + 1} is to begin at byte {at}"
                f" and is not there; the file has {len(data)} bytes)"
            )
        for code, (_, start, length) in tags.items():
            if start + length > len(data) and (code <= 532 or code in _DESCRIBING):
                raise BadImage(
                    f"truncated or broken TIFF file (tag {code} of its page {len(found) + 1} is beyond"
                    " the end of the file)"
                )
        found.append(at)
        seen.add(at)
        at = following
    return found


def _tags(file: TiffFile, data: bytes, at: int) -> tuple[dict[int, tuple[int, int, int]], int]:
    """Type, begin and length of the values of each tag of a page, and where the next page is."""
    tiff, found = file.tiff, {}
    (count,) = struct.unpack_from(tiff.tagnoformat, data, at)
    place = at + tiff.tagnosize
    following = place + count * tiff.tagsize
    (following,) = struct.unpack_from(tiff.offsetformat, data, following)
    for start in range(place, place + count * tiff.tagsize, tiff.tagsize):
        code, kind = struct.unpack_from(f"{tiff.byteorder}HH", data, start)
        (number,) = struct.unpack_from(tiff.offsetformat, data, start + 4)
        begin, length = start + 4 + tiff.offsetsize, number * _SIZES.get(kind, 0)
        if length > tiff.offsetsize:
            (begin,) = struct.unpack_from(tiff.offsetformat, data, begin)
        found.setdefault(code, (kind, begin, length))
    return found, following


def _kind(file: TiffFile, data: bytes, at: int) -> dict[int, tuple[int, ...]]:
    """What the page whose tags begin at ``at`` says of its values, by tag, as a reader has it."""
    tags, _ = _tags(file, data, at)

    def values(code: int, default: int | None = None) -> tuple[int, ...]:
        kind, begin, length = tags.get(code, (3, 0, 0))
        letter = {1: "B", 3: "H", 4: "I", 16: "Q"}.get(kind, "B")
        number = length // struct.calcsize(letter)
        found = struct.unpack_from(f"{file.tiff.byteorder}{number}{letter}", data, begin)
        return found or (() if default is None else (default,))

    samples = values(277, 1)
    found = {code: values(code, 1) for code in (258, 259, 317, 266, 284)} | {338: values(338)}
    if len(set(found[258])) == 1:  # one number for all samples, or one for each
        found[258] = found[258][:1]
    found[262] = values(262, _RGB if samples[0] in (3, 4) else _BLACK_IS_ZERO)
    turned = values(274)
    found[274] = turned if not turned or turned[0] in range(1, 9) else (1,)
    found[320] = values(320) if found[262] == (_PALETTE,) else ()
    if file.is_imagej:  # its look-up tables are for display
        found[320] = ()
        found[262] = (_BLACK_IS_ZERO,) if found[262][0] in (*_GREY, _PALETTE) else found[262]
    return found


def _check_alike(
    file: TiffFile, data: bytes, offsets: Iterable[int], names: dict[int, str] = _MEANING
) -> None:
    """Raises BadImage where pages of one picture mean their values in different ways."""
    first = None
    for number, at in enumerate(offsets, 1):
        kind = _kind(file, data, at)
        # Writers give the orientation to the first page only: it is that of all.
        kind[274] = kind[274] or (first[274] if first else (1,))
        first = first or kind
        differ = [name for code, name in names.items() if kind[code] != first[code]]
        if differ:
            raise BadImage(
                f"a TIFF file of pages of different kinds (page {number} has another"
                f" {' and '.join(differ)} than page 1): {_ONE_PLANE}"
            )


def _of_series(file: TiffFile, data: bytes, offsets: list[int]) -> _Picture | None:
    """The picture that a description names; None where its pages are not what it says."""
    described = [one for one in file.series if one.kind not in ("generic", "uniform", "ome")]
    if not described:
        if file.is_imagej and any(
            (file.imagej_metadata or {}).get(key, 1) > 1
            for key in ("images", "channels", "slices", "frames")
        ):
            raise BadImage("truncated or broken TIFF file (it lacks pages that ImageJ names)")
        return None
    alike = _without_copies([one.keyframe for one in described if len(one) == 1])
    if len(alike) > 1 and len({page.shape for page in alike}) == 1:
        return None  # written one by one: pages of an axis without a name
    series, notes = _largest([(one, one.keyframe) for one in described])
    page, axes, shape = series.keyframe, series.get_axes(False), series.get_shape(False)
    if "X" not in axes or "Y" not in axes:
        raise BadImage(f"a TIFF file with the axes {axes}: no picture of width and height")
    _check_values(shape)
    if series.kind == "shaped" and axes[-3:] == "QYX" and shape[-1] == 4 != shape[-3]:
        axes = f"{axes[:-3]}YXC"  # H × W × 4 without names: tifffile took the 4 for the width
    told = _described_shape(page) if series.kind == "shaped" else ()
    cut = math.prod(told) > math.prod(shape) and _ends_with(told, page.shape)
    count, rest = divmod(math.prod(shape), math.prod(page.shape))
    found = len(offsets) - page.index if len(series._pages) == 1 else len(series)
    single = series.transform is None and series.dataoffset is None and len(page.treeindex) == 1
    if cut or (single and found < count):
        raise BadImage(
            f"truncated or broken TIFF file (its description names the shape {told or shape}, it"
            f" has {len(offsets)} pages)"
        )
    if rest:
        raise BadImage(f"a TIFF file whose pages do not fit its axes {axes} of {shape}")
    # Pages are parts of pictures where an axis after Y or X is no sample: all are read at once.
    outer = max(
        (
            n
            for n in range(min(axes.index("Y"), axes.index("X")) + 1)
            if math.prod(shape[n:]) == math.prod(page.shape)
        ),
        default=0,
    )
    of_chain = [] if len(page.treeindex) > 1 else offsets[page.index : page.index + count]
    virtual = len(series._pages) == 1
    _check_alike(
        file,
        data,
        of_chain
        if virtual
        else [one.offset for one in series._pages if one is not None and not one.is_virtual],
        _MEANING | _CODING,
    )
    if series.transform is None and series.dataoffset is not None and page._dtype is not None:
        if series.dataoffset + math.prod(shape) * page._dtype.itemsize > len(data):
            raise BadImage("truncated or broken TIFF file (it lacks values that it names)")
        values = np.frombuffer(
            data, page._dtype.newbyteorder(file.byteorder), math.prod(shape), series.dataoffset
        ).reshape(shape)
        return _Picture(page, axes, shape, outer, lambda index: values[index], notes)
    if series.transform is None and len(series) == count:

        def read(index: tuple[int, ...]) -> np.ndarray:
            first = int(np.ravel_multi_index(index, shape[:outer])) if index else 0
            parts = [series[k] for k in range(first, first + count // math.prod(shape[:outer]))]
            if None in parts:
                raise BadImage("truncated or broken TIFF file (it lacks a page that it names)")
            return np.stack([_values(one) for one in parts]).reshape(shape[outer:])

        return _Picture(page, axes, shape, outer, read, notes)
    return _Picture(
        page, axes, shape, 0, lambda index: series.asarray(maxworkers=1).reshape(shape), notes
    )


def _described_shape(page: TiffPage) -> tuple[int, ...]:
    """The shape in a description by tifffile, of all pages of the picture."""
    found = tifffile.tifffile.shaped_description_metadata(page.shaped_description or "")
    return tuple(found.get("shape", ()))


def _ends_with(shape: tuple[int, ...], end: tuple[int, ...]) -> bool:
    shape, end = (tuple(n for n in one if n != 1) for one in (shape, end))
    return shape[len(shape) - len(end) :] == end


def _of_pages(file: TiffFile, data: bytes) -> _Picture:
    """The picture of a file that describes no axes: one page, or pages of an axis without name."""
    pages = [page for page in file.pages if isinstance(page, TiffPage) and page.shape]
    if not pages:
        raise BadImage("holds no pixels")
    main = _without_copies(pages)
    smaller = [page for page in _sub_pages(file, pages) if not (page.is_reduced or page.is_mask)]
    if not main or any(_area(page) > max(map(_area, main)) for page in smaller):
        main = smaller  # a preview first, the picture itself below it
    main = main or pages[:1]
    page, notes = _largest([(page, page) for page in main])
    alike = [other for other in main if other.shape == page.shape]
    if any(other.dtype != page.dtype for other in alike):
        raise BadImage(f"a TIFF file of {len(alike)} pages of different kinds: {_ONE_PLANE}")
    _check_alike(file, data, [other.offset for other in alike])
    if len(alike) == 1:
        return _of_array(page, page.axes, page.shape, 0, [page], notes)
    return _of_array(page, f"I{page.axes}", (len(alike), *page.shape), 1, alike, notes)


def _of_array(
    page: TiffPage,
    axes: str,
    shape: tuple[int, ...],
    outer: int,
    pages: list[TiffPage],
    notes: tuple[str, ...] = (),
) -> _Picture:
    _check_values(shape)

    def read(index: tuple[int, ...]) -> np.ndarray:
        place = int(np.ravel_multi_index(index, shape[:outer])) if index else 0
        return _values(pages[place]).reshape(shape[outer:])

    return _Picture(page, axes, shape, outer, read, notes)


def _values(page: TiffPage) -> np.ndarray:
    """The stored values of a page; of strips that are not there a library would make zeros."""
    expected = math.prod(page.keyframe.chunked)
    stored = sum(
        place > 0 and size > 0
        for place, size in zip(page.dataoffsets, page.databytecounts, strict=False)
    )
    if page.keyframe.compression != _OLD_JPEG and stored < expected:
        raise BadImage(
            f"truncated or broken TIFF file (it lacks {expected - stored} of {expected} strips or"
            " tiles)"
        )
    return page.asarray(maxworkers=1)


def _of_ome(file: TiffFile, data: bytes) -> tuple[_Picture | None, tuple[str, ...]]:
    """The picture of the pages of this file, by its OME-XML, and notes; None for its only page.

    A set of files names each other's planes: only those of this file are taken, whether or not the
    others are there. Raises BadImage where the OME-XML names other pages than there are, or does
    not say what several pages are.
    """
    pages = _without_copies([page for page in file.pages if isinstance(page, TiffPage)])
    if not pages:
        return None, ()
    text = file.pages.first.description
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise BadImage("its OME-XML declares entities, which no microscope writes")
    try:
        images = _ome_images(ElementTree.fromstring(text), pages, len(file.pages))
    except (ElementTree.ParseError, KeyError, ValueError) as error:
        if len(pages) == 1:
            return None, ("OME-XML that does not say what the pages are is ignored: there is one",)
        why = f"no {error}" if isinstance(error, KeyError) else error
        raise BadImage(
            f"its OME-XML does not say what its {len(pages)} pages are ({why}): export it as"
            f" OME-TIFF again, or {_ONE_PLANE}"
        ) from error
    by_index = {page.index: page for page in pages}
    for _, places in images:
        lacking = [number for number in places.values() if number not in by_index]
        if lacking:
            raise _lacking(f"page {min(lacking)}", pages)
        if len(set(places.values())) < len(places):
            raise _lacking(f"one page for several of {len(places)} planes", pages)
    if len(pages) == 1:
        return None, ()
    if len(images) > 1:
        names = ", ".join(repr(name) for name, _ in images[:4])
        raise BadImage(
            f"an OME-TIFF file of {len(images)} images (positions or series: {names}), none of"
            " which is the one that is meant: export one image a file"
        )
    ((_, places),) = images
    steps = [sorted({place[k] for place in places}) for k in range(3)]
    if math.prod(map(len, steps)) != len(places):
        raise BadImage(
            f"an OME-TIFF file of {len(places)} planes that are no whole grid of channels, slices"
            f" and times: {_ONE_PLANE}"
        )
    ordered = [by_index[places[place]] for place in product(*steps)]
    page = ordered[0]
    if any(other.shape != page.shape or other.dtype != page.dtype for other in ordered):
        raise BadImage(f"an OME-TIFF file whose pages differ in size or kind: {_ONE_PLANE}")
    _check_alike(file, data, [other.offset for other in ordered])
    notes = ("pages that the OME-XML does not name are left out",)
    notes = notes if len(ordered) < len(pages) else ()
    shape = (*map(len, steps), *page.shape)
    return _of_array(page, f"TZC{page.axes}", shape, 3, ordered, notes), ()


def _lacking(what: str, pages: list[TiffPage]) -> BadImage:
    number = f"{len(pages)} page{'s' if len(pages) > 1 else ''}"
    return BadImage(f"truncated or broken TIFF file (its OME-XML names {what}, it has {number})")


def _ome_images(
    root: ElementTree.Element, pages: list[TiffPage], count_of_all: int
) -> list[tuple[str, dict[tuple[int, int, int], int]]]:
    """Name, and page by time, slice and channel, of the images that have planes in this file.

    ``pages`` are without copies, ``count_of_all`` is the number with them. Raises BadImage where
    more pages are named than there are, ValueError and KeyError where the OME-XML tells nothing.
    """
    own = root.attrib.get("UUID")
    named = {one.text for one in root.iter() if _tag(one) == "UUID"}
    if own is None and len(named) > 1:
        raise ValueError("which file of its set this one is cannot be told")
    found, undivided = [], []
    for image in (one for one in root if _tag(one) == "Image"):
        name = image.attrib.get("Name") or image.attrib.get("ID", "?")
        pixels = next((one for one in image if _tag(one) == "Pixels"), None)
        if pixels is None:
            continue
        order = [axis for axis in pixels.attrib["DimensionOrder"] if axis in "CZT"]
        sizes = _ome_sizes(pixels, order, pages[0].samplesperpixel)
        blocks = [one for one in pixels if _tag(one) == "TiffData"]
        if not blocks:
            undivided.append((name, order, sizes))
        places: dict[tuple[int, int, int], int] = {}
        for block in blocks:
            uuid = next((one.text for one in block if _tag(one) == "UUID"), own)
            if own is not None and uuid != own:
                continue
            first = int(block.attrib.get("IFD", 0))
            count = block.attrib.get("NumPlanes", 1 if "IFD" in block.attrib else 0)
            count = int(block.attrib.get("PlaneCount", count))
            start = [int(block.attrib.get(f"First{axis}", 0)) for axis in order]
            place = sum(s * math.prod(sizes[:k]) for k, s in enumerate(start))
            count = count or math.prod(sizes) - place
            if first + count > count_of_all:  # before they are counted: headers claim millions
                raise _lacking(f"page {max(first, count_of_all)}", pages)
            places |= {_place(order, sizes, place + n): first + n for n in range(count)}
        if places:
            found.append((name, places))
    if not found and undivided:  # planes in the order of the pages
        claimed = sum(math.prod(sizes) for _, _, sizes in undivided)
        if claimed != len(pages):
            raise _lacking(f"{claimed} planes", pages)
        numbers = iter([page.index for page in pages])
        found = [
            (name, {_place(order, sizes, n): next(numbers) for n in range(math.prod(sizes))})
            for name, order, sizes in undivided
        ]
    if not found:
        elsewhere = next((one for one in root if _tag(one) == "BinaryOnly"), None)
        if elsewhere is not None:
            raise ValueError(f"it refers to {elsewhere.attrib.get('MetadataFile', 'another file')}")
        raise ValueError("it names no planes of this file")
    return found


def _ome_sizes(pixels: ElementTree.Element, order: list[str], of_page: int) -> list[int]:
    """The number of planes along each axis; samples of a pixel are channels of one plane."""
    channel = next((one for one in pixels if _tag(one) == "Channel"), None)
    samples = 1 if channel is None else int(channel.attrib.get("SamplesPerPixel", 1))
    sizes = {axis: int(pixels.attrib[f"Size{axis}"]) for axis in order}
    if samples < of_page and sizes["C"] % of_page == 0:
        samples = of_page  # what the OME-XML leaves out, the pages show
    sizes["C"] = max(1, sizes["C"] // max(1, samples))
    if min(sizes.values()) < 1:
        raise ValueError("its sizes are not positive")
    return [sizes[axis] for axis in order]


def _place(order: list[str], sizes: list[int], number: int) -> tuple[int, int, int]:
    """Time, slice and channel of a plane, by its number in the order of dimensions."""
    at = {}
    for axis, size in zip(order, sizes, strict=True):
        number, at[axis] = divmod(number, size)
    if number:
        raise ValueError("it names more planes than its sizes allow")
    return at["T"], at["Z"], at["C"]


def _tag(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _sub_pages(file: TiffFile, pages: list[TiffPage]) -> Iterator[TiffPage]:
    for page in pages:
        for number, offset in enumerate(page.subifds or ()):
            if offset >= 8:
                file.filehandle.seek(offset)
                yield TiffPage(file, (page.index, number))


def _without_copies(pages: list[TiffPage]) -> list[TiffPage]:
    """The pages that do not call themselves reduced copies or masks of another."""
    return [page for page in pages if not (page.is_reduced or page.is_mask)]


def _largest(found: list[tuple]) -> tuple[Any, tuple[str, ...]]:
    """Of (thing, its page) the thing of the largest picture, and notes; all others must be copies.

    A copy calls itself one, or has the same shape at half the size or less.
    """
    found = [one for one in found if not (one[1].is_reduced or one[1].is_mask)] or found[:1]
    thing, main = max(found, key=lambda one: _area(one[1]))
    others = [
        page
        for other, page in found
        if other is not thing and not (isinstance(other, TiffPage) and page.shape == main.shape)
    ]
    strange = [page for page in others if not _is_copy(page, main)]
    if strange:
        sizes = Counter(f"{p.imagewidth} × {p.imagelength} px" for p in [main, *strange])
        text = ", ".join(f"{count} of {size}" for size, count in sizes.items())
        raise BadImage(
            f"a TIFF file of several pictures ({text}), none of which is the one that is meant:"
            " export one image a file"
        )
    return thing, (_COPIES,) if others else ()


def _is_copy(page: TiffPage, main: TiffPage) -> bool:
    across, down = page.imagewidth / main.imagewidth, page.imagelength / main.imagelength
    rounding = 1.5 / min(page.imagewidth, page.imagelength)
    return max(across, down) <= 0.5 and abs(across / down - 1) <= 0.02 + rounding


def _area(page: TiffPage) -> int:
    return page.imagewidth * page.imagelength


def _check_values(shape: tuple[int, ...]) -> None:
    # Broken headers tell of more than there is; no job has the memory for so many grey values.
    if math.prod(shape) > 2**32:
        raise BadImage(f"truncated or broken TIFF file (it claims an array of {shape})")


# ---------------------------------------------------------------- what its axes and values mean


def _plan(picture: _Picture, reading: Reading) -> _Plan:
    """What becomes of each axis and of the values; raises BadImage where that is not clear."""
    page = picture.keyframe
    notes = list(picture.notes)
    dtype = _dtype(page)
    taken: list[int | str] = []
    planes, spread = 1, ""
    has_channels = any(
        axis in "CS" and n > 1 for axis, n in zip(picture.axes, picture.shape, strict=True)
    )
    for axis, length in zip(picture.axes, picture.shape, strict=True):
        if axis in "YX":
            taken.append("all")
        elif length == 1:
            taken.append(0)
        elif axis == "S":
            count, more = _samples(picture, length, reading.stacked)
            notes += more
            planes *= count
            taken.append("all")
        elif axis == "C":
            if not reading.stacked:
                raise BadImage(
                    f"holds a C axis of {length} channels, where a file is one channel: split the"
                    " channels, or leave {channel} out of the pattern if each file holds all four"
                )
            planes *= length
            taken.append("all")
            spread = "C"
        elif axis in _OF_AXIS:
            key = _OF_AXIS[axis]
            wanted = reading.slices.get(key)
            if (wanted, key, length) == (None, "pages", 4) and reading.stacked and not has_channels:
                notes.append("four pages, whose axis has no name, are taken as the four channels")
                planes, has_channels, spread = 4, True, axis
                taken.append("all")
            else:
                taken.append(_slice(axis, length, key, wanted))
        else:
            name = tifffile.TIFF.AXES_NAMES.get(axis, "without a name")
            raise BadImage(f"holds an axis {axis} ({name}) of {length}: {_ONE_PLANE}")
    if picture.axes.count("X") != 1 or picture.axes.count("Y") != 1:
        raise BadImage(f"a TIFF file with the axes {picture.axes}: no picture of width and height")
    if _number_of_samples(picture) == 1:
        count, more = _samples(picture, 1, reading.stacked)
        notes += more
        planes *= count
    elif spread:
        raise BadImage(f"holds {planes} planes, channels of several samples each: {_ONE_PLANE}")
    return _Plan(tuple(taken), planes, dtype, tuple(notes))


def _slice(axis: str, length: int, key: str, wanted: int | str | None) -> int | str:
    if wanted == "max":
        return "max"
    if wanted is None:
        what = {"z": "a Z axis of {} slices", "t": "a T axis of {} time points"}.get(
            key, "{} pages, an axis that the file does not name"
        )
        raise BadImage(
            f"holds {what.format(length)}: set slices to {{{key}: max}} for the maximum projection"
            f" or to {{{key}: 1}} … {{{key}: {length}}} for one of them, or {_ONE_PLANE}"
        )
    if wanted > length:
        raise BadImage(f"holds {length} along the axis {axis}: there is no slice {wanted} ({key})")
    return wanted - 1


def _dtype(page: TiffPage) -> str:
    """uint8 or uint16 of the values as they are read; raises BadImage for others."""
    bits = page.bitspersample
    if page.dtype is None or not isinstance(bits, int):
        raise BadImage(f"holds values of {bits} bits: {WHAT_IS_READ}")
    if page.dtype.name not in ("bool", "uint8", "uint16"):
        raise BadImage(f"holds {page.dtype.name} values: {WHAT_IS_READ}")
    return "uint16" if bits > 8 else "uint8"


def _samples(picture: _Picture, length: int, stacked: bool) -> tuple[int, list[str]]:
    """The number of planes that the samples of a pixel become, and notes."""
    page, photometric = picture.keyframe, _photometric(picture)
    extra = tuple(page.extrasamples or ())
    if photometric in _GREY:
        notes = []
        if photometric == _WHITE_IS_ZERO:
            notes.append(
                _KEPT
                if page.parent.is_imagej
                else "white is 0 (PhotometricInterpretation): the values are inverted"
            )
        if length == 1 or stacked:
            return length, notes
        if len(extra) == length - 1 and all(kind in _OPACITY for kind in extra):
            return 1, notes
        raise BadImage(
            f"holds {length} samples a pixel (axis S) that are neither colours nor opacity, where"
            " a file is one channel: export it as one grey plane, or leave {channel} out of the"
            " pattern if each file holds all four"
        )
    if photometric == _PALETTE:
        if length != 1 or page.colormap is None:
            raise BadImage("truncated or broken TIFF file (a palette without its colours)")
        colours = _palette(page)
        if colours is None:
            falling = page.colormap[:, 0].sum() > page.colormap[:, -1].sum()
            return 1, [_KEPT] if falling else []
        grey = (colours == colours[:, :1]).all()
        return (1 if grey else 3), []
    if photometric == _YCBCR and (page.compression != _JPEG or page.planarconfig != 1 or extra):
        raise BadImage("a TIFF file in YCbCr that is not JPEG: export it in grey or RGB")
    if photometric not in (_RGB, _YCBCR):
        kind = {_INKS: "inks (CMYK)", 4: "a mask"}.get(photometric)
        if kind is None:
            try:
                kind = tifffile.PHOTOMETRIC(photometric).name
            except ValueError:
                kind = f"the photometric interpretation {photometric}"
        raise BadImage(
            f"a TIFF file in {kind}: neither greyscale nor RGB; export it in grey or RGB"
        )
    if length < 3:
        raise BadImage(f"truncated or broken TIFF file (RGB of {length} samples)")
    if stacked and length == 4:
        return 4, [RGBA_NOTE]
    return 3, []


def _number_of_samples(picture: _Picture) -> int:
    return dict(zip(picture.axes, picture.shape, strict=True)).get("S", 1)


def _photometric(picture: _Picture) -> int:
    """PhotometricInterpretation; where the tag is missing, grey or RGB as most readers have it.

    Samples that a description names Z, T or C are grey planes: writers store any three or four
    planes as RGB unless they are told otherwise.
    """
    page = picture.keyframe
    stored = _RGB if page.samplesperpixel in (3, 4) else _BLACK_IS_ZERO
    stored = int(page.photometric) if 262 in page.tags else stored
    colours = stored == _RGB or (stored == _YCBCR and page.compression == _JPEG)
    if colours and page.samplesperpixel > 1 and _number_of_samples(picture) == 1:
        return _BLACK_IS_ZERO
    return stored


def _palette(page: TiffPage) -> np.ndarray | None:
    """The colours of the grey values, n × 3; None where ImageJ shows grey values by a ramp.

    ImageJ writes its look-up tables as palettes; a ramp of one colour, up or down, is a way of
    showing the values. Raises BadImage for its other tables.
    """
    colours = np.asarray(page.colormap).T
    if page.bitspersample <= 8:
        colours = colours >> 8 if colours.max() > 255 else colours
        colours = colours.astype(np.uint8)
    if not page.parent.is_imagej:
        return colours
    ramp = np.linspace(0, 255, len(colours))
    used = [column for column in colours.T.astype(float) if np.ptp(column) > 0]
    for direction in (ramp, ramp[::-1]):
        if used and all(np.abs(column - direction).max() <= 2 for column in used):
            return None
    raise BadImage(
        "is coloured by a look-up table of ImageJ that is no ramp of one colour: choose Image >"
        " Lookup Tables > Grays in ImageJ and save it again"
    )


def _planes(picture: _Picture, plan: _Plan, stacked: bool) -> np.ndarray:
    """The planes H × W × P that a plan makes of a picture."""
    outer = plan.taken[: picture.outer]
    inner_axes, inner = picture.axes[picture.outer :], plan.taken[picture.outer :]
    lengths = picture.shape[: picture.outer]
    kept = [range(n) if one == "all" else [0] for one, n in zip(outer, lengths, strict=True)]
    parts = []
    for place in product(*kept):
        # Of this plane, all that its axes to be projected have.
        choices = [
            range(n) if one == "max" else [at if one == "all" else one]
            for at, one, n in zip(place, outer, lengths, strict=True)
        ]
        total = None
        for index in product(*choices):
            values = _one(picture.page(index), inner_axes, inner, picture)
            total = values if total is None else np.maximum(total, values)
        parts.append(total)
    planes = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)
    return _without_opacity(planes, picture, plan, stacked)


def _one(
    values: np.ndarray, axes: str, taken: tuple[int | str, ...], picture: _Picture
) -> np.ndarray:
    """H × W × samples of what one page, or one place of the outer axes, holds."""
    for k in reversed(range(len(axes))):
        if axes[k] in "YX":
            continue
        if taken[k] == "all":
            continue
        values = (
            _projected(values, k, picture) if taken[k] == "max" else values.take(taken[k], axis=k)
        )
        axes = axes[:k] + axes[k + 1 :]
    values = _meant(values, picture)
    rest = [k for k in range(len(axes)) if axes[k] not in "YX"]
    order = (axes.index("Y"), axes.index("X"), *rest)
    if values.ndim > len(axes):  # a palette's colours
        order += (len(axes),)
    values = values.transpose(order)
    return values.reshape(*values.shape[:2], -1)


def _projected(values: np.ndarray, axis: int, picture: _Picture) -> np.ndarray:
    photometric = _photometric(picture)
    if photometric == _PALETTE:
        raise BadImage(f"holds slices in colours of a palette: {_ONE_PLANE}")
    inverted = photometric == _WHITE_IS_ZERO and not picture.keyframe.parent.is_imagej
    return values.min(axis=axis) if inverted else values.max(axis=axis)


def _meant(values: np.ndarray, picture: _Picture) -> np.ndarray:
    """Grey values or colours, of what the file has stored."""
    page, photometric = picture.keyframe, _photometric(picture)
    bits = page.bitspersample
    if photometric == _PALETTE and (colours := _palette(page)) is not None:
        colours = colours[:, :1] if (colours == colours[:, :1]).all() else colours
        return colours[values.astype(np.intp)]
    if values.dtype == bool:
        values = values.astype(np.uint8)
    if photometric == _WHITE_IS_ZERO and not page.parent.is_imagej:
        values = np.subtract(values.dtype.type(2**bits - 1), values)
    if bits < 8:
        table = np.rint(np.arange(2**bits) * (255 / (2**bits - 1))).astype(np.uint8)
        values = table[values]
    return values


def _without_opacity(
    planes: np.ndarray, picture: _Picture, plan: _Plan, stacked: bool
) -> np.ndarray:
    """The planes without samples that are opacity, where that is what they are."""
    page, rgb = picture.keyframe, _photometric(picture) in (_RGB, _YCBCR)
    if stacked:
        if rgb and planes.shape[2] == 4 and planes[:, :, 3].min() == planes[:, :, 3].max():
            raise BadImage(
                "holds red, green, blue and opacity, which is the same everywhere, where all 4"
                " channels are due"
            )
        return planes
    for plane, kind in zip(
        np.moveaxis(planes[:, :, plan.planes :], 2, 0), page.extrasamples or (), strict=False
    ):
        flat = plane.min() == plane.max()
        if kind == 1 and not (flat and plane.flat[0] == np.iinfo(plane.dtype).max):
            raise BadImage(
                "its values are multiplied by an opacity that is not full everywhere (associated"
                " alpha): export it without opacity"
            )
        if kind not in _OPACITY and not flat:
            raise BadImage(
                f"holds {planes.shape[2]} samples a pixel, one of which is neither a colour nor"
                " opacity: export this channel by itself"
            )
    return planes[:, :, : plan.planes]
