import numpy as np
import pytest

from trimtab.run import onnx_check, onnx_files, onnx_order


@pytest.fixture
def channels_last(tmp_path, make_onnx):
    """The mean over height and width of [N, H, W, C], beside a vector."""
    nodes = [
        ("ReduceMean", "image", "mean", {"axes": [1, 2], "keepdims": 0}),
        ("Add", "mean offset", "output", {}),
    ]
    inputs = [("image", "float32", ["batch", 4, 6, 3]), ("offset", "float32", ["batch", 3])]
    part = make_onnx(tmp_path / "main", nodes, inputs, [("output", "float32", ["batch", 3])], {})
    return part.path / "model.onnx"


def test_an_image_input_is_turned_and_others_stay(channels_last):
    turned = onnx_order.turned(channels_last, [(3, 4, 6), (3,)])
    assert turned == [True, False]
    onnx_order.channels_first(channels_last, turned)
    shapes = [spec.shape for spec in onnx_files.signature(onnx_files.load(channels_last)).inputs]
    assert shapes == [("batch", 3, 4, 6), ("batch", 3)]
    image = np.random.default_rng(0).normal(size=(2, 3, 4, 6)).astype(np.float32)
    session = onnx_check.session(channels_last.read_bytes())
    [output] = session.run(None, {"image": image, "offset": np.ones((2, 3), np.float32)})
    assert np.allclose(output, image.mean((2, 3)) + 1, atol=1e-6)


@pytest.mark.parametrize("shape", [(4, 6, 3), (4, 4, 4), (3, 6, 4), (72,)])
def test_what_fits_as_it_is_or_not_at_all_is_left(channels_last, shape):
    assert onnx_order.turned(channels_last, [shape, (3,)]) == [False, False]
