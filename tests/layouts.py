"""Where things lie in an image: read from csrc/image.h, so that tests don't know better than the code."""

import re

from support import REPOSITORY

WIDTHS = {"char": 1, "uint16_t": 2, "uint32_t": 4, "uint64_t": 8, "int64_t": 8}


def layout(struct: str) -> tuple[dict[str, tuple[int, int]], int]:
    """Offset and width of each member of a struct of image.h, and the struct's size."""
    text = (REPOSITORY / "csrc/image.h").read_text()
    body = re.search(rf"^struct {struct} \{{\n(.*?)^\}};", text, re.M | re.S)[1]
    at, members, widest = 0, {}, 1
    for kind, name, count in re.findall(r"^ +(\w+) (\w+)(?:\[(\d+)\])?;", body, re.M):
        width = WIDTHS[kind]
        at = -(-at // width) * width
        members[name] = (at, width * int(count or 1))
        at += width * int(count or 1)
        widest = max(widest, width)
    return members, -(-at // widest) * widest


HEADER, HEADER_BYTES = layout("image_header")
MODULE, MODULE_BYTES = layout("module_record")
DIRECTORY, DIRECTORY_BYTES = layout("directory_record")
NAME, NAME_BYTES = layout("listing_name")
LISTING_BYTES = layout("listing")[1]


def header_of(image: bytes) -> dict[str, int]:
    return {name: int.from_bytes(image[at : at + width], "little") for name, (at, width) in HEADER.items()}


def field_of(image: bytes, record: int, field: tuple[int, int]) -> int:
    """A field of a record that starts at the offset `record`."""
    at, width = field
    return int.from_bytes(image[record + at : record + at + width], "little")


def with_field(image: bytes, offset: int, width: int, value: int) -> bytes:
    changed = bytearray(image)
    changed[offset : offset + width] = value.to_bytes(width, "little")
    return bytes(changed)
