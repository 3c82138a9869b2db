"""The contract runs over everything that is registered: a new method is under it the moment its file exists."""

import pytest
import torch

import milbench
from milbench.nn.nystrom import padded as medium
from milbench.testing import check_aggregator, run_checks
from milbench.testing.checks import cuda_agrees

#: Parameters that take another path through the code, and sizes that are quick.
VARIANTS = [
    "abmil[gated=true]",
    "abmil[embed_dim=16]",
    "clam_sb[subtyping=true]",
    "clam_mb[subtyping=true]",
    "clam_mb[size=big,k_sample=2]",
    "transmil[ppeg=none]",
    "transmil[ppeg=none,layers=1]",
    "transmil[layers=1]",
    "transmil[layers=3]",
    "transmil[ppeg=3]",
    "transmil[ppeg=7]",
    "transmil[value_conv=false]",
    "transmil[ppeg=none,value_conv=false]",
    "transmil[pinv_iterations=2]",
    "transmil[readout=mean]",
    "transmil[readout=mean,layers=1]",
    "transmil[square=zeros]",
    "transmil[order=raster]",
    "transmil[readout=mean,square=zeros,order=raster]",
]
#: Sizes for the variants of TransMIL; more rows than landmarks is the common case on slides.
SIZES = "dim=64,heads=2,landmarks=16"
#: Most bags of the contract have fewer rows than these, and are computed exactly: every option that this way reads.
FEW_ROWS = [
    "transmil[layers=3,dim=64,heads=2,landmarks=256]",
    "transmil[ppeg=none,value_conv=false,dim=64,heads=2,landmarks=256]",
    "transmil[readout=mean,square=zeros,order=raster,dim=64,heads=2,landmarks=256]",
]
#: Taken one by one, bags meet the attention itself: those of the variants that it or its masks depend on.
LONG = [
    f"transmil[{options},{SIZES}]"
    for options in (
        "ppeg=none", "layers=1", "layers=3", "value_conv=false", "ppeg=none,value_conv=false", "pinv_iterations=2",
        "readout=mean,layers=1", "square=zeros", "readout=mean,square=zeros,order=raster",
    )
]  # fmt: skip


@pytest.fixture(autouse=True)
def _one_thread():
    """Bags this small gain nothing from threads, and lose minutes to them when other processes want the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def specs():
    """Every method with its defaults, and every variant, of TransMIL at a quick size."""
    variants = [f"{v[:-1]},{SIZES}]" if v.startswith("transmil") else v for v in VARIANTS]
    whole = pytest.param("transmil", marks=pytest.mark.slow(covered_by="baselines/test_contract.py::test_contract"))
    return [*(whole if m == "transmil" else m for m in milbench.list_aggregators()), *variants, *FEW_ROWS]


def classes(spec):
    """Two and three classes; for the variants of a method whose outputs are always one a class, three."""
    return (3,) if spec.startswith("transmil[") else (2, 3)


@pytest.mark.parametrize("spec", specs())
def test_contract(spec):
    check_aggregator(spec, in_dim=24, n_classes=classes(spec))


@pytest.fixture
def streamed(monkeypatch):
    """Take every bag of more tokens than landmarks as one of many thousands is taken, one by one."""
    monkeypatch.setattr(medium, "BAG", 0)


@pytest.mark.usefixtures("streamed")
@pytest.mark.parametrize("spec", LONG)
def test_contract_of_long_bags(spec):
    check_aggregator(spec, in_dim=24, n_classes=(3,))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("spec", specs())
def test_contract_on_cuda(spec):
    """The contract with everything on the device, and the same answers as on the CPU."""
    check_aggregator(spec, in_dim=24, device="cuda")
    (agreed,) = run_checks(spec, in_dim=24, checks=[cuda_agrees])
    assert agreed.status == "passed", agreed.detail


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.usefixtures("streamed")
@pytest.mark.parametrize("spec", LONG)
def test_contract_of_long_bags_on_cuda(spec):
    check_aggregator(spec, in_dim=24, device="cuda")
    (agreed,) = run_checks(spec, in_dim=24, checks=[cuda_agrees])
    assert agreed.status == "passed", agreed.detail


def test_every_built_in_method_is_there():
    assert {"abmil", "clam_mb", "clam_sb", "dsmil", "max", "max_instance", "mean", "transmil"} <= set(
        milbench.list_aggregators()
    )


@pytest.mark.parametrize("name", milbench.list_aggregators())
def test_one_output_for_two_classes_only_where_the_authors_do(name):
    model = milbench.create(name, in_dim=8, n_classes=2)
    out = model.eval()(milbench.Bags.pack([torch.randn(5, 8)]))
    if name in {"abmil", "dsmil"}:
        assert out.logits.shape == (1, 1)
    elif name in {"clam_sb", "clam_mb", "transmil"}:
        assert out.logits.shape == (1, 2)
