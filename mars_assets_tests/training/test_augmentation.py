import numpy as np
import torch

from mars_assets.training.augmentation import relit


def test_light_is_the_same_for_arrays_and_tensors_in_either_layout():
    image = np.random.default_rng(0).random((6, 9, 7), np.float32)
    mean, shift = image.mean((1, 2), keepdims=True), image.std((1, 2), keepdims=True) * np.float32(0.3)
    changed = relit(image, 1.2, shift, mean)
    np.testing.assert_allclose(changed.mean((1, 2)), (mean + shift).ravel(), rtol=1e-5)
    np.testing.assert_allclose(changed.std((1, 2)), 1.2 * image.std((1, 2)), rtol=1e-5)
    tensors = [torch.from_numpy(array) for array in (image, shift, mean)]
    np.testing.assert_array_equal(relit(tensors[0], 1.2, *tensors[1:]).numpy(), changed)
    last = [array.transpose(1, 2, 0) for array in (image, shift, mean)]
    np.testing.assert_array_equal(relit(last[0], 1.2, *last[1:]).transpose(2, 0, 1), changed)
