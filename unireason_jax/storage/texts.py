"""Text files that people write, whatever editor they wrote them with."""

from pathlib import Path


def read(path: Path) -> str:
    """The text of a UTF-8 file without its byte-order mark.

    Raises:
      OSError: it cannot be read.
      ValueError: it is not UTF-8; the message names the file and the byte.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8 text."
        ) from None
