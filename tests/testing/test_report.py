"""The contract catches what it is meant to catch, and lets a good method pass."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.refusal import refused

from milbench.config import Card
from milbench.errors import MilbenchError
from milbench.testing import CHECKS, Case, ContractViolation, check_aggregator, run_check, run_checks
from milbench.testing import checks as contract

_spec = importlib.util.spec_from_file_location(
    "broken_methods", Path(__file__).parents[1] / "support" / "broken_methods.py"
)
methods = importlib.util.module_from_spec(_spec)
sys.modules["broken_methods"] = methods  # get_type_hints resolves the module of a class by name
_spec.loader.exec_module(methods)


@pytest.fixture(autouse=True)
def _one_thread():
    """Bags this small gain nothing from threads, and lose minutes to them when other processes want the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


NAMES = {check.__name__ for check in CHECKS}
SMALL = {"in_dim": 8, "n_classes": (2,)}


def test_a_good_method_keeps_it():
    report = check_aggregator(methods.Good, in_dim=16)
    assert {result.name for result in report} == NAMES
    assert not report.broken
    skipped = {result.name: result.detail for result in report if result.status == "skipped"}
    cuda = {} if torch.cuda.is_available() else {"cuda_agrees": "this machine has no CUDA device"}
    assert skipped == cuda | {
        "stacked_as_declared": "the method is not declared stackable",
        "after_step_trains_nothing": "the method defines no after_step",
    }


@pytest.mark.filterwarnings("ignore:std")
@pytest.mark.parametrize(("cls", "check"), methods.BROKEN, ids=lambda v: getattr(v, "__name__", v))
def test_a_broken_method_is_caught_by_the_check_meant_for_it(cls, check):
    with pytest.raises(ContractViolation) as violation:
        check_aggregator(cls, **SMALL)
    broken = {result.name for result in violation.value.report.broken}
    assert check in broken
    assert all(name in str(violation.value) for name in broken), "every broken check is listed"


@pytest.mark.parametrize("cls", [
    methods.NoCitation, methods.UntypedParameter, methods.SigmoidOfEach, methods.AttentionNotRequested,
    methods.AttentionChangesLogits, methods.UnusedParameter, methods.ParameterTimesZero, methods.BatchNorm,
    methods.LaterRowsCountMore, methods.SaysOrderMatters, methods.LargestIsOne, methods.SortedAttention,
    methods.StacksTheFirstScale,
    methods.OwnRandomnessInTraining, methods.AnotherPathWithoutGradients, methods.LossInBf16, methods.SummedLoss,
    methods.AnyWidth, methods.SwallowsNan,
])  # fmt: skip
def test_and_by_no_other(cls):
    (check,) = [check for broken, check in methods.BROKEN if broken is cls]
    also = {"attention_in_row_order"} if cls is methods.LaterRowsCountMore else set()
    assert {result.name for result in run_checks(cls, **SMALL).broken} - also == {check}


def test_every_check_has_a_method_that_breaks_it():
    assert NAMES - {check for _, check in methods.BROKEN} == {"cuda_agrees", "empty_bag_is_refused"}


def test_an_accepted_empty_bag_is_caught(monkeypatch):
    class Lax(contract.Bags):
        pack = classmethod(lambda cls, xs, coords=None: contract.join([cls(x, [len(x)]) for x in xs if len(x)]))

    monkeypatch.setattr(contract, "Bags", Lax)
    result = run_check(contract.empty_bag_is_refused, Case(contract_method(methods.Good), 8, 2))
    assert result.status == "broken"


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_another_answer_on_cuda_is_caught():
    class OnCuda(methods.Good):
        """Another answer on CUDA."""

        def classify(self, z, bags):
            return self.head(z) + (0.1 if z.is_cuda else 0.0)

    assert [result.name for result in run_checks(OnCuda, **SMALL).broken] == ["cuda_agrees"]


def contract_method(cls):
    from milbench.registry import Method

    return Method(cls.__name__, cls, {})


def test_the_message_says_what_was_measured():
    report = run_checks(methods.SummedLoss, **SMALL)
    detail = report["loss_is_the_mean"].detail
    assert "differs by 3.0e+00" in detail, "a sum over 4 bags is 3 times the mean too much"
    assert "tolerance 1e-04" in detail
    assert "learning rate" in detail
    assert report["loss_is_the_mean"].clause.startswith("The loss of a batch is the mean")


def test_a_crash_is_a_broken_check_not_a_traceback():
    assert "IndexError: index 7" in run_checks(methods.Crashes, **SMALL)["output_shapes"].detail


def test_numbers_of_classes_are_reported_apart():
    class ThreeOnly(methods.Good):
        """Wrong for three classes."""

        def classify(self, z, bags):
            return self.head(z)[:, :2]

    report = run_checks(ThreeOnly, in_dim=8, n_classes=(2, 3))
    assert report["output_shapes"].detail.startswith("[3 classes] logits have shape (5, 2)")


def test_a_method_that_says_it_needs_coordinates_may():
    class NeedsCoordinates(methods.Good):
        """Says so."""

        def pool(self, bags, attention):
            if bags.coords is None:
                raise MilbenchError("this method needs coordinates; build the cache with them.")
            return super().pool(bags, attention)

    check_aggregator(NeedsCoordinates, **SMALL)


def test_a_method_without_attention_and_embedding_passes():
    class Plain(methods.Good):
        """No attention."""

        card = Card(title="Plain", family="iid", citation="Nobody.")

        def pool(self, bags, attention):
            out = super().pool(bags, False)
            return type(out)(out.logits[:, 1:] - out.logits[:, :1] if self.n_classes == 2 else out.logits)

    report = check_aggregator(Plain, in_dim=8)
    assert report["attention_normalised"].status == "skipped"


def test_the_random_state_is_left_alone():
    torch.manual_seed(11)
    want = torch.rand(3)
    torch.manual_seed(11)
    run_checks(methods.Good, **SMALL)
    assert torch.equal(torch.rand(3), want)


def test_wrong_questions_are_user_errors():
    with refused("option-bad-value", "n_classes", "(1,)"):
        check_aggregator(methods.Good, n_classes=(1,))
    with refused("method-unknown", "'no_such_method'"):
        check_aggregator("no_such_method")


@pytest.mark.parametrize(("source", "code", "words"), [
    ("Good", 0, "ok"), ("SummedLoss", 1, "BROKEN"),
])  # fmt: skip
def test_command_line_checks_a_file_beside_the_user(tmp_path, source, code, words):
    (tmp_path / "my_pool.py").write_text((Path(__file__).parents[1] / "support" / "broken_methods.py").read_text())
    run = subprocess.run([sys.executable, "-c", "from milbench.cli import main; main()", "check", f"my_pool:{source}"],
                         cwd=tmp_path, capture_output=True, text=True, timeout=300)  # fmt: skip
    assert run.returncode == code, run.stderr
    line = next(line for line in run.stdout.splitlines() if line.startswith("loss_is_the_mean"))
    assert words in line
    assert len([line for line in run.stdout.splitlines() if not line.startswith("note: ")]) == len(CHECKS)
    assert "Traceback" not in run.stderr
