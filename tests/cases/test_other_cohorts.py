"""Models that a suite keeps, applied to slides of another cohort; stored predictions as one table."""

import json
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from sklearn.metrics import roc_auc_score
from support.refusal import refused
from typer.testing import CliRunner

import milbench
from milbench import stats
from milbench.cli import app
from milbench.errors import MilbenchError
from milbench.inference.labelled import SlideLabels, score_lines, with_labels
from milbench.inference.prediction import kept_models, predict_slides, stored_predictions, trained_on
from milbench.runs.execute import run
from milbench.runs.plan import make_plan
from milbench.runs.records import MODEL, read_runs
from milbench.training.saved_model import load_model

SUITE = """
name = "s"
methods = ["mean", "abmil"]
cost = false
{keep}
[recipe]
epochs = 2
lr = 1e-2
[protocol]
standardize = true
[[data]]
name = "A"
features = "A/f"
labels = "A/l.csv"
split = {{ folds = 3, val_fraction = 0.2 }}
"""


def make(folder, n, seed, dim=8, slide="s", patient="p"):
    rng = np.random.default_rng(seed)
    (folder / "f").mkdir(parents=True)
    rows = ["slide_id,patient_id,label"]
    for i in range(n):
        x = rng.normal(size=(6, dim)).astype(np.float32)
        x[:2, i % 2] += 3
        np.save(folder / "f" / f"{slide}{i:03d}.npy", x)
        rows.append(f"{slide}{i:03d},{patient}{i:03d},{['neg', 'pos'][i % 2]}")
    (folder / "l.csv").write_text("\n".join(rows))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    make(folder / "A", 30, 1)
    make(folder / "B", 12, 2, slide="b", patient="q")
    make(folder / "narrow", 4, 2, dim=5)
    (folder / "s.toml").write_text(SUITE.format(keep='keep_models = "best"'))
    run(folder / "s.toml", folder / "r", jobs=1)
    return folder


def invoke(*words):
    result = CliRunner().invoke(app, [str(word) for word in words])
    if isinstance(result.exception, MilbenchError):
        return 1, str(result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def test_keeping_models_is_no_part_of_a_run(study, tmp_path):
    for name in ("A",):
        os.symlink(study / name, tmp_path / name)
    (tmp_path / "s.toml").write_text(SUITE.format(keep=""))
    without = {r.spec.run_id: r for r in run(tmp_path / "s.toml", tmp_path / "r", methods=["mean"], jobs=1)}
    kept = {r.spec.run_id: r for r in read_runs(study / "r") if r.method == "mean"}
    assert set(without) == set(kept)
    for run_id, record in kept.items():
        assert (record.path / MODEL).is_file()
        assert not (without[run_id].path / MODEL).exists()
        pd.testing.assert_frame_equal(record.predictions(), without[run_id].predictions(), check_exact=True)


def test_models_can_be_had_later_with_the_same_bits(study, tmp_path):
    os.symlink(study / "A", tmp_path / "A")
    suite = tmp_path / "s.toml"
    suite.write_text(SUITE.format(keep=""))
    before = run(suite, tmp_path / "r", methods=["mean"], jobs=1)
    with refused("models-not-kept", "keep_models"):
        run(suite, tmp_path / "r", methods=["mean"], jobs=1, overwrite="missing-models")
    with refused("models-not-kept"):
        kept_models(tmp_path / "r", "s", "mean")
    suite.write_text(SUITE.format(keep='keep_models = "best"'))
    after = run(suite, tmp_path / "r", methods=["mean"], jobs=1, overwrite="missing-models")
    for old, new in zip(before, after, strict=True):
        assert (new.path / MODEL).is_file()
        assert old.spec.run_id == new.spec.run_id
    assert len(kept_models(tmp_path / "r", "s", "mean")) == 3


def test_other_predictions_are_refused_unless_everything_is_made_anew(study, tmp_path):
    os.symlink(study / "A", tmp_path / "A")
    suite = tmp_path / "s.toml"
    suite.write_text(SUITE.format(keep='keep_models = "best"'))
    for record in run(suite, tmp_path / "r", methods=["mean"], jobs=1):
        # As a run of another machine, which kept no model.
        content = {key: value for key, value in record.record.items() if key not in ("files", "checksum")}
        table = record.predictions()
        table["p0"] *= 0.99
        table["p1"] = 1 - table["p0"]
        store = make_plan(suite, tmp_path / "r").store
        store.publish_run(record.path.name, content, table, record.history(), overwrite=True)
    with refused("run-not-reproduced"):
        run(suite, tmp_path / "r", methods=["mean"], jobs=1, overwrite="missing-models")
    assert len(run(suite, tmp_path / "r", methods=["mean"], jobs=1, overwrite="all")) == 3
    assert len(kept_models(tmp_path / "r", "s", "mean")) == 3


def test_missing_kept_models_are_reported_before_any_table_is_required(study, tmp_path):
    os.symlink(study / "A", tmp_path / "A")
    suite = tmp_path / "s.toml"
    for steps in (1, 2):
        suite.write_text(SUITE.format(keep=f"budget = {{ steps = {steps} }}"))
        run(suite, tmp_path / "r", methods=["mean"], jobs=1)
    assert len(list((tmp_path / "r" / "s-v1" / "requests").iterdir())) == 2
    with refused("models-not-kept", "keep_models") as error:
        kept_models(tmp_path / "r", "s", "mean")
    assert "--conditions" not in str(error.value)


def test_a_kept_model_predicts_what_its_run_predicted(study):
    from milbench.data.cache.reader import FeatureCache

    cache = FeatureCache.open(study / "A.cache")
    for record in read_runs(study / "r"):
        test = record.predictions().query("split == 'test'")
        ours = load_model(record.path / MODEL).predict(cache, list(test["slide_id"]))
        np.testing.assert_array_equal(ours.log_odds, test[["s0", "s1"]].to_numpy())
        np.testing.assert_array_equal(ours.probabilities, test[["p0", "p1"]].to_numpy())


def test_the_ensemble_is_the_mean_of_log_probabilities(study):
    from milbench.data.cache.reader import FeatureCache

    cache, models = FeatureCache.open(study / "A.cache"), kept_models(study / "r", "s", "abmil")
    table = predict_slides(models, cache, cache.ids[:5])
    log_p = [torch.log_softmax(torch.from_numpy(m.predict(cache, cache.ids[:5]).log_odds / 2), dim=1) for m in models]
    expected = torch.softmax(torch.stack(log_p).mean(dim=0), dim=1)  # of two classes log-odds are (-z, z)
    ours = table[table["member"] == "ensemble"]
    np.testing.assert_allclose(ours[["p_neg", "p_pos"]], expected, rtol=1e-9)
    assert list(table["member"].unique()) == ["ensemble", *(m.name for m in models)]


@pytest.mark.parametrize("labelled", [False, True])
def test_another_cohort_is_predicted(study, tmp_path, labelled):
    out = tmp_path / "p.csv"
    more = ("--labels", study / "B" / "l.csv") if labelled else ()
    code, text = invoke("predict", study / "s.toml", "-m", "abmil", "--features", study / "B" / "f", "--out", out,
                        "--results", study / "r", *more)  # fmt: skip
    assert code == 0, text
    table = pd.read_csv(out)
    assert set(table["slide_id"]) == {f"b{i:03d}" for i in range(12)}
    assert table["member"].nunique() == 4
    np.testing.assert_allclose(table["p_neg"] + table["p_pos"], 1)
    assert ("label" in table) is labelled
    if labelled:
        ensemble = table[table["member"] == "ensemble"]
        expected = roc_auc_score(ensemble["label"] == "pos", ensemble["log_odds_pos"])
        assert f"{expected:.3f}" in text
        (line,) = [line for line in text.splitlines() if "sensitivity" in line]
        assert re.search(r"\bpos\b", line)  # of which class sensitivity and F1 are


def test_attention_of_kept_models_is_exported(study, tmp_path):
    code, text = invoke("predict", "s", "-m", "abmil", "--features", study / "B" / "f", "--out", tmp_path / "p.csv",
                        "--results", study / "r", "--attention", tmp_path / "attention")  # fmt: skip
    assert code == 0, text
    assert len(list((tmp_path / "attention").glob("*/*.parquet"))) == 3 * 12
    model = kept_models(study / "r", "s", "abmil")[0]  # of standardised features, as the suite says
    x = torch.from_numpy(np.load(study / "B" / "f" / "b003.npy")).half().float()
    bag = milbench.Bags.pack([(x - model.scaling.mean) / model.scaling.deviation])
    expected = model.model(bag, attention=True).attention.detach().numpy()
    name = f"{model.facts['fold']}-seed{model.facts['seed']}"
    actual = pd.read_parquet(tmp_path / "attention" / name / "b003.parquet")
    np.testing.assert_allclose(actual[["attention_0"]], expected, rtol=1e-5)


def test_the_way_through_attention_is_shown_and_labels_reach_the_titles(study, tmp_path, monkeypatch):
    import milbench.interpret.relevance

    exported, titles = milbench.interpret.relevance.export_attention, {}

    def watched(*given, labels, **more):
        titles.update(labels)
        return exported(*given, labels=labels, **more)

    monkeypatch.setattr("milbench.interpret.relevance.export_attention", watched)
    monkeypatch.setattr("milbench.cli._terminal.QUIET", 0)
    code, text = invoke("predict", "s", "-m", "abmil", "--features", study / "B" / "f", "--out", tmp_path / "p.csv",
                        "--labels", study / "B" / "l.csv", "--results", study / "r",
                        "--attention", tmp_path / "attention")  # fmt: skip
    assert code == 0, text
    assert "18/36" in text
    assert "36/36" in text
    assert titles == {f"b{i:03d}": i % 2 for i in range(12)}


def test_attention_of_a_method_without_any_is_refused_before_anything_is_written(study, tmp_path, monkeypatch):
    from milbench.aggregator import Aggregator

    forward = Aggregator.forward
    monkeypatch.setattr(Aggregator, "forward", lambda self, bags, attention=False: forward(self, bags))
    code, text = invoke("predict", "s", "-m", "abmil", "--features", study / "B" / "f", "--out", tmp_path / "p.csv",
                        "--results", study / "r", "--attention", tmp_path / "attention")  # fmt: skip
    assert code == 1
    assert "abmil" in text
    assert list(tmp_path.iterdir()) == []


def test_features_of_another_width_or_encoder_are_refused(study, tmp_path):
    from milbench.data.cache.reader import FeatureCache
    from milbench.training.saved_model import check_features

    words = ("--out", tmp_path / "p.csv", "--results", study / "r")
    code, text = invoke("predict", "s", "-m", "mean", "--features", study / "narrow" / "f", *words)
    assert code == 1
    assert "8-d" in text
    assert "5-d" in text
    model = kept_models(study / "r", "s", "mean")[0]
    other = FeatureCache.open(study / "A.cache")
    other.meta["encoder"], model.facts["encoder"] = "conch", "uni"
    with refused("model-other-features", "--force"):
        check_features(model, other)
    assert "conch" in check_features(model, other, force=True)[0]


def test_the_table_of_predictions_is_that_of_the_runs(study, tmp_path):
    out = tmp_path / "all.csv"
    assert invoke("predictions", "s", "--out", out, "--results", study / "r")[0] == 0
    table = pd.read_csv(out)
    for record in read_runs(study / "r"):
        test = record.predictions().query("split == 'test'").set_index("slide_id")
        mine = table.query("method == @record.method and fold == @record.spec.fold and seed == @record.spec.seed")
        positive = mine[mine["class"] == "pos"].set_index("slide_id")
        np.testing.assert_allclose(positive.loc[test.index, "log_odds"], test["s1"])
        assert {("pos" if int(s[1:]) % 2 else "neg") for s in mine["slide_id"]} == set(mine["label"])
    everything = stored_predictions(study / "r", "s")
    assert set(everything["part"]) == {"val", "test"}


def test_an_exported_folder_loads_by_its_own_five_lines(study, tmp_path):
    out = tmp_path / "handed-over"
    assert invoke("export", "s", "-m", "abmil", "--out", out, "--results", study / "r")[0] == 0
    assert {file.name for file in out.iterdir()} == {"README.md", "card.json", "suite.json", "audit.json", "models"}
    assert json.loads((out / "card.json").read_text())["title"]
    code = re.search(r"```python\n(.*?)```", (out / "README.md").read_text(), re.S)[1]
    prelude = "import milbench\n"
    cache = study / "A.cache"
    lines = f"{prelude}cache = milbench.FeatureCache.open({str(cache)!r})\nslides = cache.ids[:3]\n{code}"
    script = lines + "\nprint(predictions.probabilities.shape)"
    done = subprocess.run([sys.executable, "-c", script], cwd=out, check=True, capture_output=True, text=True)
    assert "(3, 2)" in done.stdout


def test_a_file_imports_nothing_by_the_name_it_holds(study, tmp_path):
    record = next(iter(read_runs(study / "r")))
    with safe_open(record.path / MODEL, framework="pt") as opened:
        facts = json.loads(opened.metadata()["milbench"])
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    for change, refusal in (
        ({"method": "os:system"}, ("file-unsafe", "import")),
        ({"format": 99}, ("schema-unknown",)),
        ({"classes": "x"}, ("model-damaged",)),
    ):
        file = tmp_path / "m.safetensors"
        save_file(tensors, file, metadata={"milbench": json.dumps(facts | change)})
        with refused(*refusal):
            load_model(file)
    (tmp_path / "short.safetensors").write_bytes((record.path / MODEL).read_bytes()[:-7])
    with refused("model-damaged"):
        load_model(tmp_path / "short.safetensors")


def test_a_flipped_bit_of_a_kept_model_is_noticed(study, tmp_path):
    import shutil

    shutil.copytree(study / "r", tmp_path / "r")
    record = next(r for r in read_runs(tmp_path / "r") if r.method == "mean")
    content = bytearray((record.path / MODEL).read_bytes())
    content[-3] ^= 4
    (record.path / MODEL).write_bytes(content)
    with refused("file-changed", MODEL):
        kept_models(tmp_path / "r", "s", "mean")


def predicted(study, out, features, labels, *more):
    """Return exit code, text and, where it was written, the table of ``milbench predict`` of abmil."""
    code, text = invoke("predict", "s", "-m", "abmil", "--features", features, "--labels", labels, "--out", out,
                        "--results", study / "r", *more)  # fmt: skip
    return code, text, pd.read_csv(out, keep_default_na=False) if out.exists() else None


def printed_auc(text, of):
    """Return the numbers after ``AUC of`` a member."""
    actual = re.search(rf"^AUC of .*{of}(.*)$", text, re.M)
    return [] if actual is None else [float(number) for number in re.findall(r"\d\.\d{3}", actual[1])]


def auc_of(table, member="ensemble"):
    rows = table[(table["member"] == member) & (table["label"] != "")]
    return roc_auc_score(rows["label"] == "pos", rows["log_odds_pos"])


def labels_of_b(study, path, slide="slide_id", label="label", change=str, more=()):
    rows = [line.split(",") for line in (study / "B" / "l.csv").read_text().splitlines()[1:]]
    lines = [",".join([slide, "patient_id", label, *more])]
    lines += [",".join([change(s), patient, y, *more]) for s, patient, y in rows]
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize("change", ["{}.svs", "{}.SVS", "slides/{}.tiff"])
def test_labels_are_matched_as_init_matches_them(study, tmp_path, change):
    labels = labels_of_b(study, tmp_path / "l.csv", change=change.format)
    code, text, table = predicted(study, tmp_path / "p.csv", study / "B" / "f", labels)
    assert code == 0, text
    assert change.format("b000") in text
    assert (table["label"] != "").all()
    assert printed_auc(text, "ensemble")[0] == pytest.approx(auc_of(table), abs=6e-4)


def test_labels_of_none_of_the_slides_are_refused_with_a_name_of_each_side(study, tmp_path):
    labels = labels_of_b(study, tmp_path / "l.csv", change="x{}".format)
    code, text, table = predicted(study, tmp_path / "p.csv", study / "B" / "f", labels)
    assert code == 1
    assert "'xb000'" in text
    assert "'b000'" in text
    assert table is None


def test_columns_of_labels_are_recognised_or_named(study, tmp_path):
    features, out = study / "B" / "f", tmp_path / "p.csv"
    labels = labels_of_b(study, tmp_path / "l.csv", label="MSI status")
    assert predicted(study, out, features, labels)[0] == 0
    labels = labels_of_b(study, labels, slide="names", label="MSI status", more=["other"])
    out.unlink()
    code, text, table = predicted(study, out, features, labels)
    assert code == 1
    assert "--label-column" in text
    assert table is None
    named = ("--label-column", "MSI status", "--slide-column", "names")
    code, text, table = predicted(study, out, features, labels, *named)
    assert code == 0, text
    assert set(table["label"]) == {"pos", "neg"}
    code, text, _ = predicted(study, out, features, labels, "--label-column", "nosuch")
    assert code == 1
    assert "--label-column" in text
    bare = [f"b{i:03d},{['neg', 'pos'][i % 2]}" for i in range(12)]  # patients are not needed
    labels.write_text("\n".join(["names,status", *bare]))
    code, text, _ = predicted(study, out, features, labels, "--label-column", "status")
    assert code == 0, text


def test_what_models_were_trained_on_does_not_count_for_them(study, tmp_path):
    code, text, table = predicted(study, tmp_path / "p.csv", study / "A" / "f", study / "A" / "l.csv")
    assert code == 0, text
    assert printed_auc(text, "ensemble") == []
    own = []
    for record in read_runs(study / "r"):
        if record.method == "abmil":
            test = record.predictions().query("split == 'test'")
            own.append(roc_auc_score([int(slide[1:]) % 2 for slide in test["slide_id"]], test["s1"]))
            member = table[table["member"] == f"fold {record.spec.fold} seed {record.spec.seed}"]
            assert set(member["slide_id"][~member["seen_in_training"]]) == set(test["slide_id"])
    (least, most, low, high) = printed_auc(text, "single models")
    assert [least, most] == pytest.approx([min(own), max(own)], abs=6e-4)
    assert low < least <= most < high or (low < least and most == high == 1)
    assert "nan" not in text
    text, table = predicted(study, tmp_path / "p.csv", study / "A" / "f", study / "A" / "l.csv", "--new-slides")[1:]
    assert printed_auc(text, "ensemble")[0] == pytest.approx(auc_of(table), abs=6e-4)


def test_slides_of_training_are_marked_where_no_label_is_given(study, tmp_path):
    def table_of(features, *more):
        out = tmp_path / "p.csv"
        code, text = invoke("predict", study / "s.toml", "-m", "abmil", "--features", features, "--out", out,
                            "--results", study / "r", *more)  # fmt: skip
        assert code == 0, text
        return text, pd.read_csv(out)

    text, bare = table_of(study / "A" / "f")
    _, labelled = table_of(study / "A" / "f", "--labels", study / "A" / "l.csv")
    assert bare["seen_in_training"].tolist() == labelled["seen_in_training"].tolist()
    assert bare.query("member == 'ensemble'")["seen_in_training"].all()
    assert "seen_in_training" in text
    for features, more in ((study / "B" / "f", ()), (study / "A" / "f", ("--new-slides",))):
        text, table = table_of(features, *more)
        assert not table["seen_in_training"].any()
        assert "seen_in_training" not in text


@pytest.mark.parametrize("by", ["slide", "patient"])
def test_an_ensemble_is_scored_on_slides_that_no_model_saw(study, tmp_path, by):
    (tmp_path / "f").mkdir()
    labels = ["slide_id,patient_id,label"]
    for i in range(12):
        name = f"s{i:03d}" if by == "slide" and i < 4 else f"b{i:03d}"
        owner = f"P{i:03d}" if by == "patient" and i < 4 else f"q{i:03d}"
        os.symlink(study / "B" / "f" / f"b{i:03d}.npy", tmp_path / "f" / f"{name}.npy")
        labels.append(f"{name},{owner},{['neg', 'pos'][i % 2]}")
    (tmp_path / "l.csv").write_text("\n".join(labels))
    code, text, table = predicted(study, tmp_path / "p.csv", tmp_path / "f", tmp_path / "l.csv")
    assert code == 0, text
    assert "4 of 12" in text
    new = table[table["slide_id"].between("b004", "b011")]
    value, low, high = printed_auc(text, "ensemble")
    assert value == pytest.approx(auc_of(new), abs=6e-4)
    assert low <= value <= high
    assert low < high


def test_labels_of_one_class_give_no_auc(study, tmp_path):
    labels = tmp_path / "l.csv"
    labels.write_text("slide_id,patient_id,label\n" + "".join(f"b{i:03d},q{i},neg\n" for i in range(0, 12, 2)))
    code, text, table = predicted(study, tmp_path / "p.csv", study / "B" / "f", labels)
    assert code == 0, text
    assert printed_auc(text, "ensemble") == printed_auc(text, "single models") == []
    assert "nan" not in text
    assert "'neg'" in text
    assert (table["label"] == "").sum() == 6 * 4


def test_an_oracle_saw_its_test_slides():
    parts = pd.Series(["train", "val", "test"], index=["a", "b", "c"])
    model = SimpleNamespace(facts={"fold": "f"})
    for oracle, expected in ((False, {"a", "b"}), (True, {"a", "b", "c"})):
        assert trained_on([model], SimpleNamespace(oracle=oracle, parts=lambda _: parts)) == [expected]
    assert trained_on([model], SimpleNamespace(oracle=False, parts=lambda _: None)) == [None]


def test_more_than_two_classes_have_an_interval_too():
    rng = np.random.default_rng(0)
    classes, y = ["a", "b", "c"], np.arange(30) % 3
    odds = rng.normal(size=(30, 3)) + 2 * np.eye(3)[y]
    p = np.exp(odds) / np.exp(odds).sum(axis=1, keepdims=True)
    slides = [f"x{i}" for i in range(30)]
    head = {"slide_id": slides, "member": "ensemble", "predicted": [classes[i] for i in p.argmax(axis=1)]}
    columns = {f"{kind}_{name}": values[:, c] for kind, values in (("p", p), ("log_odds", odds))
               for c, name in enumerate(classes)}  # fmt: skip
    table = pd.DataFrame(head | columns | {"threshold_rule": "argmax", "threshold": np.nan})
    table = pd.concat([table, table.assign(member="fold f seed 0")])
    labels = SlideLabels(dict(zip(slides, y.tolist(), strict=True)))
    text = "\n".join(score_lines(with_labels(table, labels, {}, classes), labels, classes))
    value, low, high = printed_auc(text, "ensemble")
    assert value == pytest.approx(np.mean([roc_auc_score(y == c, odds[:, c]) for c in range(3)]), abs=6e-4)
    assert low < value < high
    assert "nan" not in text


def one_model(y, odds, classes=("neg", "pos"), patients=None):
    """The sentences about one model, which is its own ensemble."""
    slides = [f"x{i}" for i in range(len(y))]
    odds = np.stack([-np.asarray(odds, float), odds], axis=1)
    p = 1 / (1 + np.exp(-odds))
    columns = {f"{kind}_{name}": values[:, c] for kind, values in (("p", p), ("log_odds", odds))
               for c, name in enumerate(classes)}  # fmt: skip
    head = {"slide_id": slides, "member": "ensemble", "predicted": [classes[i] for i in p.argmax(axis=1)]}
    table = pd.DataFrame(head | columns | {"threshold_rule": "half", "threshold": 0.5})
    table = pd.concat([table, table.assign(member="fold f seed 0")])
    labels = SlideLabels(
        dict(zip(slides, y, strict=True)), {} if patients is None else dict(zip(slides, patients, strict=True))
    )
    return "\n".join(score_lines(with_labels(table, labels, {}, classes), labels, classes))


@pytest.mark.parametrize(
    ("y", "odds"),
    [([0, 0, 1, 1], [1, 4, 2, 3]), ([0, 0, 1, 1], [2, 2, 2, 2]), ([0, 0, 1, 1], [1, 2, 3, 4]), ([0, 1], [1, 0]),
     ([0, 0, 0, 1], [1, 3, 4, 2])],
)  # fmt: skip
def test_few_slides_of_one_model_have_an_interval_that_no_scores_break(y, odds):
    for patients in (None, [f"P{i}" for i in range(len(y))]):
        text = one_model(y, odds, patients=patients)
        for of in ("ensemble", "single model"):
            value, low, high = printed_auc(text, of)
            assert value == pytest.approx(roc_auc_score(y, odds), abs=6e-4)
            assert low <= value <= high
            assert high - low > 0.5, "of four slides or fewer next to nothing is known"


def test_the_interval_of_a_model_on_another_cohort_is_a_leaderboards():
    rng = np.random.default_rng(1)
    y = (np.arange(9) % 3 == 0).astype(int)
    odds = rng.normal(size=9) + 1.5 * y
    weights = stats.cluster_weights(np.arange(9), y, 2000, np.random.default_rng(0))
    draws = stats.bootstrap_auc(y, odds, weights)
    ends = stats.class_interval(stats.weighted_auc(y, odds), draws, (3, 6, 9))
    assert printed_auc(one_model(y.tolist(), odds), "single model")[1:] == pytest.approx(
        [ends.low, ends.high], abs=6e-4
    )
