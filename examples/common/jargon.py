"""The Jargon File 4.4.7 as text: 1.6 million characters of English in the public domain, the same on every machine."""

import gzip
import hashlib
import os
from functools import lru_cache
from pathlib import Path

DEBIAN = Path("/usr/share/doc/jargon-text/jargon.txt.gz")
SHA256 = "40dfb4b98191a670a09a183d5798d50f243d23fdbd1495dcc0aca2ce5895ba97"  # of the unpacked text


@lru_cache(maxsize=1)
def jargon_file() -> str:
    """Return the text, from the file that $JARGON_FILE names or from the Debian package jargon-text.

    Raises:
        FileNotFoundError: if there is no such file; the message says how to provide it.
        ValueError: if the file has another content.
    """
    path = Path(os.environ.get("JARGON_FILE", DEBIAN))
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist; install the Debian package jargon-text, or set JARGON_FILE to the path of a jargon.txt.gz"
        )
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":
        content = gzip.decompress(content)
    if (found := hashlib.sha256(content).hexdigest()) != SHA256:
        raise ValueError(f"{path} has SHA-256 {found}, not {SHA256}: it is not version 4.4.7 as Debian packages it")
    return content.decode()


def split(text: str, block: int = 16_384, every: int = 10) -> tuple[str, str]:
    """Return training and validation text: of the blocks of `block` characters, every tenth is for validation."""
    blocks = [text[start : start + block] for start in range(0, len(text), block)]
    training = [each for number, each in enumerate(blocks) if number % every != every - 1]
    return "".join(training), "".join(blocks[every - 1 :: every])
