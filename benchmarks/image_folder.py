"""Measure how fast ImageFolder starts: `python -m benchmarks.image_folder [--images 20000] [--folder DIR]`.

Random images are written as PNG files. Times are of the first mini-batch after imports: of a start that decodes the
files and writes the cache, and of one that reads the cache. The files are in the page cache of the operating system.
The CPU time of all threads per decoded image hardly depends on other programs that run at the same time.
"""

import argparse
import shutil
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from datamodules.folder_decoding import cpu_count, decode_files
from datamodules.image_files import scan
from datamodules.image_folder import CACHE_FOLDER, ImageFolder

KINDS = {"grey, 28 x 28": ((28, 28), (7, 7)), "RGB, 64 x 64": ((64, 64, 3), (16, 16, 3))}  # size of images and of noise


def write_images(folder: Path, count: int, shape: tuple[int, ...], noise: tuple[int, ...]) -> None:
    """Write PNG files of smooth random images in ten class folders.

    Args:
        folder: Parent of the class folders.
        count: Number of images.
        shape: Shape of the images.
        noise: Shape of the noise that is enlarged to them, so that files are compressible as those of real images.
    """
    random = np.random.default_rng(0)
    for i in range(count):
        path = folder / f"class {i % 10}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(random.integers(0, 256, noise, np.uint8))
        image.resize((shape[1], shape[0]), Image.Resampling.BICUBIC).save(path)


def seconds_to_first_batch(folder: Path) -> float:
    """Return the seconds from the construction of the data module to its first training batch."""
    start = time.perf_counter()
    data = ImageFolder(str(folder))
    data.setup()
    next(iter(data.train_dataloader()))
    return time.perf_counter() - start


def main() -> None:
    """Write the images, measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000, help="number of images of each kind")
    parser.add_argument("--folder", type=Path, help="where to write them; by default a temporary folder")
    args = parser.parse_args()
    print(f"{args.images:,} PNG files, {cpu_count()} CPU cores\n")
    print("| images | decoded per second | CPU time per image | first batch | first batch, from the cache |")
    print("|---|---|---|---|---|")
    with TemporaryDirectory(dir=args.folder) as temporary:
        for kind, (shape, noise) in KINDS.items():
            folder = Path(temporary, kind)
            write_images(folder, args.images, shape, noise)
            names = [file.path for file in scan(folder).files]
            start, cpu_start = time.perf_counter(), time.process_time()
            decode_files(folder, names, ImageFolder(str(folder)).decoding)
            rate = args.images / (time.perf_counter() - start)
            cpu = (time.process_time() - cpu_start) / args.images
            without, cached = seconds_to_first_batch(folder), seconds_to_first_batch(folder)
            print(f"| {kind} | {rate:,.0f} | {1e6 * cpu:,.0f} µs | {without:.1f} s | {cached:.2f} s |", flush=True)
            shutil.rmtree(folder / CACHE_FOLDER)


if __name__ == "__main__":
    main()
