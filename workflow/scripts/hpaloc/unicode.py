"""One form of the same text: names of files, and ids in tables, compare equal."""

import unicodedata


def nfc(text: str) -> str:
    """The text in Unicode NFC, where é is one character, also where a Mac stored it as two."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)
