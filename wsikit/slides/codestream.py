"""Damage in a JPEG 2000 codestream that its decoder does not see."""

from __future__ import annotations

import re

_SOC, _SOT, _SOD, _EOC = b"\xff\x4f", b"\xff\x90", b"\xff\x93", b"\xff\xd9"

_IMPOSSIBLE = re.compile(rb"\xff[\x90\x93-\xff]|\x00{512}")
"""What cannot stand among packets. The coder never writes a byte above 0x8f after 0xff, and of the markers only SOP
(0x91) and EPH (0x92) may stand there (ISO/IEC 15444-1, A.1.5 and B.10); compressed data is not 512 zeros either, which
is what a lost sector of a disk, or an interrupted copy, leaves behind."""


def refuse_damaged_codestream(data: bytes) -> None:
    """Raise where a codestream does not keep to its own lengths, or holds bytes that no encoder writes.

    JPEG 2000 has no checksum, and OpenJPEG makes some picture of almost anything behind a good header. Other
    containers than the bare codestream are left to the decoder. Random bytes are found within about 600 of them;
    a few wrong bits may go unseen, here as in JPEG.

    Raises:
        ValueError: Saying what was found, and where.
    """
    if not data.startswith(_SOC):
        return
    at = 2
    while data[at : at + 2] != _SOT:  # segments of the main header
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at : at + 1] != b"\xff" or length < 2:
            raise ValueError(f"no JPEG 2000 marker at byte {at} of {len(data)}")
        at += 2 + length
    while data[at : at + 2] == _SOT:
        size = int.from_bytes(data[at + 6 : at + 10], "big")  # of this part; 0: up to the end
        end = at + size if size else data.rfind(_EOC)
        begin = data.find(_SOD, at, end) + 2
        odd = _IMPOSSIBLE.search(data, begin, end) if begin >= 2 else None
        if begin < 2 or odd is not None:
            where = f"bytes that no encoder writes, at {odd.start()}" if odd else f"no data behind byte {at}"
            raise ValueError(f"damaged JPEG 2000 codestream of {len(data)} bytes: {where}")
        at = end
    if data[at : at + 2] != _EOC:
        raise ValueError(f"JPEG 2000 codestream of {len(data)} bytes: no end at byte {at}")
