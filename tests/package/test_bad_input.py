"""Bad input: a clear error of the right kind, eager and under set_k alike, and nothing is changed."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from taildropout import TailDropout, at_k, keep_first, replace_dropout, tail_dropout

X = torch.ones(4, 6)
SHAPES = pytest.mark.parametrize("shape", [(4, 6), (300, 600)], ids=["small", "large"])

BAD_P = [(-0.1, ValueError), (1.0001, ValueError), (float("nan"), ValueError), (float("inf"), ValueError)]
BAD_P += [("0.5", TypeError), (None, TypeError), (True, TypeError), (0.5j, TypeError), ([0.5], TypeError)]


@pytest.mark.parametrize(("p", "error"), BAD_P, ids=str)
def test_p(p: object, error: type[Exception]) -> None:
    layer = TailDropout(0.25)
    uses: list[Callable[[], object]] = [
        lambda: TailDropout(p),
        lambda: layer.set_p(p),
        lambda: setattr(layer, "p", p),
        lambda: tail_dropout(X, p),
        lambda: tail_dropout(X, p, training=False),
    ]
    for use in uses:
        with pytest.raises(error, match=r"p="):
            use()
    assert layer.p == 0.25


BAD_K = [(-1, ValueError), (2.0, TypeError), (2.7, TypeError), ("2", TypeError), (True, TypeError), ([1, 2], TypeError)]
BAD_K += [(torch.tensor(-1), ValueError), (torch.tensor([3, -2]), ValueError), (torch.tensor([1.5]), TypeError)]
BAD_K += [(torch.tensor([True]), TypeError), (2**70, ValueError), (-(2**70), ValueError)]


@pytest.mark.parametrize(("k", "error"), BAD_K, ids=str)
@pytest.mark.parametrize("old", [None, 3])
def test_set_k_fails_and_leaves_the_old_k(k: object, error: type[Exception], old: int | None) -> None:
    layer = TailDropout()
    layer.set_k(old)
    with pytest.raises(error, match="k"):
        layer.set_k(k)
    assert layer.k is None if old is None else int(layer.k) == old
    assert old is None or (layer(X).sum(1) == 3).all()


@pytest.mark.parametrize("k", [7, 10**9, torch.tensor(7), torch.tensor([1, 2, 7, 3])], ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_k_above_the_features_raises_at_the_first_forward(k: object, training: bool) -> None:
    layer = TailDropout().train(training)
    layer.set_k(k)
    with pytest.raises(ValueError, match=r"greater than the 6 features.*set_k\(6\)"):
        layer(X)
    layer.set_k(6)
    assert torch.equal(layer(X), X)


@pytest.mark.parametrize("sizes", [(3,), (1,), (6,), (4, 1), (1, 4), (4, 6)])
def test_k_of_a_wrong_shape(sizes: tuple[int, ...]) -> None:
    layer = TailDropout()
    layer.set_k(torch.ones(sizes, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"shape.*set_k"):
        layer(X)
    layer = TailDropout(batch_dim=())
    layer.set_k(torch.ones(sizes, dtype=torch.int64))
    with pytest.raises(ValueError, match="shape"):
        layer(X)


@pytest.mark.parametrize("sizes", [(4,), (6,), (1,), (4, 6), (2, 1), (1, 1, 1), (1, 2)])
def test_keep_first_with_k_of_a_wrong_shape(sizes: tuple[int, ...]) -> None:
    """A (B,) would broadcast along the features when B = n."""
    with pytest.raises(ValueError, match="shape"):
        keep_first(X, torch.ones(sizes))


@pytest.mark.parametrize("k", ["2", None, True, [1], 2j], ids=str)
def test_keep_first_with_k_of_a_wrong_type(k: object) -> None:
    with pytest.raises(TypeError, match="k="):
        keep_first(X, k)


OUT_OF_RANGE = [({"batch_dim": 2}, "batch_dim=2"), ({"batch_dim": -3}, "batch_dim=-3"), ({"dropout_dim": 2}, "dropout_dim=2")]
OUT_OF_RANGE += [({"dropout_dim": -3}, "dropout_dim=-3"), ({"batch_dim": [0, 5]}, "batch_dim=5")]
OVERLAP = [{"batch_dim": 1}, {"batch_dim": [0, 1]}, {"batch_dim": -2, "dropout_dim": 0}, {"batch_dim": [0, -2]}]


def everywhere(options: dict[str, object], shape: tuple[int, ...], error: type[Exception], match: str) -> None:
    """Assert the error in the functional form, and in the layer in training, in eval and at k."""
    input = torch.ones(shape)
    for training in (True, False):
        with pytest.raises(error, match=match):
            tail_dropout(input, 0.5, training, **options)
        layer = TailDropout(**options).train(training)
        for k in (None, 1):
            layer.set_k(k)
            with pytest.raises(error, match=match):
                layer(input)


@pytest.mark.parametrize(("options", "match"), OUT_OF_RANGE, ids=str)
@SHAPES
def test_dims_out_of_range(options: dict[str, object], match: str, shape: tuple[int, ...]) -> None:
    everywhere(options, shape, IndexError, match)


@pytest.mark.parametrize("options", OVERLAP, ids=str)
@SHAPES
def test_dims_that_overlap_once_normalised(options: dict[str, object], shape: tuple[int, ...]) -> None:
    everywhere(options, shape, ValueError, "batch_dim.*(overlap|repeats)")


@pytest.mark.parametrize("options", [{"batch_dim": [0, 0]}, {"batch_dim": -1}, {"batch_dim": 1, "dropout_dim": 1}], ids=str)
def test_dims_repeated_as_given_fail_when_the_layer_is_built(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="repeat"):
        TailDropout(**options)
    with pytest.raises(ValueError, match=r"repeats|overlap"):
        tail_dropout(torch.ones(4, 6), **options)


@pytest.mark.parametrize("bad", [0.0, "0", None, [0.0], [None], {0}, [True]], ids=str)
def test_dims_of_a_wrong_type(bad: object) -> None:
    if bad is not None:  # None means all other dims
        with pytest.raises(TypeError, match="dim"):
            TailDropout(batch_dim=bad)
        with pytest.raises(TypeError, match="dim"):
            tail_dropout(X, batch_dim=bad)
    with pytest.raises(TypeError, match="dim"):
        TailDropout(dropout_dim=bad)
    with pytest.raises(TypeError, match="dim"):
        keep_first(X, 2, bad)


def test_a_bool_where_nn_dropout_has_inplace_says_so() -> None:
    nn.Dropout(0.5, True)  # what people write
    for bad in (lambda: TailDropout(0.5, True), lambda: TailDropout(0.5, 0, False), lambda: tail_dropout(X, batch_dim=True)):
        with pytest.raises(TypeError, match="inplace="):
            bad()
    with pytest.raises(TypeError, match="inplace"):
        TailDropout(inplace=1)


def test_0d_input() -> None:
    for training in (True, False):
        for p in (0.0, 0.5, 1.0):
            for use in (lambda x, p=p, t=training: tail_dropout(x, p, t), TailDropout(p).train(training)):
                with pytest.raises(ValueError, match=r"0-d.*1 dim"):
                    use(torch.tensor(1.0))
    layer = TailDropout()
    layer.set_k(0)
    for use in (layer, lambda x: keep_first(x, 1)):
        with pytest.raises(ValueError, match="0-d"):
            use(torch.tensor(1.0))


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
@SHAPES
def test_integer_input_in_training(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    input = torch.ones(shape, dtype=dtype)
    for p in (1e-9, 0.5, 1.0):
        for use in (TailDropout(p), lambda x, p=p: tail_dropout(x, p)):
            with pytest.raises(TypeError, match=r"float\(\)"):
                use(input)
    assert torch.equal(TailDropout(0.0)(input), input)
    assert torch.equal(TailDropout(0.5).eval()(input), input)
    assert torch.equal(keep_first(input, 2)[:, :2], input[:, :2])


def test_a_generator_of_another_device() -> None:
    with pytest.raises(ValueError, match=r"generator is on cpu.*meta"):
        tail_dropout(torch.empty(4, 6, device="meta"), generator=torch.Generator())
    with pytest.raises(TypeError, match="generator"):
        tail_dropout(X, generator=5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_generator_of_the_cpu_for_cuda_input() -> None:
    with pytest.raises(ValueError, match=r"generator is on cpu.*cuda"):
        tail_dropout(X.cuda(), generator=torch.Generator())
    with pytest.raises(ValueError, match=r"generator is on cuda.*cpu"):
        tail_dropout(X, generator=torch.Generator("cuda"))


@pytest.mark.parametrize("shape", [(5, 20), (200, 200)], ids=["small", "large"])
def test_what_autograd_refuses_to_change_in_place_is_unchanged(shape: tuple[int, int]) -> None:
    leaf = torch.ones(shape, requires_grad=True)
    several = torch.ones(shape, requires_grad=True).mul(1).chunk(2, 1)[0]
    for input in (leaf, leaf[:], several):
        with pytest.raises(RuntimeError):
            TailDropout(inplace=True)(input)
        assert (input == 1).all()


@pytest.mark.parametrize("input", [[1.0], None, 3.0], ids=repr)
def test_what_is_no_tensor(input: object) -> None:
    for call in (TailDropout(), TailDropout().eval(), tail_dropout, lambda x: keep_first(x, 1)):
        with pytest.raises(TypeError, match="give a tensor"):
            call(input)


def test_any_real_number_is_a_k() -> None:
    ones = torch.ones(2, 4)
    for k, kept in ((np.float32(2.5), 2), (2**70, 4), (-(2**70), 0), (float("inf"), 4), (float("-inf"), 0), (float("nan"), 0)):
        assert torch.equal(keep_first(ones, k), keep_first(ones, torch.tensor(kept)))
    for k in (1j, True, "2", None, np.array([1])):
        with pytest.raises(TypeError, match="give an int or a tensor"):
            keep_first(ones, k)


def test_an_array_of_numpy_is_to_be_converted() -> None:
    for call in (TailDropout(), TailDropout().eval(), tail_dropout, lambda x: keep_first(x, 1)):
        with pytest.raises(TypeError, match=r"input is a NumPy array; give a tensor: torch\.from_numpy\(input\)"):
            call(np.ones((3, 4)))


@pytest.mark.parametrize("flag", ["training", "inplace"])
def test_a_flag_is_a_bool(flag: str) -> None:
    input = torch.ones(3, 4)
    with pytest.raises(TypeError, match=f"{flag}='no'"):
        tail_dropout(input, **{flag: "no"})
    assert (input == 1).all()


@pytest.mark.parametrize("k", [torch.tensor(True), torch.tensor(1j)], ids=["bool", "complex"])
def test_a_tensor_that_is_no_number_of_features(k: torch.Tensor) -> None:
    with pytest.raises(TypeError, match="dtype"):
        keep_first(torch.ones(3, 4), k)


def test_more_than_any_number_of_features_keeps_all() -> None:
    assert (keep_first(torch.ones(3, 4), 2**70) == 1).all()


def test_batch_dim_is_not_set_behind_the_layers_back() -> None:
    layer = TailDropout()
    with pytest.raises(AttributeError, match="batch_dim"):
        layer.batch_dim = 1
    assert layer.batch_dim == 0


def test_k_set_in_inference_mode_serves_training() -> None:
    layer = TailDropout()
    with torch.inference_mode():
        layer.set_k(torch.full((200,), 3))
    input = torch.ones(200, 200, requires_grad=True)
    layer(input).sum().backward()
    assert input.grad.sum() == 600


@pytest.mark.filterwarnings("ignore:.*deprecated:UserWarning")
def test_quantized_zeros_are_zero() -> None:
    quantized = torch.quantize_per_tensor(torch.ones(200, 200), 0.1, 10, torch.quint8)
    assert keep_first(quantized, 3).dequantize().unique().tolist() == [0, 1]


def test_models_and_names_of_a_wrong_kind() -> None:
    model = nn.Sequential(TailDropout(), nn.Dropout())
    for names, error in [([], ValueError), (3, TypeError)]:
        with pytest.raises(error, match="names"), at_k(model, 1, names):
            pass
    with pytest.raises(TypeError, match=r"nn\.Module"), at_k("model", 1):
        pass
    with pytest.raises(TypeError, match="names is None"):
        replace_dropout(model, None)
    assert type(model[1]) is nn.Dropout
