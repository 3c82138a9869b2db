"""Options of a method survive their own name: type -> text -> suite -> store -> comparison, and back."""

import enum
import json
import math
import sys
import tomllib
from typing import Annotated, Literal

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.refusal import refused

from milbench.aggregator import Aggregator
from milbench.config import Choice, digest
from milbench.config.method_key import find_method, spelling, split
from milbench.errors import MilbenchError
from milbench.registry import Method, resolve, unreadable


class Colour(enum.Enum):
    RED = "red"
    COMMA = "a,b"
    NONE = "none"


class Size(enum.IntEnum):
    SMALL = 1
    LARGE = 20


class Every(Aggregator):
    """One parameter of every type."""

    def __init__(self, in_dim: int, n_classes: int, *, text: str = "some", number: float = 0.5, count: int = 3,
                 flag: bool = False, kernel: Literal[3, 5, "pyramid", 2.5] = 5, either: int | str | None = None,
                 mixed: bool | int | float | str | None = None, widths: tuple[int, ...] = (),
                 pair: tuple[str, float] = ("a", 1.0), words: list[str] = ["x"], colour: Colour = Colour.RED,  # noqa: B006
                 size: Size = Size.SMALL, maybe: tuple[int, int] | None = None, several: tuple[int, ...] | str = "no",
                 table: dict[str, int] = {}, ratio: Annotated[float, pydantic.Field(ge=0)] = 1.0,  # noqa: B006
                 odd: Literal["none", "true", "1", "a,b", "[x]", " "] | None = None,
                 nested: tuple[tuple[int, str | None], ...] = ()) -> None:  # fmt: skip
        super().__init__(in_dim, n_classes)

    def pool(self, bags, attention):
        raise NotImplementedError


sys.modules["every_option"] = type(sys)("every_option")
sys.modules["every_option"].Every = Every
NAME = "every_option:Every"

texts = st.text(max_size=12) | st.sampled_from(
    ["", " ", "a,b", "a=b", "[x]", "]", "(1,2)", "'q'", '"', "none", "None", "true", "FALSE", "512", "1e-05", "nan",
     "ü", "\u200b", "a\nb", "\\", "é", "日本", "a'b\"c", "(", "{'a': 1}", " padded ", "A", "a"]
)  # fmt: skip
numbers = st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([1e-05, 1e300, -0.1, 5e-324])
whole = st.integers(-(2**70), 2**70)
VALUES = {
    "text": texts, "number": numbers, "count": whole, "flag": st.booleans(),
    "kernel": st.sampled_from([3, 5, "pyramid", 2.5]), "either": whole | texts | st.none(),
    "mixed": st.booleans() | whole | numbers | texts | st.none(), "widths": st.lists(whole, max_size=4).map(tuple),
    "pair": st.tuples(texts, numbers), "words": st.lists(texts, max_size=3), "colour": st.sampled_from(Colour),
    "size": st.sampled_from(Size), "maybe": st.none() | st.tuples(whole, whole),
    "several": st.lists(whole, max_size=3).map(tuple) | texts, "table": st.dictionaries(texts, whole, max_size=3),
    "ratio": numbers.map(abs), "odd": st.none() | st.sampled_from(["none", "true", "1", "a,b", "[x]", " "]),
    "nested": st.lists(st.tuples(whole, st.none() | texts), max_size=2).map(tuple),
}  # fmt: skip
options = st.fixed_dictionaries({}, optional=VALUES)


def identical(a, b):
    """Equal in value and type, containers too."""
    if isinstance(a, tuple | list):
        return type(a) is type(b) and len(a) == len(b) and all(map(identical, a, b))
    return type(a) is type(b) and a == b


@settings(max_examples=300, deadline=None)
@given(options)
def test_options_go_through_text_suite_and_store_and_back(values):
    method = Method(NAME, Every, {}).changed(values)
    again = resolve(method.canonical)
    assert again.params.keys() == method.params.keys()
    assert all(identical(again.params[name], value) for name, value in method.params.items())
    assert again.canonical == method.canonical
    in_suite = tomllib.loads(f"methods = [{json.dumps(method.canonical, ensure_ascii=False)}]")["methods"][0]
    assert in_suite == method.canonical
    stored = pydantic.TypeAdapter(dict).dump_python(method.options, mode="json")
    read = json.loads(json.dumps(stored))
    assert digest(read) == digest(pydantic.TypeAdapter(dict).dump_python(again.options, mode="json"))
    assert find_method(method.canonical, {"mean": {}, method.canonical: read}) == method.canonical


@settings(max_examples=150, deadline=None)
@given(options, st.randoms())
def test_any_order_and_every_default_spelled_out_is_the_same_method(values, random):
    method = Method(NAME, Every, {}).changed(values)
    other = Method(NAME, Every, {}).changed({"count": 99, "text": "else"})
    stored = json.loads(json.dumps(pydantic.TypeAdapter(dict).dump_python(method.options, mode="json")))
    of_other = json.loads(json.dumps(pydantic.TypeAdapter(dict).dump_python(other.options, mode="json")))
    pairs = [f"{key}={value}" for key, value in split(method.canonical)[1]]
    pairs += [d for d in ("count=3", "flag=false", "number=0.5", "either=none") if d.partition("=")[0] not in values]
    random.shuffle(pairs)
    text = f"{NAME}[{' , '.join(pairs)}]" if pairs else NAME
    assert resolve(text).canonical == method.canonical
    if method.canonical != other.canonical:
        assert find_method(text, {other.canonical: of_other, method.canonical: stored}) == method.canonical


@settings(max_examples=150, deadline=None)
@given(options, options)
def test_different_options_have_different_names(first, second):
    a, b = (Method(NAME, Every, {}).changed(v) for v in (first, second))
    same = a.params.keys() == b.params.keys() and all(identical(a.params[k], b.params[k]) for k in a.params)
    assert (a.canonical == b.canonical) == same


@pytest.mark.parametrize("text", [
    "number=nan", "number=inf", "ratio=-1", "kernel=4", "kernel='3'", "widths=(1,'a')", "widths=[1", "colour=blue",
    "flag=2", "count=1.5", "mixed=nan", "pair=('a',1e999)", "count=" + "9" * 5000, "widths=" + "(" * 5000,
])  # fmt: skip
def test_values_that_a_type_does_not_have_are_refused(text):
    with refused("method-bad-option"):
        resolve(f"{NAME}[{text}]")


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ab=,[](){}'\"\\ 1:.", max_size=30))
def test_no_text_ends_in_anything_but_a_refusal(body):
    try:
        method = resolve(f"{NAME}[{body}]")
    except MilbenchError:
        return
    assert resolve(method.canonical).canonical == method.canonical


@pytest.mark.parametrize(("name", "value", "reads"), [
    ("text", "a,b", True), ("widths", (1, 2), True), ("colour", Colour.COMMA, True), ("number", math.nan, False),
    ("text", object(), False), ("missing", 1, False), ("kernel", 7, False), ("words", {"a"}, False),
])  # fmt: skip
def test_a_value_of_a_search_space_is_known_to_reach_its_trial(name, value, reads):
    assert (unreadable(Method(NAME, Every, {}), name, value) is None) == reads


def test_a_search_refuses_options_that_no_trial_could_have(monkeypatch):
    from milbench.config import Tuning
    from milbench.runs.tuning.search import StudySpec

    monkeypatch.setattr(Every, "search_space", {"kernel": Choice(options=(3, 7))})
    search = StudySpec(None, Method(NAME, Every, {}), Tuning(), 3)
    with refused("tuning-bad-space", "kernel"):
        search.check()
    space = {"widths": Choice(options=((), (8, 4))), "text": Choice(options=("a,b",))}
    monkeypatch.setattr(Every, "search_space", space)
    search.check()


def test_spellings_differ_in_case_only_outside_quotes():
    assert spelling("M[B=True, a=1]") == spelling("m[a=1,b=true]")
    assert spelling("m[a='x,Y']") != spelling("m[a='x,y']")
    assert find_method("m[a='x']", ["m[a='X']", "m[a='x']"]) == "m[a='x']"


@pytest.mark.parametrize(("text", "actual"), [
    ("abmil[gated=false]", "abmil"), ("ABMIL [gated=FALSE, dropout=0]", "abmil"), ("abmil[embed_dim=none]", "abmil"),
    ("abmil[gated=true,dropout=0.0]", "abmil[gated=true]"), ("abmil[dropout=0.10]", None), ("abmil[nothing=1]", None),
])  # fmt: skip
def test_a_default_spelled_out_matches_stored_runs_without_importing_a_method(text, actual):
    stored = {"embed_dim": None, "gated": False, "dropout": 0.0}
    known = {"abmil": stored, "abmil[gated=true]": stored | {"gated": True}, "mean": {}}
    assert find_method(text, known) == actual
