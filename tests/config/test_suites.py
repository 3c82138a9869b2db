"""Suite files: the built-in ones, and what is wrong with others, said in one sentence."""

import os

import pytest
from support.refusal import refused

from milbench.config import Suite
from milbench.config.suites import list_suites, load_suite
from milbench.registry import resolve

GOOD = """
methods = ["mean"]
[[data]]
name = "d"
dataset = "digits-bags"
"""


@pytest.mark.parametrize("name", list_suites())
def test_every_built_in_suite_loads_and_its_methods_exist(name):
    suite = load_suite(name)
    assert isinstance(suite, Suite)
    assert suite.name == name
    assert suite.description
    assert len({resolve(method).canonical for method in suite.methods}) == len(suite.methods)


def test_the_quickstart_is_what_it_promises():
    suite = load_suite("quickstart")
    names = {"mean", "max", "max_instance", "abmil", "abmil[gated=true]", "dsmil", "clam_sb", "transmil"}
    assert names <= set(suite.methods)
    assert {data.dataset for data in suite.data} == {"digits-bags", "arrangement"}
    assert suite.seeds >= 3


def test_a_file_is_named_by_itself_and_starts_at_its_folder(tmp_path):
    (tmp_path / "mine.toml").write_text(GOOD)
    suite = load_suite(tmp_path / "mine.toml")
    assert (suite.name, suite.base, suite.version) == ("mine", tmp_path, 1)
    assert suite == load_suite(str(tmp_path / "mine.toml"))
    assert "base" not in suite.model_dump()


@pytest.mark.parametrize(
    ("name", "refusal"),
    [
        ("quickstrat", ("suite-unknown", "'quickstrat'", "'quickstart'")),
        ("nothing-like-it", ("suite-unknown", "'nothing-like-it'", ".toml")),
        ("no/such.toml", ("suite-unknown", "no/such.toml")),
    ],
)
def test_unknown_suites(name, refusal):
    with refused(*refusal):
        load_suite(name)


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("methods = [", ("config-invalid",)),
        (GOOD.replace("methods", "method"), ("suite-unknown-field", "'methods'")),
        ("method = ['mean']" + GOOD, ("suite-unknown-field", "'methods'")),
        (GOOD.replace('["mean"]', "[]"), ("suite-bad-value", "methods")),
        (GOOD + 'datset = "x"', ("suite-unknown-field", "data.0.datset", "'dataset'")),
        (GOOD + "[data.split]\nfold = 3", ("suite-unknown-field", "data.0.split.fold", "'folds'")),
        (GOOD + '[protocol]\nkeep_models = "best"', ("suite-unknown-field", "protocol.keep_models")),
        (GOOD + "folds = 3", ("suite-unknown-field", "data.0.folds", "[data.split]")),
        ("lr = 1.0\n" + GOOD, ("suite-unknown-field", "lr", "[recipe]")),
        (GOOD + '[protocol]\nmemory = "2 GB"', ("suite-unknown-field", "protocol.memory", "[budget]")),
        (GOOD + "[data.split]\nfolds = 1", ("suite-bad-value", "data.0.split.folds", "2")),
        (GOOD + '[protocol]\ncheckpont = "last"', ("suite-unknown-field", "protocol.checkpont", "'checkpoint'")),
        (
            GOOD + '[protocol]\ncheckpoint = "best"',
            ("suite-bad-value", "protocol.checkpoint", "'last'", "'best-val'", "'oracle'"),
        ),
        (
            GOOD + '[budget]\ntrials = 3\n[tuning]\nsamplr = "tpe"',
            ("suite-unknown-field", "tuning.samplr", "'sampler'"),
        ),
        (
            GOOD + "[budget]\ntrials = 3\n[tuning.space.lr]\nlow = 1\nhgih = 2",
            ("suite-unknown-field", "tuning.space.lr"),
        ),
        (GOOD + "[budget]\ntimeuot = 3", ("suite-unknown-field", "budget.timeuot", "'timeout_s'")),
        (GOOD + "[budget]\ntimeout_s = 0", ("suite-bad-value", "timeout_s", "'90 s'")),
        (GOOD + 'cache = "c"', ("suite-bad-value",)),
        (GOOD + 'format = "clam"', ("suite-bad-value",)),
        (GOOD + GOOD.split("\n", 2)[2], ("suite-bad-value",)),
        ('methods = ["mean"]', ("suite-missing-field", "data")),
        ('base = "/"' + GOOD, ("suite-unknown-field",)),
        ("seeds = 0" + GOOD, ("suite-bad-value", "seeds", "1")),
        ("recipe = 3" + GOOD, ("suite-bad-value", "recipe")),
    ],
)
def test_a_bad_file_is_reported_in_one_sentence(tmp_path, text, refusal):
    file = tmp_path / "s.toml"
    file.write_text(text)
    with refused(*refusal) as caught:
        load_suite(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value).split("is not valid")[0]


def test_what_cannot_be_read(tmp_path):
    (tmp_path / "latin.toml").write_bytes(b'name = "\xe9"')
    with refused("config-invalid"):
        load_suite(tmp_path / "latin.toml")
    (tmp_path / "folder.toml").mkdir()
    with refused("path-wrong-kind", "folder.toml"):
        load_suite(tmp_path / "folder.toml")
    (tmp_path / "closed.toml").write_text(GOOD)
    (tmp_path / "closed.toml").chmod(0)
    if not os.access(tmp_path / "closed.toml", os.R_OK):
        with refused("file-unreadable", "closed.toml"):
            load_suite(tmp_path / "closed.toml")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_suite_as_windows_editors_write_it(tmp_path, encoding, newline):
    text = GOOD + 'note = "Charité"\n'
    (tmp_path / "mine.toml").write_bytes(text.replace("\n", newline).encode(encoding))
    assert load_suite(tmp_path / "mine.toml").data[0].note == "Charité"


def test_a_suite_in_another_encoding_says_which_it_has_to_be(tmp_path):
    (tmp_path / "mine.toml").write_bytes((GOOD + 'note = "Charité"\n').encode("cp1252"))
    with refused("config-invalid", "mine.toml"):
        load_suite(tmp_path / "mine.toml")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_suite_that_is_no_file_is_not_said_to_be_absent(tmp_path):
    os.mkfifo(tmp_path / "pipe.toml")
    (tmp_path / "folder.toml").mkdir()
    for name in ("pipe.toml", "folder.toml"):
        with refused("path-wrong-kind", name) as caught:
            load_suite(tmp_path / name)
        assert "does not exist" not in str(caught.value)
