"""What a method's identity covers: edits of the files it is made of change its code, and of no others."""

import hashlib
import re
import sys
import textwrap
import zipfile

import pytest

from milbench.config.method_sources import sources_of
from milbench.registry import resolve

POOL = '''
from torch import nn
from milbench import Aggregator, BagOutput, Card
{imports}

class Pool({base}):
    """Mean."""
    card = Card(title="Pool", family="iid", citation="x")

    def __init__(self, in_dim: int, n_classes: int) -> None:
        super().__init__(in_dim, n_classes)
        self.head = nn.Linear(in_dim, n_classes)

    def pool(self, bags, attention):
        {body}
        return BagOutput(self.head(bags.x[: len(bags)]))
'''


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write files below a folder that is importable; forget their modules afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def write(files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))
        return tmp_path

    yield write
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def pool(imports="", base="Aggregator", body="pass"):
    return POOL.format(imports=imports, base=base, body=body)


def code(name):
    return resolve(name).code


PROJECTS = {
    "a helper in the same folder": ({"p1.py": pool("import h1"), "h1.py": "x = 1\n"}, "p1:Pool", ["h1.py"]),
    "a helper's helper": ({"p2.py": pool("from h2 import x"), "h2.py": "from k2 import x\n", "k2.py": "x = 1\n"},
                          "p2:Pool", ["h2.py", "k2.py"]),
    "a base class": ({"p3.py": pool("from b3 import Base", "Base"),
                      "b3.py": "from milbench import Aggregator\nclass Base(Aggregator):\n    x = 1\n"},
                     "p3:Pool", ["b3.py"]),
    "a relative import": ({"q4/__init__.py": "", "q4/p.py": pool("from .h import x"), "q4/h.py": "x = 1\n"},
                          "q4.p:Pool", ["q4/h.py"]),
    "a submodule by name": ({"q5/__init__.py": "", "q5/p.py": pool("from . import h"), "q5/h.py": "x = 1\n"},
                            "q5.p:Pool", ["q5/h.py"]),
    "two levels up": ({"q6/__init__.py": "", "q6/a/__init__.py": "", "q6/a/p.py": pool("from ..b.h import x"),
                       "q6/b/__init__.py": "", "q6/b/h.py": "x = 1\n"}, "q6.a.p:Pool", ["q6/b/h.py"]),
    "a constant of its package": ({"q7/__init__.py": "SIZE = 1\n", "q7/p.py": pool("from . import SIZE")},
                                  "q7.p:Pool", ["q7/__init__.py"]),
    "an import in a function": ({"p8.py": pool(body="import h8"), "h8.py": "x = 1\n"}, "p8:Pool", ["h8.py"]),
    "an import by name": ({"p9.py": pool("import importlib", body='importlib.import_module("h9")'), "h9.py": "x = 1\n"},
                          "p9:Pool", ["h9.py"]),
    "a star": ({"p10.py": pool("from h10 import *"), "h10.py": "x = 1\n"}, "p10:Pool", ["h10.py"]),
    "another package of the project": ({"p11.py": pool("from lib11.h import x"), "lib11/__init__.py": "",
                                        "lib11/h.py": "x = 1\n"}, "p11:Pool", ["lib11/h.py"]),
    "a namespace package": ({"p12.py": pool("from lib12.h import x"), "lib12/h.py": "x = 1\n"},
                            "p12:Pool", ["lib12/h.py"]),
    "a package resource": ({"q13/__init__.py": "", "q13/w.json": "1", "q13/p.py": pool(
        "from importlib.resources import files", body='files("q13").joinpath("w.json")')},
        "q13.p:Pool", ["q13/w.json"]),
    "pkgutil": ({"q14/__init__.py": "", "q14/data/w.bin": "1", "q14/p.py": pool(
        "import pkgutil", body='pkgutil.get_data("q14", "data/w.bin")')}, "q14.p:Pool", ["q14/data/w.bin"]),
    "a file in the folder of the source": ({"p15.py": pool("from pathlib import Path",
                                                 body='Path(__file__).with_name("w15.csv").read_text()'),
                                  "w15.csv": "1"}, "p15:Pool", ["w15.csv"]),
    "a folder next to that of the source": ({"p16.py": pool("from pathlib import Path",
                                                   body='(Path(__file__).parents[1] / "d16" / "w.csv").read_text()'),
                                    "d16/w.csv": "1"}, "p16:Pool", ["d16/w.csv"]),
    "a file whose name is made": ({"p17.py": pool("from pathlib import Path",
                                                  body='k = 1; Path(__file__).with_name(f"w17-{k}.csv")'),
                                   "w17-1.csv": "1"}, "p17:Pool", ["w17-1.csv"]),
    "a resource of a helper": ({"p18.py": pool("from q18 import h"), "q18/__init__.py": "", "q18/t.txt": "1",
                                "q18/h.py": "from pathlib import Path\nx = Path(__file__).with_name('t.txt')\n"},
                               "p18:Pool", ["q18/h.py", "q18/t.txt"]),
    "an import by a renamed function": ({"p40.py": pool("from importlib import import_module as load",
                                                        body='load("h40")'), "h40.py": "x = 1\n"},
                                        "p40:Pool", ["h40.py"]),
    "an import by a function of another name": ({"p41.py": pool("import importlib\nload = importlib.import_module",
                                                                body='load("h41")'), "h41.py": "x = 1\n"},
                                                "p41:Pool", ["h41.py"]),
    "a package of an imported submodule": ({"p42.py": pool("import h42"), "h42.py": "import q42.a\nx = q42.SIZE\n",
                                        "q42/__init__.py": "SIZE = 1\n", "q42/a.py": "y = 1\n"},
                                       "p42:Pool", ["h42.py", "q42/__init__.py", "q42/a.py"]),
    "a star that imports submodules": ({"p43.py": pool("import h43"), "h43.py": "from q43 import *\nx = a.y\n",
                                        "q43/__init__.py": "__all__ = ['a']\n", "q43/a.py": "y = 1\n"},
                                       "p43:Pool", ["h43.py", "q43/__init__.py", "q43/a.py"]),
    "a resource of another package of it": ({"q46/__init__.py": "", "q46/data/w.json": "1", "q46/m/__init__.py": "",
        "q46/m/p.py": pool("from importlib.resources import files",
                           body='files("q46.data").joinpath("w.json").read_text()')},
        "q46.m.p:Pool", ["q46/data/w.json"]),
    "a file above the source": ({"q47/__init__.py": "", "q47/data/w.json": "1", "q47/m/__init__.py": "",
        "q47/m/p.py": pool("from pathlib import Path\nROOT = Path(__file__).parents[2]",
                           body='(ROOT / "data" / "w.json").read_text()')}, "q47.m.p:Pool", ["q47/data/w.json"]),
    "a file whose place another source says": ({"q48/__init__.py": "from pathlib import Path\nROOT = Path(__file__)\n",
        "q48/w.json": "1", "q48/p.py": pool("from q48 import ROOT", body='ROOT.with_name("w.json").read_text()')},
        "q48.p:Pool", ["q48/__init__.py", "q48/w.json"]),
    "an import by name relative to a package": ({"p49.py": pool("import importlib",
        body='importlib.import_module(".h", "q49")'), "q49/__init__.py": "", "q49/h.py": "x = 1\n"},
        "p49:Pool", ["q49/h.py"]),
    "a helper named as a module of the standard library": (
        {"p44.py": pool("from sndhdr import x"), "sndhdr.py": "x = 1\n"}, "p44:Pool", ["sndhdr.py"]),
}  # fmt: skip


@pytest.mark.parametrize("project", PROJECTS)
def test_an_edit_of_whatever_a_method_is_made_of_changes_its_code(write, project):
    files, name, parts = PROJECTS[project]
    main = name.partition(":")[0].replace(".", "/") + ".py"
    root = write(files | {"unrelated.py": "x = 1\n", "unrelated.csv": "1", "q4/other.py": "x = 1\n"})
    codes = {code(name)}
    for part in [main, *parts]:
        (root / part).write_text((root / part).read_text() + "\n\n")
        codes.add(code(name))
    assert len(codes) == 2 + len(parts), "every edit gives another code"
    last = code(name)
    for other in ("unrelated.py", "unrelated.csv", "q4/other.py"):
        (root / other).write_text("y = 2\n")
    assert code(name) == last


@pytest.mark.parametrize(
    "reads",
    ['Path("w30.json").read_text()', 'Path("w30.json").read_bytes()', 'open("w30.json")',
     'with open("w30.json") as f: json.load(f)', 'Path("w30.json").open("rb")',
     'numpy.memmap("w30.json", dtype="u1")',
         'safe_open("w30.json", "pt")', 'torch.load(open("w30.json", mode="rb"))',
         'from numpy import load as take; take("w30.json")', 'ctypes.CDLL("w30.json")',
         'ConfigParser().read("w30.json")', 'torch.ops.load_library("w30.json")'],
)  # fmt: skip
def test_a_file_opened_by_a_path_from_the_working_folder_is_part_of_the_code(write, monkeypatch, reads):
    name = f"p30{abs(hash(reads)) % 10**6}"
    root = write({f"{name}.py": pool(body=reads), "w30.json": "1", "other30.json": "1"})
    alone = hashlib.sha256((root / f"{name}.py").read_bytes()).hexdigest()[:16]
    assert code(f"{name}:Pool") == alone  # from elsewhere there is no such file
    monkeypatch.chdir(root)
    first = code(f"{name}:Pool")
    assert first != alone
    assert sources_of(resolve(f"{name}:Pool").cls).notes == ()
    (root / "other30.json").write_text("22")
    assert code(f"{name}:Pool") == first
    (root / "w30.json").write_text("22")
    assert code(f"{name}:Pool") != first


@pytest.mark.parametrize(
    "body",
    ['open("log31.txt", "a").write("x")', 'Path("log31.txt").open(mode="w")', 'Path("log31.txt").write_text("x")',
     'torch.load("log31.txt"); torch.save(1, "log31.txt")'],
)  # fmt: skip
def test_a_file_that_a_method_writes_is_no_part_of_its_code(write, monkeypatch, body):
    name = f"p31{abs(hash(body)) % 10**6}"
    root = write({f"{name}.py": pool(body=body), "log31.txt": "1"})
    monkeypatch.chdir(root)
    assert sources_of(resolve(f"{name}:Pool").cls).further == {}


@pytest.mark.parametrize(
    ("opens", "known"),
    [
        ("(HERE / NAME).read_bytes()", False), ('safe_open(HERE / NAME, "pt")', False),
        ("numpy.memmap(HERE / NAME)", False),
        ('(HERE / "w32.json").read_bytes()', True), ("(HERE / GOOD).read_text()", True), ("open(self.path)", True),
        ("h5py.File(HERE / GOOD)", True),
    ],
)  # fmt: skip
def test_a_file_of_a_computed_name_is_said_whatever_else_the_source_names(write, opens, known):
    name = f"p32{abs(hash(opens)) % 10**6}"
    place = 'from pathlib import Path\nHERE = Path(__file__).parent\nNAME = "v" + "32.json"\n'
    place += 'GOOD = "w32.json"\nUNUSED = "other32.json"'
    files = {f"{name}.py": pool(place, body=f"self.path = HERE / GOOD; {opens}")}
    write(files | dict.fromkeys(("v32.json", "w32.json", "other32.json"), "1"))
    actual = sources_of(resolve(f"{name}:Pool").cls)
    assert "/v32.json" not in actual.further
    line = files[f"{name}.py"].splitlines().index(f"        self.path = HERE / GOOD; {opens}") + 1
    assert any(f"line {line} " in note for note in actual.notes) == (not known)


def test_a_single_file_has_the_code_it_always_had(write):
    root = write({"alone.py": pool(), "q20/__init__.py": "from . import one, two\n", "q20/one.py": pool(),
                  "q20/two.py": "x = 1\n"})  # fmt: skip
    for name, file in (("alone:Pool", "alone.py"), ("q20.one:Pool", "q20/one.py")):
        assert code(name) == hashlib.sha256((root / file).read_bytes()).hexdigest()[:16]
    before = code("q20.one:Pool")
    (root / "q20/two.py").write_text("x = 2\n")  # another method of the package
    assert code("q20.one:Pool") == before


def test_the_code_does_not_depend_on_the_folder(write, tmp_path, monkeypatch):
    files = {"q21/__init__.py": "", "q21/p.py": pool("from . import h\nfrom pathlib import Path",
             body='Path(__file__).with_name("w.json")'), "q21/h.py": "x = 1\n", "q21/w.json": "1"}  # fmt: skip
    write(files)
    first = code("q21.p:Pool")
    for name in [name for name in sys.modules if name.partition(".")[0] == "q21"]:
        del sys.modules[name]
    (tmp_path / "moved").mkdir()
    (tmp_path / "q21").rename(tmp_path / "moved" / "q21")
    monkeypatch.syspath_prepend(tmp_path / "moved")
    assert code("q21.p:Pool") == first
    assert "moved" in resolve("q21.p:Pool").cls.__init__.__code__.co_filename


def test_circles_of_imports_and_sources_that_are_none_end(write):
    write({"p22.py": pool("import h22"), "h22.py": "import k22\n", "k22.py": "import h22\nimport p22\n",
           "p23.py": pool("try:\n    import h23\nexcept SyntaxError:\n    pass"), "h23.py": "def (:\n"})  # fmt: skip
    assert len(code("p22:Pool")) == 16
    actual = sources_of(resolve("p23:Pool").cls)
    assert set(actual.further) == {"h23"}
    assert any("h23.py" in note for note in actual.notes)


@pytest.mark.parametrize(("body", "words"), [
    ("import importlib; importlib.import_module(self.name)", "import_module"),
    ("exec(self.text)", "exec"),
    ("open('/data/w.bin')", "opens a file"),
    ("__file__", "w"),
    ("from runpy import run_path as go; go(self.name)", "run_path"),
    ("SourceFileLoader('x', self.name).load_module()", "SourceFileLoader"),
    ("import os; os.environ['X']", "environment"),
    ("import os; os.environ.get('X')", "environment"),
    ("import os; os.getenv('X')", "environment"),
])  # fmt: skip
def test_what_cannot_be_known_is_said(write, body, words):
    name = f"p24{abs(hash(body)) % 10**6}"
    write({f"{name}.py": pool(body=body)})
    notes = sources_of(resolve(f"{name}:Pool").cls).notes
    assert any(words in note for note in notes)


def test_a_helper_in_an_archive_is_part_of_the_code(write, tmp_path, monkeypatch):
    write({"p45.py": pool("import h45")})
    archive = tmp_path / "lib45.zip"
    codes = []
    for text in ("x = 1\n", "x = 2\n"):
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("h45.py", text)
        monkeypatch.syspath_prepend(archive)
        codes.append(code("p45:Pool"))
    assert all(re.fullmatch("[0-9a-f]{16}", one) for one in codes)
    assert codes[0] != codes[1]


def test_a_plain_method_leaves_nothing_open(write):
    write({"p25.py": pool("import os", body="self.eval(); bags.x.sum(); os.environ.setdefault('X', '1')")})
    assert sources_of(resolve("p25:Pool").cls).notes == ()


def test_libraries_are_no_part_of_a_method(write):
    write({"p26.py": pool("import json, torch, numpy, pandas as pd, milbench.nn\nfrom scipy import stats")})
    assert sources_of(resolve("p26:Pool").cls).further == {}
