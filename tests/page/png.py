"""PNG files made small: a palette of 256 colours, most of them the commonest, the others those farthest from all these."""

import collections
import pathlib
import struct
import zlib

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def chunks(data):
    at = len(SIGNATURE)
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at:at + 8])
        yield kind, data[at + 8:at + 8 + length]
        at += 12 + length


def rows(data):
    """Width, height and the rows of an 8-bit RGB or RGBA picture, as lists of (r, g, b)."""
    parts = list(chunks(data))
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", parts[0][1])
    assert (depth, interlaced) == (8, 0) and colour in (2, 6), "not as a browser writes them"
    size = 3 if colour == 2 else 4
    raw = zlib.decompress(b"".join(body for kind, body in parts if kind == b"IDAT"))
    before, stride, result = bytearray(width * size), width * size, []
    for n in range(height):
        start = n * (stride + 1)
        how, line = raw[start], bytearray(raw[start + 1:start + 1 + stride])
        if how == 1:
            for i in range(size, stride):
                line[i] = (line[i] + line[i - size]) & 255
        elif how == 2:
            line = bytearray((a + b) & 255 for a, b in zip(line, before))
        elif how == 3:
            for i in range(stride):
                line[i] = (line[i] + (((line[i - size] if i >= size else 0) + before[i]) >> 1)) & 255
        elif how == 4:
            for i in range(stride):
                a, b, c = (line[i - size], before[i], before[i - size]) if i >= size else (0, before[i], 0)
                pa, pb, pc = abs(b - c), abs(a - c), abs(a + b - 2 * c)
                line[i] = (line[i] + (a if pa <= pb and pa <= pc else b if pb <= pc else c)) & 255
        result.append(list(zip(line[0::size], line[1::size], line[2::size])))
        before = line
    return width, height, result


def far(one, other):
    return sum((a - b) ** 2 for a, b in zip(one, other))


def shrink(path):
    """Writes the picture at `path` anew, with a palette."""
    path = pathlib.Path(path)
    width, height, lines = rows(path.read_bytes())
    counted = collections.Counter(pixel for line in lines for pixel in line)
    palette = [colour for colour, _ in counted.most_common(176)]
    nearest = {colour: min((far(colour, known), n) for n, known in enumerate(palette)) for colour in counted}
    while len(palette) < min(256, len(counted)):
        palette.append(max(nearest, key=lambda colour: nearest[colour][0]))
        for colour in counted:
            nearest[colour] = min(nearest[colour], (far(colour, palette[-1]), len(palette) - 1))
    index = {colour: n for colour, (_, n) in nearest.items()}
    pixels = b"".join(b"\0" + bytes(index[pixel] for pixel in line) for line in lines)

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    path.write_bytes(
        SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0))
        + chunk(b"PLTE", bytes(part for colour in palette for part in colour))
        + chunk(b"IDAT", zlib.compress(pixels, 9)) + chunk(b"IEND", b"")
    )
