"""The data of the examples: scikit-learn's digits, and Fashion-MNIST from a local folder or OpenML.

Fashion-MNIST (Xiao, Rasul & Vollgraf 2017): 60 000 training and 10 000 test images of clothing, 28 × 28 pixels, 10 classes.
"""

import gzip
import hashlib
import os
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from sklearn.datasets import fetch_openml, load_digits
from torch import Tensor

CLASSES = ["T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot"]
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
# Checksums of the uncompressed data after each file's header: the same for every source.
SHA256 = {
    "train-images-idx3-ubyte": "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012",
    "train-labels-idx1-ubyte": "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7",
    "t10k-images-idx3-ubyte": "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
    "t10k-labels-idx1-ubyte": "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9",
}
SHAPES = {
    "train-images-idx3-ubyte": (60_000, 28, 28),
    "train-labels-idx1-ubyte": (60_000,),
    "t10k-images-idx3-ubyte": (10_000, 28, 28),
    "t10k-labels-idx1-ubyte": (10_000,),
}


class Data(NamedTuple):
    """Inputs (N, features) in float32 and labels (N,) in int64, for training and for testing."""

    inputs: Tensor
    labels: Tensor
    test_inputs: Tensor
    test_labels: Tensor

    def head(self, samples: int, test_samples: int | None = None) -> "Data":
        """Return only the first `samples` training and `test_samples` test samples; None: all."""
        return Data(
            self.inputs[:samples], self.labels[:samples], self.test_inputs[:test_samples], self.test_labels[:test_samples]
        )

    def standardised(self, samples: int, test_samples: int, validation: int) -> tuple["Data", tuple[Tensor, Tensor]]:
        """Return the first samples, and the last `validation` training samples as (inputs, labels).

        All inputs are standardised with one mean and one standard deviation, those of all training pixels.
        """
        mean, deviation = self.inputs.mean(), self.inputs.std()
        data = self.head(samples, test_samples)
        data = data._replace(inputs=(data.inputs - mean) / deviation, test_inputs=(data.test_inputs - mean) / deviation)
        last = slice(len(self.inputs) - validation, None)
        return data, ((self.inputs[last] - mean) / deviation, self.labels[last])


def digits(seed: int = 0, test_share: float = 0.2) -> Data:
    """Return 1797 digits of 8 × 8 pixels in [0, 1], as rows of 64, shuffled; the last `test_share` of them for testing."""
    found = load_digits()
    order = torch.randperm(len(found.target), generator=torch.Generator().manual_seed(seed))
    inputs = torch.tensor(found.data / 16, dtype=torch.float32)[order]
    labels = torch.tensor(found.target, dtype=torch.int64)[order]
    split = round(len(order) * (1 - test_share))
    return Data(inputs[:split], labels[:split], inputs[split:], labels[split:])


@lru_cache(maxsize=1)
def fashion_mnist() -> Data:
    """Return Fashion-MNIST with pixels in [0, 1], images as rows of 784.

    The sources, in order: the folder $FASHION_MNIST, the Debian package dataset-fashion-mnist, OpenML.

    Raises:
        FileNotFoundError: if no source has it; the message says how to provide it.
        ValueError: if the files are not those of Fashion-MNIST.
    """
    named = os.environ.get("FASHION_MNIST")
    if named is not None:
        arrays, source = _from_folder(Path(named)), named
    elif DEBIAN.is_dir():
        arrays, source = _from_folder(DEBIAN), str(DEBIAN)
    else:
        arrays, source = _from_openml(), "OpenML"
    for name, array in arrays.items():
        found = hashlib.sha256(array.tobytes()).hexdigest()
        if found != SHA256[name]:
            raise ValueError(f"{name} from {source} has SHA-256 {found}, not {SHA256[name]}: download it again")
    images, labels, test_images, test_labels = (torch.from_numpy(array) for array in arrays.values())
    return Data(images.flatten(1) / 255, labels.long(), test_images.flatten(1) / 255, test_labels.long())


def _from_folder(folder: Path) -> dict[str, np.ndarray]:
    return {name: _read(folder / name, shape) for name, shape in SHAPES.items()}


def _read(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    packed = path.with_name(path.name + ".gz")
    if packed.exists():
        content = gzip.decompress(packed.read_bytes())
    elif path.exists():
        content = path.read_bytes()
    else:
        raise FileNotFoundError(f"{path.parent} holds neither {packed.name} nor {path.name}; {_ADVICE}")
    header = 4 + 4 * len(shape)  # magic number, then a size per dim
    if len(content) != header + np.prod(shape):
        raise ValueError(
            f"{path.name} in {path.parent} has {len(content)} bytes, not {header + np.prod(shape)}: download it again"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape).copy()


def _from_openml() -> dict[str, np.ndarray]:
    print("fetching Fashion-MNIST from OpenML, once (about 30 MB)", flush=True)
    try:
        found = fetch_openml("Fashion-MNIST", version=1, as_frame=False, parser="liac-arff")
    except OSError as error:
        raise FileNotFoundError(
            f"Fashion-MNIST is not on this machine, and OpenML cannot be reached ({error}); {_ADVICE}"
        ) from error
    images = found.data.astype(np.uint8).reshape(-1, 28, 28)
    labels = found.target.astype(np.uint8)
    return dict(zip(SHAPES, (images[:60_000], labels[:60_000], images[60_000:], labels[60_000:]), strict=True))


_ADVICE = (
    "install the Debian package dataset-fashion-mnist, or put the four idx files (.gz or unpacked) in a folder "
    "and set FASHION_MNIST to its path"
)
