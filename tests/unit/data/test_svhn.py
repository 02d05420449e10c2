import io

import numpy as np
import pytest
from data_samples import mat, tiny_svhn, write
from scipy.io import savemat

from fedmrn.data import load_source
from fedmrn.data.svhn import parse_mat
from fedmrn.errors import DataError

SHAPE = (3, 32, 32)
IMAGES = np.random.default_rng(4).integers(0, 256, (32, 32, 3, 2), np.uint8)
LABELS = np.array([[10], [3]], np.uint8)


def test_layout_and_the_label_ten(tmp_path):
    source, blobs, arrays = tiny_svhn()
    write(source, blobs, tmp_path / "svhn")
    data = load_source(source, tmp_path, download=False)
    assert data.train_x.shape == (11, 3, 32, 32)
    # Pixel (row 5, column 7, blue) of image 4, by the authors' axes and by ours.
    assert data.train_x[4, 2, 5, 7] == arrays[0][5, 7, 2, 4]
    np.testing.assert_array_equal(data.test_x.numpy(), arrays[2].transpose(3, 2, 0, 1))
    assert data.train_y.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert data.test_y.tolist() == [0, 1, 0, 9, 5]
    assert data.normalised_train().mean() != data.normalised_test().mean()


def only(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    savemat(buffer, arrays)
    return buffer.getvalue()


PLAIN = mat(IMAGES, LABELS, compress=False)
PACKED = mat(IMAGES, LABELS)


@pytest.mark.parametrize(
    ("blob", "what"),
    [
        (b"", "not a sound MATLAB file"),
        (b"text " * 100, "not a sound MATLAB file"),
        (b"text", "not a sound MATLAB file"),
        (b"MATLAB 5.0 MAT-file, cut off".ljust(120), "not a sound MATLAB file"),
        (PLAIN[: len(PLAIN) // 2], "declares y as None"),
        (PACKED[:300], "declares y as None"),
        (PACKED[:-9], "not a sound MATLAB file"),
        (only(y=LABELS), "declares X as None"),
        (only(X=IMAGES), "declares y as None"),
        (mat(IMAGES[..., :1], LABELS), "declares X as"),
        (mat(IMAGES.astype(np.float64), LABELS), "declares X as .*double"),
        (mat(IMAGES.transpose(3, 0, 1, 2), LABELS), "declares X as"),
        (mat(IMAGES, LABELS.T), "declares y as"),
        (mat(IMAGES, LABELS + 1), "labels outside 1 to 10"),
        (mat(IMAGES, LABELS * 0), "labels outside 1 to 10"),
        (mat(IMAGES, LABELS + 0.5), "labels outside 1 to 10"),
    ],
)
def test_refuses(blob, what):
    with pytest.raises(DataError, match=what) as caught:
        parse_mat(blob, 2, SHAPE, "f.mat")
    assert "\n" not in str(caught.value)


def test_labels_may_be_of_any_number_type():
    for kind in (np.uint8, np.int32, np.float64):
        assert parse_mat(mat(IMAGES, LABELS.astype(kind)), 2, SHAPE, "f.mat")[1].tolist() == [0, 3]
