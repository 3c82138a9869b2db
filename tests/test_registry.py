"""Names, parameters, and what happens to those that do not exist."""

import hashlib
import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest
from support.refusal import refused

import milbench
from milbench.errors import did_you_mean
from milbench.registry import Entry, Registry, parameters, resolve

METHOD = '''"""{name}: a method in one file."""
from typing import Literal

from torch import nn

from milbench import Aggregator, BagOutput, Card


class {cls}(Aggregator):
    """Mean."""

    card = Card(title="{cls}", family="iid", citation="Nobody.")

    def __init__(self, in_dim: int, n_classes: int, *, width: int | None = None, deep: bool = False,
                 kind: Literal["none", "some"] = "some", rate: float = 0.5):
        super().__init__(in_dim, n_classes)
        self.head = nn.Linear(in_dim, n_classes)
        self.given = (width, deep, kind, rate)

    def pool(self, bags, attention):
        return BagOutput(self.head(bags.x[: len(bags)]))
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A third-party package of two methods, one private module, and one that is none."""
    home = tmp_path / "strange_methods"
    home.mkdir()
    (home / "__init__.py").write_text("")
    (home / "alpha.py").write_text(METHOD.format(name="alpha", cls="Alpha"))
    (home / "beta.py").write_text(METHOD.format(name="beta", cls="Beta"))
    (home / "_shared.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    yield home
    for name in [name for name in sys.modules if name.startswith("strange_methods")]:
        del sys.modules[name]


def test_built_in_methods_are_listed_by_pattern():
    names = milbench.list_aggregators()
    assert names == sorted(names)
    assert {"abmil", "dsmil", "transmil"} <= set(milbench.list_aggregators("*mil*"))
    assert "mean" not in milbench.list_aggregators("*mil*")
    assert milbench.list_aggregators("clam_*") == ["clam_mb", "clam_sb"]
    assert milbench.list_aggregators("nothing*") == []


def test_a_package_enters_without_being_imported(package):
    registry = Registry()
    registry.add_entry_point(EntryPoint("strange", "strange_methods", "milbench.aggregators"))
    assert registry.names() == ["alpha", "beta"]
    assert registry["alpha"].summary() == "alpha: a method in one file."
    assert "strange_methods.alpha" not in sys.modules
    assert registry["alpha"].load().__name__ == "Alpha"


def test_a_class_enters_under_the_name_of_its_entry_point(package):
    registry = Registry()
    registry.add_entry_point(EntryPoint("gamma", "strange_methods.alpha:Alpha", "milbench.aggregators"))
    assert registry.names() == ["gamma"]
    assert registry["gamma"].load().__name__ == "Alpha"


def test_an_entry_point_to_nothing_is_named():
    with refused("method-malformed", "strange", "no_such_package_here"):
        Registry().add_entry_point(EntryPoint("strange", "no_such_package_here", "milbench.aggregators"))


def test_two_of_one_name_are_refused():
    registry = Registry()
    registry.add(Entry("alpha", "one.alpha"))
    registry.add(Entry("alpha", "one.alpha"))  # the same again is no conflict
    with refused("name-taken", "'alpha'", "one.alpha", "two.alpha"):
        registry.add(Entry("alpha", "two.alpha"))


@pytest.mark.parametrize("name", ["Alpha", "my-pool", "a b", "", "1st"])
def test_names_are_plain(name):
    with refused("method-malformed"):
        Registry().add(Entry(name, "module"))


def test_a_file_must_define_one_method(package):
    (package / "beta.py").write_text("import milbench\n")
    with refused("method-malformed", "0"):
        Entry("beta", "strange_methods.beta").load()


def test_a_method_that_cannot_be_imported_says_why(package):
    (package / "beta.py").write_text("import no_such_library_here\n")
    with refused("method-not-importable", "no_such_library_here"):
        Entry("beta", "strange_methods.beta").load()


@pytest.mark.parametrize("text", ["strange_methods.alpha:nn"])
def test_what_is_no_aggregator_is_refused(package, text):
    with refused("method-malformed", "milbench.Aggregator"):
        resolve(text)


def test_unknown_names_get_a_hint():
    with refused("method-unknown", "'transmil'"):
        milbench.create("transmill", in_dim=4)
    with refused("method-unknown", "'zzzz'"):
        resolve("zzzz")
    assert did_you_mean("x", []) == ""


ALPHA = "strange_methods.alpha:Alpha"


@pytest.mark.parametrize(("body", "params", "canonical"), [
    ("", {}, ""),
    ("[]", {}, ""),
    ("[width=8]", {"width": 8}, "[width=8]"),
    ("[width=none]", {}, ""),
    ("[kind=none]", {"kind": "none"}, "[kind=none]"),
    ("[deep=TRUE]", {"deep": True}, "[deep=true]"),
    ("[deep=false]", {}, ""),
    (" [ width = 8 , deep = true ] ", {"width": 8, "deep": True}, "[deep=true,width=8]"),
    ("[rate=1e-3]", {"rate": 1e-3}, "[rate=0.001]"),
    ("[rate=0.50]", {}, ""),
])  # fmt: skip
def test_parameters_are_read_by_type_and_spelled_one_way(package, body, params, canonical):
    method = resolve(ALPHA + body)
    assert method.params == params
    assert method.canonical == ALPHA + canonical
    assert resolve(method.canonical) == method
    given = dict(zip(("width", "deep", "kind", "rate"), method.create(4, 2).given, strict=True))
    assert given == {"width": None, "deep": False, "kind": "some", "rate": 0.5, **params}


@pytest.mark.parametrize(("body", "refusal"), [
    ("[depth=2]", ("method-unknown-option", "'depth'", "'deep'")),
    ("[width=wide]", ("method-bad-option", "[width=wide]")),
    ("[kind=many]", ("method-bad-option", "'none'", "'some'", "[kind=many]")),
    ("[width]", ("method-bad-option", "'width'")),
    ("[width=]", ("method-bad-option",)),
    ("[width=1,width=2]", ("method-bad-option",)),
    ("[in_dim=3]", ("method-unknown-option", "'in_dim'")),
    ("[width=8", ("method-bad-option",)),
])  # fmt: skip
def test_wrong_parameters_are_named(package, body, refusal):
    with refused(*refusal):
        resolve(ALPHA + body)


def test_parameters_of_a_method(package):
    actual = parameters(resolve(ALPHA).cls)
    assert list(actual) == ["width", "deep", "kind", "rate"]
    assert actual["width"] == (int | None, None)


def test_sizes_that_make_no_model():
    with refused("method-bad-option", "in_dim", "1"):
        milbench.create("mean", in_dim=0)
    with refused("method-bad-option", "2"):
        milbench.create("mean", in_dim=4, n_classes=1)


def test_listing_imports_no_torch():
    code = (
        "import sys, milbench; from milbench.registry import registry; names = milbench.list_aggregators();"
        "[registry()[n].summary() for n in names]; print(len(names), 'torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    count, torch = run.stdout.split()
    assert int(count) >= 8
    assert torch == "False"


def test_an_edited_method_is_another_run(tmp_path, monkeypatch):
    """A third-party class is identified by its source and its name; milbench's own by their revision."""
    source = tmp_path / "edited_pool.py"
    text = (
        "from milbench import Aggregator\n"
        "class Pool(Aggregator):\n    def __init__(self, in_dim, n_classes, *, width: float = 1.5):\n"
        "        super().__init__(in_dim, n_classes)\n    def pool(self, bags, attention):\n        return None\n"
    )
    source.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    before = resolve("edited_pool:Pool")
    code = before.code
    source.write_text(text + "# edited\n")
    assert resolve("edited_pool:Pool").code != code == hashlib.sha256(text.encode()).hexdigest()[:16]
    assert resolve("mean").code == ""
    monkeypatch.setattr(resolve("mean").cls, "revision", 2)
    assert resolve("mean").code == "revision 2"
    text = "from milbench.baselines.mean import MeanPooling\nclass Mine(MeanPooling):\n    pass\n"
    (tmp_path / "mine_pool.py").write_text(text)
    assert resolve("mine_pool:Mine").code == hashlib.sha256((text + "revision 2").encode()).hexdigest()[:16]
    assert before.params == {}
    assert before.options == {"width": 1.5}  # a changed default changes the run, though the short name stays


def test_numbers_have_one_spelling_and_are_finite():
    assert (
        resolve("abmil[embed_dim=0512]").canonical
        == resolve("abmil[embed_dim=512]").canonical
        == "abmil[embed_dim=512]"
    )
    assert resolve("abmil[embed_dim=256-128]").params == {"embed_dim": "256-128"}
    with refused("method-bad-option"):
        resolve("clam_sb[dropout=nan]")


def test_a_class_that_is_not_there_is_named():
    with refused("method-malformed", "milbench.baselines.abmil", "'ABMILL'", "'ABMIL'"):
        resolve("milbench.baselines.abmil:ABMILL")


def test_a_half_written_file_does_not_hide_the_others(tmp_path, monkeypatch):
    (tmp_path / "half_written.py").write_text("def (")
    (tmp_path / "class_only.py").write_text('class Pool:\n    """Pools by class."""\n')
    monkeypatch.syspath_prepend(tmp_path)
    assert Entry("half", "half_written").summary() == "cannot be read: SyntaxError in half_written.py"
    assert Entry("only", "class_only").summary() == "Pools by class."


# --- two names of one class ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", milbench.list_aggregators())
def test_a_registered_class_has_one_name_however_it_is_given(name):
    cls = resolve(name).cls
    spelled = resolve(f"{cls.__module__}:{cls.__qualname__}")
    assert spelled == resolve(name)
    assert (spelled.canonical, spelled.code, spelled.options) == (
        resolve(name).canonical, resolve(name).code, resolve(name).options,
    )  # fmt: skip


def test_parameters_are_those_of_the_registered_name():
    cls = resolve("abmil").cls
    assert resolve(f"{cls.__module__}:{cls.__qualname__}[gated=true]").canonical == "abmil[gated=true]"
    assert resolve(f"{cls.__module__}:{cls.__qualname__}[gated=true]").changed({"gated": False}).canonical == "abmil"


def test_the_class_of_a_registered_file_under_another_modules_name_is_the_same(monkeypatch):
    """The folder of the methods is importable by itself in a checkout: baselines.abmil is milbench.baselines.abmil."""
    from pathlib import Path

    import milbench.baselines.abmil as registered

    monkeypatch.syspath_prepend(str(Path(registered.__file__).parents[1]))
    cls = resolve("abmil").cls
    assert resolve(f"{Path(registered.__file__).parent.name}.abmil:{cls.__qualname__}") == resolve("abmil")


def test_a_third_party_class_keeps_its_own_name_and_a_registered_one_of_its_package_does_not(package, monkeypatch):
    from milbench import registry as module

    known = Registry()
    known.add_entry_point(EntryPoint("alpha_pool", "strange_methods.alpha:Alpha", module.GROUP))
    monkeypatch.setattr(module, "registry", lambda: known)
    assert resolve("strange_methods.alpha:Alpha[deep=true]").canonical == "alpha_pool[deep=true]"
    assert resolve("strange_methods.beta:Beta").canonical == "strange_methods.beta:Beta"
    (package / "__init__.py").write_text("from .alpha import Alpha\n")
    del sys.modules["strange_methods"]
    assert resolve("strange_methods:Alpha").canonical == "alpha_pool"
