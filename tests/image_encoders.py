"""Encoders of image files that share no code with Pillow, which decodes them in this project."""

import struct
import zlib

import numpy as np

PNG_TYPES = {"grey": (0, 1), "rgb": (2, 3), "palette": (3, 1), "grey+alpha": (4, 2), "rgba": (6, 4)}
TIFF_BLACK_IS_ZERO, TIFF_RGB, TIFF_PALETTE, TIFF_CMYK = 1, 2, 3, 5


def png_chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(pixels, kind, bits=8, before=(), after=(), size=None):
    """Encode pixels (H, W) or (H, W, C) as PNG.

    Args:
        pixels: Levels or palette indices.
        kind: One of `PNG_TYPES`.
        bits: Bits per channel.
        before: Chunks (name, content) before the pixels.
        after: Chunks after the pixels.
        size: Width and height in the header, by default those of the pixels.
    """
    colour_type, channels = PNG_TYPES[kind]
    height, width = pixels.shape[:2]
    rows = pixels.reshape(height, width * channels)
    if bits == 16:
        rows = [row.astype(">u2").tobytes() for row in rows]
    elif bits == 8:
        rows = [row.astype(np.uint8).tobytes() for row in rows]
    else:
        as_bits = (rows[..., None] >> np.arange(bits)[::-1]) & 1
        rows = [np.packbits(row).tobytes() for row in as_bits]
    width, height = size or (width, height)
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", header), *before, (b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))), *after]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in [*chunks, (b"IEND", b"")])


def bmp(pixels):
    """Encode pixels (H, W), grey with a palette, or (H, W, 3) as BMP, whose rows go from bottom to top."""
    height, width = pixels.shape[:2]
    is_grey = pixels.ndim == 2
    palette = b"".join(bytes((i, i, i, 0)) for i in range(256)) if is_grey else b""
    rows = pixels[::-1] if is_grey else pixels[::-1, :, ::-1]
    body = b"".join(row.tobytes() + b"\0" * (-len(row.tobytes()) % 4) for row in rows)
    offset = 54 + len(palette)
    header = struct.pack("<2sIHHI", b"BM", offset + len(body), 0, 0, offset)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8 if is_grey else 24, 0, len(body), 2835, 2835, 0, 0)
    return header + info + palette + body


class BitWriter:
    """Bits, the lowest of each byte first."""

    def __init__(self):
        self.value = self.count = 0

    def write(self, value, count):
        self.value |= int(value) << self.count
        self.count += count

    def content(self):
        return self.value.to_bytes((self.count + 7) // 8, "little")


def gif(frames, palette):
    """Encode frames of palette indices (N, H, W) as GIF, with a palette (256, 3)."""
    _, height, width = frames.shape
    parts = [b"GIF89a", struct.pack("<HHBBB", width, height, 0b11110111, 0, 0), palette.astype(np.uint8).tobytes()]
    for frame in frames:
        bits = BitWriter()
        for start in range(0, frame.size, 200):  # the table is cleared before codes have 10 bits
            bits.write(256, 9)
            for index in frame.reshape(-1)[start : start + 200]:
                bits.write(index, 9)
        bits.write(257, 9)
        content = bits.content()
        parts += [b",", struct.pack("<HHHHB", 0, 0, width, height, 0), b"\x08"]
        for start in range(0, len(content), 255):
            block = content[start : start + 255]
            parts += [bytes([len(block)]), block]
        parts.append(b"\0")
    return b"".join([*parts, b";"])


def webp(pixels):
    """Encode colours (H, W, 3) or (H, W, 4) as lossless WebP: literals with a prefix code of 8 bits each."""
    height, width, channels = pixels.shape
    bits = BitWriter()
    bits.write(0x2F, 8)
    bits.write(width - 1, 14)
    bits.write(height - 1, 14)
    bits.write(channels == 4, 1)
    bits.write(0, 3)  # version
    bits.write(0, 3)  # no transform, no colour cache, one group of prefix codes
    for alphabet in (280, 256, 256):  # green and lengths, red, blue
        write_prefix_code(bits, alphabet)
    if channels == 4:
        write_prefix_code(bits, 256)
    else:  # a code of one symbol, 255
        bits.write(0b101, 3)
        bits.write(255, 8)
    bits.write(0b0001, 4)  # distances: a code of one symbol, 0
    for pixel in pixels.reshape(-1, channels):
        for channel in (1, 0, 2, 3)[:channels]:
            bits.write(int(f"{pixel[channel]:08b}"[::-1], 2), 8)
    content = bits.content()
    chunk = b"VP8L" + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def write_prefix_code(bits, alphabet):
    """Write the lengths of a prefix code: 8 bits for the symbols 0 to 255, and none for others."""
    bits.write(0, 1)
    bits.write(12 - 4, 4)
    for length in (0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1):  # of 17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8
        bits.write(length, 3)
    bits.write(0, 1)  # all lengths follow
    for symbol in range(alphabet):
        bits.write(symbol < 256, 1)


def tiff(pixels, photometric, order="<", compressed=False, orientation=1, palette=None, **more):
    """Encode pixels (H, W) or (H, W, C) as TIFF.

    Args:
        pixels: Levels, unsigned or floating-point numbers; with a fourth RGB channel, which is alpha.
        photometric: TIFF_BLACK_IS_ZERO, ...
        order: Byte order, < or >.
        compressed: Compress by zlib.
        orientation: Value of the orientation tag.
        palette: (256, 3), 16 bits.
        more: Further tags by number, as `tag_NUMBER=[values]`.
    """
    height, width = pixels.shape[:2]
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    content = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    content = zlib.compress(content) if compressed else content
    content += b"\0" * (len(content) % 2)
    tags = {256: [width], 257: [height], 258: [8 * pixels.itemsize] * channels, 259: [8 if compressed else 1]}
    tags |= {262: [photometric], 273: [8], 274: [orientation], 277: [channels], 278: [height], 279: [len(content)]}
    if photometric == TIFF_RGB and channels == 4:
        tags[338] = [2]
    if palette is not None:
        tags[320] = palette.T.reshape(-1).tolist()
    if pixels.dtype.kind == "f":
        tags[339] = [3]
    tags |= {int(name.removeprefix("tag_")): values for name, values in more.items()}
    start = 8 + len(content)
    entries, data = b"", b""
    for tag, values in sorted(tags.items()):
        is_long = tag in (273, 279)
        raw = struct.pack(f"{order}{len(values)}{'I' if is_long else 'H'}", *values)
        entries += struct.pack(f"{order}HHI", tag, 4 if is_long else 3, len(values))
        if len(raw) <= 4:
            entries += raw.ljust(4, b"\0")
        else:
            entries += struct.pack(f"{order}I", start + 2 + 12 * len(tags) + 4 + len(data))
            data += raw
    magic = b"II*\0" if order == "<" else b"MM\0*"
    directory = struct.pack(f"{order}H", len(tags)) + entries + struct.pack(f"{order}I", 0)
    return magic + struct.pack(f"{order}I", start) + content + directory + data


def exif(orientation):
    """Encode the orientation of an image as EXIF data."""
    return b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)


def with_exif(jpeg, orientation):
    """Insert the orientation into a JPEG file."""
    content = b"Exif\0\0" + exif(orientation)
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content + jpeg[2:]


def jpeg(blocks):
    """Encode an image whose blocks of 8 x 8 pixels each have one colour as JPEG, without loss.

    Args:
        blocks: The colours (H / 8, W / 8) or (H / 8, W / 8, C): grey levels, YCbCr, or CMYK with 255 for no ink.
    """
    blocks = blocks.reshape(*blocks.shape[:2], -1).astype(int)
    height, width, channels = blocks.shape
    components = range(1, channels + 1)
    frame = struct.pack(">BHHB", 8, 8 * height, 8 * width, channels) + b"".join(bytes((i, 0x11, 0)) for i in components)
    scan = bytes([channels]) + b"".join(bytes((i, 0)) for i in components) + bytes((0, 63, 0))
    # 12 codes of 4 bits for the lengths of differences, and one code of 1 bit for the end of a block
    difference_codes = bytes([0]) + bytes([0, 0, 0, 12] + [0] * 12) + bytes(range(12))
    end_code = bytes([0x10]) + bytes([1] + [0] * 15) + bytes([0])
    bits, previous = "", [0] * channels
    for block in blocks.reshape(-1, channels).tolist():
        for channel, level in enumerate(block):
            mean = 8 * (level - 128)
            difference, previous[channel] = mean - previous[channel], mean
            length = abs(difference).bit_length()
            value = difference if difference > 0 else difference + 2**length - 1
            bits += f"{length:04b}" + (f"{value:0{length}b}" if length else "") + "0"
    bits += "1" * (-len(bits) % 8)
    content = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    segments = [(0xDB, bytes([0]) + bytes([1] * 64)), (0xC0, frame), (0xC4, difference_codes), (0xC4, end_code)]
    if channels == 4:
        segments.insert(0, (0xEE, b"Adobe" + bytes([0, 100, 0, 0, 0, 0, 0])))
    head = b"".join(
        bytes((0xFF, name)) + struct.pack(">H", len(part) + 2) + part for name, part in [*segments, (0xDA, scan)]
    )
    return b"\xff\xd8" + head + content + b"\xff\xd9"
