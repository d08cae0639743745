"""ImageNet weights from timm's hub, at pinned revisions: all of training that needs the network.

``resources/weights.csv`` pins them: the commit of each repository that added the file (a short
hash is looked up in the repository's history). Another row pins another network.

The hub's client gives the address, size and sha256 of a file, and gets it; where its partial file
lies is decided here, for since version 2 ``hf_hub_download`` throws away what a killed process
has fetched. The hub may send on to another host, by https and to no private number (unless it is
one itself); where that host sends on to, its client follows: what comes is compared in any case.
"""

import contextlib
import csv
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from hpaloc.files import sha256_of_file, write_text, written_whole
from hpaloc.log import InputError
from hpaloc.network import build_network, load_pretrained
from hpaloc.transfer import (
    Stalled,
    cause_of,
    check_room,
    ended_when_still,
    full_disk,
    growth_logged,
    in_gib,
    size_of_file,
)
from hpaloc.web.ip_addresses import is_number, is_public
from hpaloc.web.lock import waited_for

PINS = Path(__file__).resolve().parents[3] / "resources" / "weights.csv"

CHOICES = (
    "Either run this step where there is a connection (a login node): the workflow then finds the"
    " file; or bring the weights yourself and name their file in the recipe (pretrained: PATH);"
    " or train from scratch (pretrained: null)."
)

_log = logging.getLogger("hpaloc")

# A host that cannot be reached is told within 20 seconds.
_TIMEOUT_S = 5
# An answer that is no file has to be there after that many seconds, however it comes; and of a
# file the client writes 10 MiB at a time: one such piece after that many.
_ANSWER_S = 20
_PIECE_S = 600
_TRIES = 3
_PAUSE_S = 1.0
_LOGGERS = ("huggingface_hub", "httpx", "httpx2", "httpcore", "httpcore2", "urllib3")


class Pin(NamedTuple):
    """Where the weights of a network are: the sha256 of the file is "" where it is not known."""

    network: str
    hub_id: str
    revision: str
    file: str
    sha256: str


class _Broken(Exception):
    """What came is not the file."""


class _Unreachable(Exception):
    """A fault that another try may mend, unless the client itself has tried often enough."""

    def __init__(self, reason: str, tried_enough: bool = False):
        super().__init__(reason)
        self.tried_enough = tried_enough


def read_pin(network: str, pins: str | Path = PINS) -> Pin:
    """The pinned weights of a network; InputError where there are none."""
    with open(pins, newline="", encoding="utf-8") as file:
        found = {row["network"]: Pin(**row) for row in csv.DictReader(file)}
    if network not in found:
        raise InputError(
            f"network {network!r} has no ImageNet weights in {Path(pins).name}, which has"
            f" {', '.join(sorted(found))}. Add a row (its repository on the hub and the commit),"
            " or name the file of such weights in the recipe (pretrained: PATH), or train from"
            " scratch (pretrained: null)."
        )
    return found[network]


def fetch_weights(pin: Pin, downloads: Path, path: str | Path) -> None:
    """Writes the pinned weights to ``path``, as they are on the hub, once they were verified.

    They are kept in ``downloads``, from where another run takes them without the network.
    Verified is the sha256 that the hub states, the pin's where it has one, and that every tensor
    fits the network. Raises InputError, naming the choices, where they cannot be had.
    """
    with waited_for(downloads):
        stored = _stored(pin, downloads)
        if stored is None:
            stored = _fetch(pin, downloads)
    _check_network(pin.network, stored)
    with written_whole(path) as aside:
        shutil.copyfile(stored, aside)


def _stored(pin: Pin, downloads: Path) -> Path | None:
    """What an earlier run has fetched and verified, if it still is what it was."""
    for folder in sorted(downloads.glob(f"{pin.hub_id.replace('/', '--')}/{pin.revision}*")):
        path, record = folder / pin.file, folder / f"{pin.file}.sha256"
        if not (path.is_file() and record.is_file()):
            continue
        sha256 = sha256_of_file(path)
        if sha256 == record.read_text(encoding="utf-8").strip() and pin.sha256 in ("", sha256):
            return path
        _log.warning("%s: has changed since it was fetched; fetched again", path)
        record.unlink()
        path.unlink()
    return None


def _fetch(pin: Pin, downloads: Path) -> Path:
    with _quiet():
        revision = _retried(pin, lambda: _full_revision(pin))
        folder = downloads / pin.hub_id.replace("/", "--") / revision
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / pin.file
        for second in (False, True):
            try:
                _retried(pin, lambda: _transfer(pin, revision, path))
                break
            except _Broken as fault:
                if second:
                    raise InputError(
                        f"the weights of {pin.network} came broken from {pin.hub_id} twice:"
                        f" {fault}. {CHOICES}"
                    ) from None
                _log.warning("%s: %s; removed, and fetched once more", pin.hub_id, fault)
    _log.info("%s of %s at %s: %s", pin.file, pin.hub_id, revision, in_gib(size_of_file(path)))
    return path


def _transfer(pin: Pin, revision: str, path: Path) -> None:
    """Gets the file, from where an earlier try ended, to ``path``, with its sha256 beside it."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    address = hf_hub_url(pin.hub_id, pin.file, revision=revision)
    with ended_when_still(lambda: 0, _ANSWER_S):
        about = get_hf_file_metadata(address, timeout=_TIMEOUT_S)
    _check_location(pin, address, about.location)
    stated = (about.etag or "").lower()
    if pin.sha256 and re.fullmatch(r"[0-9a-f]{64}", stated) and stated != pin.sha256:
        raise InputError(
            f"{pin.hub_id} at {revision} has a {pin.file} of sha256 {stated}, pinned is"
            f" {pin.sha256}: it is not the file that was meant. Correct resources/weights.csv."
        )
    # Named by what it is a part of: another file starts anew.
    partial = path.with_name(f"{path.name}.{re.sub('[^0-9A-Za-z]', '', stated)[:64]}.part")
    if about.size is not None:
        if size_of_file(partial) > about.size:
            partial.unlink()
        check_room(partial, about.size)
    # Storage elsewhere is addressed by signed addresses; the token is for the hub alone.
    same_host = urlsplit(about.location).netloc == urlsplit(address).netloc
    with (
        open(partial, "ab") as file,
        growth_logged(partial, about.size),
        ended_when_still(lambda: size_of_file(partial), _PIECE_S),
    ):
        begun_at = file.tell()
        try:
            http_get(
                about.location,
                file,
                resume_size=begun_at,
                headers=build_hf_headers() if same_host else {},
                expected_size=about.size,
            )
        except (HfHubHTTPError, Stalled):
            raise
        except Exception as error:  # noqa: BLE001 - as in _in_words
            if full := full_disk(error, partial):
                raise full from None
            raise _Unreachable(cause_of(error), tried_enough=file.tell() == begun_at) from None
    sha256 = sha256_of_file(partial)
    expected = pin.sha256 or (stated if len(stated) == 64 else sha256)
    if sha256 != expected or about.size not in (None, size_of_file(partial)):
        partial.unlink()
        raise _Broken(f"its sha256 is {sha256}, not {expected}")
    # First its sum: a file without one would be fetched again.
    write_text(f"{sha256}\n", path.with_name(f"{path.name}.sha256"))
    os.replace(partial, path)


def _check_location(pin: Pin, address: str, location: str) -> None:
    """Raises InputError where the hub sends on to another scheme or into a private network."""
    hub, storage = urlsplit(address), urlsplit(location)
    host = storage.hostname or ""
    is_inside = is_number(host) and not is_public(host)
    if storage.scheme not in (hub.scheme, "https") or (is_inside and not is_number(hub.hostname)):
        raise InputError(
            f"{pin.hub_id}: the hub sends on to an address that is not asked (another scheme, or a"
            f" number of a private network). {CHOICES}"
        )


def _full_revision(pin: Pin) -> str:
    """The commit that a short hash stands for; a full one is taken as it is."""
    if re.fullmatch(r"[0-9a-f]{40}", pin.revision):
        return pin.revision
    from huggingface_hub import HfApi

    with ended_when_still(lambda: 0, _ANSWER_S):
        commits = [commit.commit_id for commit in HfApi().list_repo_commits(pin.hub_id)]
    # It becomes the name of a folder.
    matching = [commit for commit in commits if re.fullmatch(r"[0-9a-f]{40}", commit)]
    matching = [commit for commit in matching if commit.startswith(pin.revision)]
    if len(matching) != 1 or len(pin.revision) < 7:
        raise InputError(
            f"{pin.hub_id}: {len(matching)} of {len(commits)} commits begin with"
            f" {pin.revision!r}. Pin a commit's full hash in resources/weights.csv, or give"
            " --revision."
        )
    return matching[0]


def _retried(pin: Pin, step: Any) -> Any:
    """What ``step`` returns; tried again while the hub cannot be reached, and told in words."""
    for tried in range(1, _TRIES + 1):
        try:
            with _in_words(pin):
                return step()
        except _Unreachable as fault:
            if tried == _TRIES or fault.tried_enough:
                raise InputError(
                    f"the weights of {pin.network} cannot be fetched from {pin.hub_id} ({fault},"
                    f" {tried} {'try' if tried == 1 else 'tries'}). {CHOICES}"
                ) from None
            _log.warning("%s: %s; tried again", pin.hub_id, fault)
            time.sleep(_PAUSE_S * tried)
    raise AssertionError("unreachable")


@contextlib.contextmanager
def _in_words(pin: Pin) -> Iterator[None]:
    """Turns every exception of the client into one that says what happened and no secret."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        yield
    except (InputError, _Broken, _Unreachable):
        raise
    except Stalled:
        raise _Unreachable("too slow") from None
    except OfflineModeIsEnabled:
        raise InputError(
            f"the weights of {pin.network} are not here, and HF_HUB_OFFLINE forbids to fetch them."
            f" {CHOICES}"
        ) from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (408, 429) or status >= 500:
            raise _Unreachable(f"the hub answered {status}") from None
        reason = {
            401: "401: there is no such repository, or the token in HF_TOKEN is wrong; public"
            " weights need none, so unset it",
            403: "403: the token in HF_TOKEN may not read it",
            404: "404: no such repository, commit or file; correct resources/weights.csv",
        }.get(status, str(status))
        raise InputError(
            f"the weights of {pin.network} cannot be fetched from {pin.hub_id} at {pin.revision}"
            f" (the hub answered {reason}). {CHOICES}"
        ) from None
    except Exception as error:  # noqa: BLE001 - its text may hold the token or a signed address
        raise _Unreachable(cause_of(error)) from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the client's own lines and bars out of the log: they hold signed addresses."""
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    yield


def _check_network(network: str, path: Path) -> None:
    """Raises InputError unless the tensors of a file are those of the network."""
    recipe = {"network": network, "image_size": 32, "pool": 1, "dropout": 0.0}
    recipe |= {"normalise": "fixed", "channel_means": [0.0] * 4}
    load_pretrained(build_network(recipe), path)
