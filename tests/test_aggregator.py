"""What the base class does for every method."""

import pytest
import torch

import milbench


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", milbench.list_aggregators())
def test_features_of_half_precision_are_read_as_they_are(name, dtype):
    """Caches hold half precision; a model in fp32 computes in fp32 what it would for the same values in fp32."""
    torch.manual_seed(0)
    model = milbench.create(name, in_dim=8).eval()
    bags = milbench.Bags.pack([torch.randn(n, 8).to(dtype) for n in (3, 9)])
    out = model(bags)
    assert out.logits.dtype == torch.float32
    torch.testing.assert_close(out.logits, model(bags.to(dtype=torch.float32)).logits, atol=0, rtol=0)
