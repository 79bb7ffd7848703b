"""What images exist: their labels, their names, and how to read one."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .blobs import Blobs
from .decode import decode_image, read_image
from .paths import Paths


@dataclass(frozen=True)
class ImageSet:
    """Labelled images, in memory, in files, or in shards that hold many.

    Attributes:
        labels: class ids, int32 (N,).
        class_names: a name per class, length C.
        images: uint8 (N, H, W, 3) for sets that fit in memory, else None.
        files: paths for sets on disk, else None; `Paths` where there may be very many.
        blobs: where their bytes are, for sets in shards, else None.
        origin: image number -> where it is described ("train.txt, line 12"), for error messages.
    """

    labels: np.ndarray
    class_names: tuple[str, ...]
    images: np.ndarray | None = None
    files: Sequence[str] | None = None
    blobs: Blobs | None = None
    origin: Callable[[int], str] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def class_counts(self) -> np.ndarray:
        """Images per class, int64 (C,)."""
        return np.bincount(self.labels, minlength=self.num_classes)

    def read(self, index: int) -> np.ndarray:
        """Image `index` as RGB, uint8 (h, w, 3); an unreadable file raises DataError."""
        if self.images is not None:
            return self.images[index]
        if self.blobs is not None:
            return decode_image(self.blobs.read(index), self.name(index))
        return read_image(self.files[index], self.name(index))

    def name(self, index: int) -> str:
        """How to speak of an image to the user."""
        if self.images is not None:
            return f"image {index}" if self.origin is None else self.origin(index)
        file = self.files[index] if self.blobs is None else self.blobs.describe(index)
        return file if self.origin is None else f"{file} ({self.origin(index)})"

    def file_names(self, root: str) -> list[str] | None:
        """Names of all images relative to `root`, or as they were when a shard took them; None for sets in memory."""
        if self.blobs is not None:
            return [self.blobs.name(i) for i in range(len(self))]
        return None if self.files is None else [os.path.relpath(file, root) for file in self.files]

    def subset(self, indices: np.ndarray) -> ImageSet:
        """Only these images, in this order; memory is copied only for the images chosen."""
        indices = np.asarray(indices)
        files, origin = self.files, self.origin
        if files is not None:
            files = files.take(indices) if isinstance(files, Paths) else [files[i] for i in indices]
        return replace(
            self,
            labels=self.labels[indices],
            images=None if self.images is None else self.images[indices],
            files=files,
            blobs=None if self.blobs is None else self.blobs.take(indices),
            origin=None if origin is None else lambda i: origin(int(indices[i])),
        )


@dataclass(frozen=True)
class Splits:
    """A data set's parts. `validation` is None unless the set ships one or a share was carved out of train."""

    train: ImageSet
    test: ImageSet
    validation: ImageSet | None = None

    def parts(self) -> dict[str, ImageSet]:
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: part for name, part in named.items() if part is not None}
