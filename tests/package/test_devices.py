"""Copies of a layer: replicas in threads, pickles, other dtypes and devices."""

import base64
import copy
import io
import pickle
import threading
import zlib

import oracles
import pytest
import torch
from torch import Tensor, nn

from taildropout import TailDropout


def in_threads(replicas: list[nn.Module], input: Tensor) -> list[Tensor]:
    """Call the replicas in threads, as DataParallel does."""
    outputs: dict[int, Tensor] = {}

    def work(at: int, replica: nn.Module) -> None:
        outputs[at] = replica(input)

    threads = [threading.Thread(target=work, args=each) for each in enumerate(replicas)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [outputs[at] for at in range(len(replicas))]


@pytest.mark.parametrize("shape", [(50, 16), (300, 512)], ids=["small", "large"])
def test_replicas_in_threads_see_k_and_draw_differently(shape: tuple[int, int]) -> None:
    layer = TailDropout(0.5)
    layer(torch.ones(shape))
    input = torch.ones(shape)
    widths = [oracles.widths(each) for each in in_threads([layer._replicate_for_data_parallel() for _ in range(4)], input)]
    assert len({tuple(each.tolist()) for each in widths}) == 4
    layer.set_k(3)
    for output in in_threads([layer._replicate_for_data_parallel() for _ in range(4)], input):
        assert (oracles.widths(output) == 3).all()


COPIES = {
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "pickle": lambda layer: pickle.loads(pickle.dumps(layer)),
    "torch.save": lambda layer: saved_and_loaded(layer),
}


def saved_and_loaded(layer: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("k", [None, 3, torch.tensor([1, 0, 4])], ids=["random", "3", "per sample"])
def test_a_copy_does_the_same_and_stands_alone(how: str, k: int | Tensor | None) -> None:
    layer = TailDropout(0.3, [0], -1)
    input = torch.ones(3, 8)
    layer(input)
    layer.set_k(k)
    twin = COPIES[how](layer)
    assert repr(twin) == repr(layer)
    torch.manual_seed(3)
    wanted = layer(input)
    torch.manual_seed(3)
    assert torch.equal(twin(input), wanted)
    twin.set_k(2)
    assert (oracles.widths(twin(input)) == 2).all()
    assert layer.k is None if k is None else torch.equal(layer.k, torch.as_tensor(k))


def test_a_copy_of_a_compiled_layer_has_a_p_of_its_own() -> None:
    torch.compiler.reset()
    layer = TailDropout(0.5)
    torch.compile(layer, backend="eager")(torch.ones(4, 8))
    twin = copy.deepcopy(layer)
    twin.set_p(1.0)
    assert torch.compile(layer, backend="eager")(torch.ones(500, 8)).any()
    assert not torch.compile(twin, backend="eager")(torch.ones(500, 8)).any()


# TailDropout(0.3, [0], -1) after set_k(3), pickled by version 0.2.0.dev0 when the layer kept k, its device and its name in
# attributes of its own (_k, _largest_k, _home, _held_as).
PICKLED_BEFORE_FIXED_K = (
    "c-nna&2AGh5Z+{yHcIFps7SO3aZE1}l(x_l5~@HVP@r(wOJzB`PS(V+*FT#oNR`T=Qj08ch`I3qybn*oBOoEc>~2a)Tj9fc=bLZF"
    "<C)J#l`qQ`FJE@aV9FvT5|Nq~!y}@cZM*|)r@-9Ut$lQdu4!vVVah4*xf9z!308PO3{e`KwuU-sw>vRb5f>aKU{P%dH)lSiiE*Eu"
    "y@5J7>>pqip+pfB3(?nbXebyXp`n6j)+-eeMWP)V<|XVoyKo*>gv1LOd=pWPx+!DRZntaaQCFx-{FP}G9Z(aaEUtIPxP5_v*#RDD"
    "6k@0^nsBcF<(yxk@Z7oVx#El^qzyI%MR32V@a2CU7jv&5CUEpW#_DB;(9<W>&_F~fBl)Zv&@~grKpkk;_KpFWh#`aA^WU&+{hZ|X"
    "frafX<q5+fai_M768G%!_Xqg`tMBYJBUBi-P--aCS+5l7q@XecYS2QV;W~`8Y3B->h7I?Kvx`OTT_pynGcr)%*gYwiJnyLdsm^|V"
    "efsn6`){vrwT{X!fB5h{lwLDf1Q91n7y<G@!%TC6%MuWRIq)!Q3?qo}h+;0wCqW%RGfD{3^aIh-Ka`bbPz6xOLK#_YmjfRx%8i_9"
    "SAy)7Fu{9rwp~e6II|hdX5^w|>4o_f>Mwxuw!rGL6wCu<d*j~b#>S)j54X40H@9SwHcV3Kw@bT5R^C9eed%4rE#X$Fc%7a<+1;_*"
    "gT}9|o#rz%V8K)v2#UaT`>yT7SYrY$#u}7gg@F&Cqt(1TXJ;ZZq%f_qvp&?2XM<-Lia|m_)9}MVG2CR5NIR`RwuFFt"
)


def test_a_layer_that_an_older_version_pickled_loads() -> None:
    layer = pickle.loads(zlib.decompress(base64.b85decode(PICKLED_BEFORE_FIXED_K)))
    assert repr(layer) == "TailDropout(p=0.3, batch_dim=[0], dropout_dim=-1; k=3)"
    assert vars(layer).keys() == vars(TailDropout()).keys()
    assert (oracles.widths(layer(torch.ones(4, 8))) == 3).all()
    layer.set_k(None)
    torch.manual_seed(0)
    drawn = layer(torch.ones(50, 8))
    torch.manual_seed(0)
    assert torch.equal(drawn, TailDropout(0.3)(torch.ones(50, 8)))
    assert torch.compile(layer, backend="eager")(torch.ones(50, 8)).eq(0).any()
    assert repr(pickle.loads(pickle.dumps(layer))) == repr(layer)


def test_replicas_share_no_k_that_changes() -> None:
    """A replica that moves k to its own device leaves the k of the others where it is."""
    layer = TailDropout()
    layer.set_k(3)
    replica = layer._replicate_for_data_parallel()
    replica.fixed_k = replica.fixed_k.moved(torch.device("meta"))
    replica.set_k(5)
    assert not layer.k.is_meta
    assert (oracles.widths(layer(torch.ones(2, 8))) == 3).all()


def test_a_whole_model_survives_torch_save() -> None:
    net = nn.Sequential(nn.Linear(4, 8), TailDropout(0.3), nn.Linear(8, 2)).eval()
    net[1].set_k(3)
    input = torch.randn(5, 4)
    assert torch.equal(saved_and_loaded(net)(input), net(input))


@pytest.mark.parametrize("convert", [nn.Module.half, nn.Module.bfloat16, nn.Module.double, lambda m: m.to(torch.float16)])
def test_module_conversion_keeps_k_exact(convert: object) -> None:
    layer = TailDropout()
    layer.set_k(1999)  # no bfloat16
    convert(layer)
    assert layer.k.dtype == torch.int64
    assert (layer(torch.ones(4, 3000, dtype=torch.bfloat16)).sum(1, dtype=torch.float64) == 1999).all()
    layer.set_k(None)
    for shape in ((40, 1000), (400, 1000)):
        torch.manual_seed(0)
        wanted = oracles.widths(TailDropout()(torch.ones(shape)))
        torch.manual_seed(0)
        assert torch.equal(oracles.widths(layer(torch.ones(shape, dtype=torch.bfloat16))), wanted)


def test_a_layer_made_on_meta_works_once_it_is_somewhere() -> None:
    with torch.device("meta"):
        net = nn.Sequential(nn.Linear(4, 8), TailDropout())
    net.to_empty(device="cpu")
    net[1].set_k(3)
    assert net(torch.ones(2, 4))[:, 3:].eq(0).all()


def test_a_layer_saved_on_a_device_that_is_gone_takes_k() -> None:
    """torch.load(map_location="cpu") of a module that was on a GPU this machine lacks."""
    layer = TailDropout()
    layer.fixed_k.home = torch.device("cuda", 7)
    twin = saved_and_loaded(layer)
    twin.set_k(3)
    assert (oracles.widths(twin(torch.ones(2, 8))) == 3).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_k_follows_the_module() -> None:
    layer = TailDropout()
    layer.set_k(torch.tensor([1, 2]))
    assert layer.cuda().k.is_cuda
    assert oracles.widths(layer(torch.ones(2, 4).cuda())).tolist() == [1, 2]
    assert not layer.cpu().k.is_cuda
