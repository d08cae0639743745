"""One file of a Kaggle competition, through kagglehub: resumed after any fault, then verified.

Of Kaggle's two clients kagglehub is the one that resumes and verifies: it goes on with a partial
file by a Range request and compares the MD5 sum that the storage states. The other one, kaggle,
resumes too but compares nothing but the length. What kagglehub leaves open is done here: tries
with growing pauses, a partial file of something that has changed since, a whole file that was
never compared, requests that are never answered, disk space, progress for a log.

The client follows redirects by itself, but only to the schemes and numbers that
``hpaloc.web.policy`` allows; what names resolve to is not looked at, and a resumed request, which
goes to where the first one ended, is not watched.

Nothing that an exception of the client says is ever shown: it may hold the token, or an address
whose query is as good as one.
"""

import base64
import contextlib
import hashlib
import io
import json
import logging
import os
import re
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from yarl import URL

from hpaloc.archive import Archive, BadMember
from hpaloc.files import write_json, written_whole
from hpaloc.log import InputError, duration
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
from hpaloc.web.files import Refused
from hpaloc.web.pace import backoff, retry_after
from hpaloc.web.policy import MOST_REDIRECTS, next_url

_log = logging.getLogger("hpaloc")

# The client writes a MiB at a time: one has to come within this many times timeout_s. And what
# lies there is read again before it goes on, at this speed at least.
_PATIENCE = 5
_LEAST_READ_BYTES_PER_S = 20e6
_TEMPORARY_STATUS = (408, 425, 429, 500, 502, 503, 504)


class NotServed(Exception):
    """Kaggle has no such file."""


class _Interrupted(Exception):
    """A fault that another try may mend; ``pause_s`` is what the server asked for, if it did."""

    def __init__(self, reason: str, pause_s: float | None = None):
        super().__init__(reason)
        self.pause_s = pause_s


class _Corrupt(Exception):
    """What came is not the file."""


def download(competition: str, name: str | None, path: Path, network: dict[str, Any]) -> None:
    """Fetches file ``name`` of a competition, or with None the archive of all, to ``path``.

    ``path`` appears whole and checked or not at all; what has come of it lies in ``partial/``
    beside it, and the next call goes on from there. ``network`` gives ``attempts`` (tries in a
    row that bring nothing new), ``timeout_s`` (of an answer, and between two bytes; a MiB has to
    come in five times that) and ``private_addresses``. Raises NotServed where Kaggle has no such
    file, and InputError with what to do for everything else.
    """
    what = name or f"the archive of {competition}"
    partial = path.parent / "partial" / path.name
    partial.parent.mkdir(parents=True, exist_ok=True)
    failures, corrupt = 0, False
    while True:
        before = size_of_file(partial)
        try:
            _attempt(competition, name, partial, network)
        except _Interrupted as fault:
            failures = 1 if size_of_file(partial) > before else failures + 1
            if failures >= network["attempts"]:
                raise InputError(
                    f"{what} cannot be fetched from Kaggle: {fault} ({failures} tries). What has"
                    f" come, {in_gib(size_of_file(partial))}, is kept: run again to go on from"
                    f" there, or {_by_hand(competition, path.name)}"
                ) from None
            pause = fault.pause_s
            if pause is None:
                pause = backoff(failures, network["timeout_s"])
            pause = min(pause, 10 * network["timeout_s"])
            _log.warning("%s: %s; again in %s", what, fault, duration(pause))
            time.sleep(pause)
        except _Corrupt as fault:
            partial.unlink(missing_ok=True)
            if corrupt:
                raise InputError(
                    f"{what} came broken from Kaggle twice: {fault}. Run again later, or"
                    f" {_by_hand(competition, path.name)}"
                ) from None
            corrupt = True
            _log.warning("%s: %s; removed, and fetched once more", what, fault)
        else:
            os.replace(partial, path)
            _identity_path(partial).unlink(missing_ok=True)
            _log.info("%s: %s, whole and checked", path, in_gib(size_of_file(path)))
            return


def _attempt(competition: str, name: str | None, partial: Path, network: dict[str, Any]) -> None:
    """One request and what follows of it; afterwards ``partial`` is the whole, verified file."""
    with _quiet():
        from kagglehub.clients import download_file
        from kagglehub.exceptions import DataCorruptionError
        from kagglehub.handle import CompetitionHandle

        patience = _PATIENCE * network["timeout_s"]
        patience += size_of_file(partial) / _LEAST_READ_BYTES_PER_S
        with (
            _in_words(competition, partial, network["timeout_s"]),
            ended_when_still(lambda: size_of_file(partial), patience),
            _client(network) as client,
        ):
            response = _request(client, competition, name)
            with contextlib.closing(response):
                identity = _identity(response)
                if response.headers.get("Content-Type", "").startswith("text/html"):
                    raise _Corrupt("Kaggle answered with a web page")
                _forget_another(partial, identity)
                whole = identity["bytes"]
                if whole is None or size_of_file(partial) != whole:
                    if whole is not None:
                        check_room(partial, whole)
                    with growth_logged(partial, whole):
                        try:
                            download_file(response, str(partial), CompetitionHandle(competition))
                        except DataCorruptionError:
                            raise _Corrupt("its MD5 sum is not what Kaggle states") from None
                elif identity["md5"] not in (None, _md5(partial)):
                    raise _Corrupt("its MD5 sum is not what Kaggle states")
    _check_contents(partial, identity)


@contextlib.contextmanager
def _client(network: dict[str, Any]) -> Iterator[Any]:
    """kagglehub's client of Kaggle, signed in, which neither waits for ever nor goes anywhere."""
    from kagglehub.clients import build_kaggle_client
    from kagglehub.config import get_kaggle_credentials
    from requests.adapters import HTTPAdapter

    class Patience(HTTPAdapter):
        def send(self, request: Any, timeout: Any = None, **options: Any) -> Any:
            return super().send(request, timeout=timeout or network["timeout_s"], **options)

    if get_kaggle_credentials() is None:
        raise InputError(_SIGN_IN.format(first="Kaggle hands its data out to signed-in users only"))
    with build_kaggle_client() as client:
        # The client itself waits for ever; its session is reached in no other way.
        session = client.http_client()._session
        session.mount("https://", Patience())
        session.mount("http://", Patience())
        session.max_redirects = MOST_REDIRECTS
        redirected_to = session.get_redirect_target

        def checked(response: Any) -> str | None:
            location = redirected_to(response)
            if location is not None:
                asked = URL(response.url)
                next_url(asked, location, [asked], network["private_addresses"])
            return location

        session.get_redirect_target = checked
        yield client


def _request(client: Any, competition: str, name: str | None) -> Any:
    """The response whose body is the file, its body still unread."""
    from kagglesdk.competitions.types.competition_api_service import (
        ApiDownloadDataFileRequest,
        ApiDownloadDataFilesRequest,
    )

    api = client.competitions.competition_api_client
    if name is None:
        whole = ApiDownloadDataFilesRequest()
        whole.competition_name = competition
        return api.download_data_files(whole)
    one = ApiDownloadDataFileRequest()
    one.competition_name = competition
    one.file_name = name
    return api.download_data_file(one)


@contextlib.contextmanager
def _in_words(competition: str, partial: Path, timeout_s: float) -> Iterator[None]:
    """Turns every exception of the client into one that says what happened and no secret."""
    import requests

    try:
        yield
    except (InputError, NotServed, _Interrupted, _Corrupt):
        raise
    except requests.HTTPError as error:
        if error.response is None:
            raise _Interrupted("an answer without a status") from None
        _raise_for_status(error.response, competition)
    except Stalled:
        raise _Interrupted("too slow") from None
    except (Refused, requests.TooManyRedirects) as refusal:
        what = refusal if isinstance(refusal, Refused) else "redirected again and again"
        raise InputError(f"Kaggle's answer is not followed: {what}.") from None
    except requests.exceptions.InvalidJSONError:
        raise _Interrupted("an answer that nobody can read") from None
    except requests.Timeout:
        raise _Interrupted(f"no answer within {duration(timeout_s)}") from None
    except (
        requests.ConnectionError,
        requests.exceptions.ChunkedEncodingError,
        requests.exceptions.ContentDecodingError,
    ) as error:
        raise _Interrupted(f"the connection failed ({cause_of(error)})") from None
    except Exception as error:  # noqa: BLE001 - whatever it is, its text may hold a secret
        raise full_disk(error, partial) or InputError(_defect(error)) from None


def _raise_for_status(response: Any, competition: str) -> None:
    status, page = response.status_code, f"https://www.kaggle.com/competitions/{competition}"
    if status == 401:
        raise InputError(
            _SIGN_IN.format(first="Kaggle does not accept the token (401): it is wrong or expired")
        )
    if status == 403:
        raise InputError(
            "Kaggle refuses the download (403): this account has not accepted the competition's"
            f" rules. Sign in, open {page}/rules , press the button that joins the competition"
            ' ("Late Submission" or "Join Competition") and "I Understand and Accept" (Kaggle may'
            " ask to verify a phone number first), then run again. If that is done already, the"
            " token belongs to another account."
        )
    if status == 404:
        raise NotServed
    if status in _TEMPORARY_STATUS:
        pause_s = retry_after(response.headers.get("Retry-After"))
        raise _Interrupted(f"Kaggle answered {status}", pause_s)
    raise InputError(
        f"Kaggle answered {status}, which no further try will change. Is the competition's name"
        f" {competition!r} right, and does {page} open in a browser?"
    )


_SIGN_IN = (
    "{first}. Make a token: sign in at https://www.kaggle.com , open"
    " https://www.kaggle.com/settings , section API, and press Generate New Token. Put it into the"
    " file ~/.kaggle/access_token (then: chmod 600 ~/.kaggle/access_token), or into the variable"
    " KAGGLE_API_TOKEN. An older kaggle.json (Create Legacy API Key) goes to"
    " ~/.kaggle/kaggle.json, or as KAGGLE_USERNAME and KAGGLE_KEY into the environment. Then run"
    " again."
)


def not_served(competition: str, names: list[str], folder: str) -> InputError:
    """What to say where Kaggle has none of the files that would do."""
    return InputError(
        f"Kaggle has no {' or '.join(names)} (404). {_by_hand(competition, names[0], folder)}"
    )


def _by_hand(competition: str, name: str, folder: str = "the source's folder") -> str:
    return (
        f"download it in a browser from https://www.kaggle.com/competitions/{competition}/data ,"
        f" put it at {folder}/{name} (or the archive of everything at {folder}/{competition}.zip)"
        " and run again: what lies there is used without any network."
    )


def _identity(response: Any) -> dict[str, Any]:
    """What tells the file behind a response from another one: length and MD5 sum, or tag or date."""
    from kagglehub.integrity import get_md5_checksum_from_response

    headers = response.headers
    length = headers.get("Content-Length", "")
    md5 = get_md5_checksum_from_response(response)
    return {
        "bytes": int(length) if length.isdecimal() else None,
        "md5": md5,
        "version": None if md5 else headers.get("ETag") or headers.get("Last-Modified"),
    }


def _forget_another(partial: Path, identity: dict[str, Any]) -> None:
    """Removes a partial file that was begun of something else, or is longer than the whole."""
    path = _identity_path(partial)
    try:
        begun = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        begun = None
    if partial.exists():
        if begun != identity:
            _log.warning("%s: the file at Kaggle has changed since; begun again", partial.name)
            partial.unlink()
        elif identity["bytes"] is not None and size_of_file(partial) > identity["bytes"]:
            _log.warning("%s: longer than the file at Kaggle; begun again", partial.name)
            partial.unlink()
    if begun != identity:
        write_json(identity, path)


def _identity_path(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.json")


def _check_contents(partial: Path, identity: dict[str, Any]) -> None:
    """Raises _Corrupt unless the file is what its name says; a table in a zip file is unpacked.

    An archive that has the MD5 sum that Kaggle states and is refused all the same would come
    again as it is: that is an InputError.
    """
    if identity["bytes"] not in (None, size_of_file(partial)):
        raise _Corrupt(f"it has {size_of_file(partial)} bytes instead of {identity['bytes']}")
    with open(partial, "rb") as file:
        begins = file.read(512)
    try:
        if partial.suffix == ".zip":
            with Archive(partial):
                pass
        elif begins.startswith(b"PK\3\4"):
            with Archive(partial) as archive:
                data = archive.read(partial.name)
            with written_whole(partial) as aside:
                aside.write_bytes(data)
        elif not re.match(rb"(\xef\xbb\xbf)?\w+,\w+\s", begins):
            raise _Corrupt("it is no table")
    except (InputError, BadMember, FileNotFoundError) as error:
        if identity["md5"]:
            raise InputError(str(error)) from None
        raise _Corrupt(str(error)) from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the client's own lines and bars out of the log: they may hold signed addresses."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    for library in ("kagglehub", "kagglesdk", "urllib3", "requests"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def _defect(error: Exception) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"Kaggle's client failed with {type(error).__name__} ({Path(frame.filename).name}, line"
        f" {frame.lineno}; its words are kept back, for they may hold the token). Check that the"
        " token is one line without blanks, that ~/.kaggle/kaggle.json is as Kaggle made it, and"
        " that the folder of the downloads can be written to."
    )


def _md5(path: Path) -> str:
    with open(path, "rb") as file:
        return base64.b64encode(hashlib.file_digest(file, "md5").digest()).decode()
