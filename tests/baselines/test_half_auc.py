"""The effect of half precision on the AUC: that of a trained TransMIL under autocast, against that of fp32."""

import pytest
from support.half import digits

from milbench import stats


@pytest.mark.slow(covered_by="baselines/test_transmil.py::test_half_precision_in_company_is_as_near_to_fp32_as_alone")
def test_the_auc_of_a_trained_transmil_is_the_same_under_autocast():
    labels, scores = digits(("fp32", "bf16", "fp16"), train=200, val=50, test=150)
    assert stats.weighted_auc(labels, scores["fp32"]) > 0.8, "a model that learnt nothing tests nothing"
    for name in ("bf16", "fp16"):
        assert (scores[name] != scores["fp32"]).any(), "else this precision was not used"
        difference = stats.auc_difference(labels, scores[name], scores["fp32"])
        assert difference.low <= 0 <= difference.high
        assert abs(difference.estimate) < 0.01
