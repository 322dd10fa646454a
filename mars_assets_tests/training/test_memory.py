from pathlib import Path

import numpy as np

from mars_assets.training.memory import InMemory


def test_images_are_retained_up_to_the_bound_and_read_anew_beyond_it() -> None:
    read: list[str] = []

    def image(path: Path) -> np.ndarray:
        read.append(path.name)
        return np.full((16, 16), int(path.name), np.float32)

    images = InMemory(image, [Path(f"{number}") for number in range(3)], gigabytes=2.5 * 16 * 16 * 4 / 1e9)
    for _ in range(2):
        assert [images[number][0, 0] for number in range(3)] == [0, 1, 2]
    assert read == ["0", "1", "2", "2"]
