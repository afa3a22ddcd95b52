import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from small_texts import edit_config, tokenizer_text, write_encoder, write_reviews
from trimtab.errors import CorruptFile, DataError, RecipeError, UnsafeFile
from trimtab.tasks.text import Text
from trimtab.values.registry import registry
from trimtab.values.task import TaskView
from trimtab.values.trust import code_named_by

pytestmark = pytest.mark.slow
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from trimtab.fit import module as artefact  # noqa: E402
from trimtab.passes import Context  # noqa: E402
from trimtab.recipe import bind  # noqa: E402


@pytest.fixture(scope="module")
def source():
    return registry("sources").take("hf")()


@pytest.fixture
def folder(tmp_path):
    return write_encoder(tmp_path / "encoder")


@pytest.fixture
def view(tmp_path, folder):
    write_reviews(tmp_path / "reviews.csv")
    return TaskView(reviews(tmp_path, folder))


def reviews(place, folder, **settings):
    named = {"target": "label", "text": "review", "tokenizer": str(folder), "max_length": 10} | settings
    return Text(str(place / "reviews.csv"), **named)


def opened(source, ref, view, scratch):
    scratch.mkdir()
    return source.open(str(ref), scratch, view)


def write_classifier(folder, labels, kind="BertForSequenceClassification"):
    """Write a model with a head of its own whose classes have these names."""
    known = transformers.BertConfig.from_pretrained(folder)
    known.id2label = dict(enumerate(labels))
    known.label2id = {label: number for number, label in enumerate(labels)}
    torch.manual_seed(1)
    getattr(transformers, kind)(known).eval().save_pretrained(folder)
    return folder


def answers(model, view):
    batch = view.task.collate([view.split("train")[number] for number in range(6)])
    with torch.no_grad():
        return batch, artefact.load(model.main)(*artefact.arguments(batch, model.main.signature))


def test_an_encoder_gets_a_head_on_the_mean_of_its_states(source, folder, view, tmp_path):
    model = opened(source, folder, view, tmp_path / "model")
    assert [(spec.name, spec.shape) for spec in model.main.signature.inputs] == [
        ("input_ids", ("batch", "time")),
        ("attention_mask", ("batch", "time")),
    ]
    assert model.main.signature.outputs[0].shape == ("batch", 2)
    assert model.notes["hf"]["head"].startswith("fresh")
    assert not code_named_by(model), "its builder is trimtab's own"
    batch, logits = answers(model, view)
    plain = transformers.BertModel.from_pretrained(folder).eval()
    net = artefact.load(model.main)
    for row in range(len(batch)):
        valid = int(batch.inputs["attention_mask"][row].sum())
        ids = torch.from_numpy(batch.inputs["input_ids"][row : row + 1, :valid])
        with torch.no_grad():
            expected = net.head(plain(ids).last_hidden_state.mean(1))
        torch.testing.assert_close(logits[row : row + 1], expected, atol=1e-5, rtol=1e-5)


def test_the_first_state_may_answer_and_the_seed_makes_the_head(source, folder, view, tmp_path):
    mean = opened(source, folder, view, tmp_path / "mean")
    first = opened(source, f"{folder}(pooling='first')", view, tmp_path / "first")
    other = opened(source, f"{folder}(seed=1)", view, tmp_path / "other")
    heads = [artefact.load(model.main).head.weight for model in (mean, first, other)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    assert not torch.allclose(answers(mean, view)[1], answers(first, view)[1])


@pytest.mark.parametrize("model_type", ["roberta", "distilbert", "electra", "gpt2", "modernbert"])
def test_padding_changes_nothing_whatever_the_kind(source, folder, view, tmp_path, model_type):
    config = transformers.AutoConfig.for_model(
        model_type, vocab_size=20, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        pad_token_id=0, bos_token_id=2, eos_token_id=3, cls_token_id=2, sep_token_id=3,
    )  # fmt: skip
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    model = opened(source, folder, view, tmp_path / "model")
    net, batch = artefact.load(model.main), answers(model, view)[0]
    with torch.no_grad():
        together = net(*artefact.arguments(batch, model.main.signature))
    for row in range(len(batch)):
        one = view.task.collate([view.split("train")[row]])
        with torch.no_grad():
            alone = net(*artefact.arguments(one, model.main.signature))
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-4)


def test_a_head_of_its_own_answers_in_the_tasks_order(source, folder, view, tmp_path):
    write_classifier(folder, ["YES", "No"])
    model = opened(source, folder, view, tmp_path / "model")
    assert model.notes["hf"] == {
        "builder": "classifier",
        "head": "the folder's own, by the names of its classes",
        "fresh": [],
    }
    batch, logits = answers(model, view)
    given = {name: torch.from_numpy(array) for name, array in batch.inputs.items()}
    with torch.no_grad():
        expected = transformers.BertForSequenceClassification.from_pretrained(folder).eval()(**given).logits
    torch.testing.assert_close(logits, expected[:, [1, 0]], atol=1e-5, rtol=1e-5)


def test_a_head_that_does_not_fit_is_made_afresh_and_the_notes_say_why(source, folder, view, tmp_path):
    heads = {}
    for number, labels in enumerate((["a", "b", "c"], ["good", "bad"], ["LABEL_0", "LABEL_1"])):
        write_classifier(folder, labels)
        heads[number] = opened(source, folder, view, tmp_path / f"m{number}").notes["hf"]["head"]
    assert "has 3 outputs, the task 2" in heads[0]
    assert "are good, bad; head='keep'" in heads[1]
    assert heads[2] == "the folder's own, in its own order"
    kept = opened(source, f"{folder}(head='fresh')", view, tmp_path / "fresh").notes["hf"]
    assert kept["builder"] == "encoder"


def test_without_labels_the_folders_own_head_answers(source, folder, view, tmp_path):
    unlabelled = TaskView(reviews(tmp_path, folder, target="", slices=("label",)))
    with pytest.raises(DataError, match="no targets to fit a head to"):
        opened(source, folder, unlabelled, tmp_path / "bare")
    write_classifier(folder, ["good", "bad"])
    model = opened(source, folder, unlabelled, tmp_path / "own")
    assert model.notes["hf"]["head"] == "the folder's own, in its own order"
    assert model.main.signature.outputs[0].shape == ("batch", 2)


def test_a_regressors_own_head_is_kept_and_one_that_cannot_be_is_an_error(source, folder, view, tmp_path):
    path = tmp_path / "reviews.csv"
    lines = path.read_text().splitlines()
    path.write_text(
        "\n".join([f"{lines[0]},stars", *(f"{line},{0.5 + row % 9}" for row, line in enumerate(lines[1:]))])
    )
    rated = TaskView(reviews(tmp_path, folder, target="stars", slices=("label",)))
    write_classifier(folder, ["LABEL_0"])
    model = opened(source, folder, rated, tmp_path / "one")
    assert model.notes["hf"]["builder"] == "classifier"
    write_classifier(folder, ["good", "bad"])
    assert "has 2 outputs, the task 1" in opened(source, folder, rated, tmp_path / "two").notes["hf"]["head"]
    with pytest.raises(DataError, match="head='keep' cannot be: the folder's head has 2 outputs, the task 1"):
        opened(source, f"{folder}(head='keep')", rated, tmp_path / "kept")


def test_it_exports_with_both_axes_free_and_without_the_masks_of_the_library(source, folder, view, machine, tmp_path):
    model = opened(source, folder, view, tmp_path / "model")
    (export,) = bind("onnx(exporter='torchscript')").passes
    (tmp_path / "onnx").mkdir()
    exported = export.apply(model, Context(view, tmp_path / "onnx", machine))
    session = onnxruntime.InferenceSession(exported.main.path / "model.onnx")
    for count in (1, 7):
        batch = view.task.collate([view.split("validation")[number] for number in range(count)])
        with torch.no_grad():
            expected = artefact.load(model.main)(*artefact.arguments(batch, model.main.signature))
        given = session.run(None, dict(batch.inputs))[0]
        np.testing.assert_allclose(given, expected, atol=1e-5)
    import onnx

    kinds = [node.op_type for node in onnx.load(exported.main.path / "model.onnx").graph.node]
    assert not {"And", "IsNaN"} & {*kinds}
    assert kinds.count("Softmax") == 2


def test_the_fingerprint_follows_content_not_place(source, folder, tmp_path):
    before = source.fingerprint(str(folder))
    moved = folder.rename(tmp_path / "elsewhere (1)")
    assert source.fingerprint(str(moved)) == before
    assert source.fingerprint(f"{moved}(seed=3)") != before
    edit_config(moved, hidden_dropout_prob=0.3)
    assert source.fingerprint(str(moved)) != before


def test_texts_longer_than_the_model_has_positions_are_refused(source, folder, view, tmp_path):
    with pytest.raises(DataError, match=r"up to 20 tokens, this model takes at most 12 .*: say max_length=12"):
        opened(source, folder, TaskView(reviews(tmp_path, folder, max_length=20)), tmp_path / "model")
    config = transformers.RobertaConfig(
        vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=11, pad_token_id=1,
    )  # fmt: skip
    transformers.RobertaModel(config).save_pretrained(folder)
    with pytest.raises(DataError, match="at most 9"):
        opened(source, folder, view, tmp_path / "roberta")


def test_another_tokenizer_than_the_models_is_refused(source, folder, view, tmp_path):
    (tmp_path / "tokenizer.json").write_text(tokenizer_text(words=("film", "good", "the")))
    other = TaskView(reviews(tmp_path, tmp_path))
    with pytest.raises(DataError, match="has another tokenizer than the model: give it tokenizer="):
        opened(source, folder, other, tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    many = tokenizer_text(words=[f"n{number}" for number in range(120)])
    (tmp_path / "tokenizer.json").write_text(many)
    with pytest.raises(DataError, match=r"have the token \d+, this model knows 16"):
        opened(source, folder, TaskView(reviews(tmp_path, tmp_path)), tmp_path / "more")


def test_code_in_the_folder_is_refused(source, folder, view, tmp_path):
    edit_config(folder, auto_map={"AutoModel": "evil.Net"})
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(UnsafeFile, match="brings code of its own"):
        opened(source, folder, view, tmp_path / "model")
    edit_config(folder, auto_map=None, attn_implementation="someone/kernels")
    with pytest.raises(UnsafeFile, match="attn_implementation='someone/kernels', which may run code"):
        opened(source, folder, view, tmp_path / "more")
    assert not (tmp_path / "ran").exists()


def test_an_artefact_whose_configuration_names_code_is_refused(source, folder, view, tmp_path):
    model = opened(source, folder, view, tmp_path / "model")
    path = model.main.path / "torch.json"
    for name in ("_attn_implementation", "auto_map", "use_kernels"):
        data = json.loads(path.read_text())
        data["build"]["arguments"]["config"][name] = "someone/kernels"
        path.write_text(json.dumps(data))
        with pytest.raises(UnsafeFile, match=name):
            artefact.load(model.main)
        del data["build"]["arguments"]["config"][name]
        path.write_text(json.dumps(data))
    assert artefact.load(model.main)


class Payload:
    def __reduce__(self):
        return Path.touch, (Path("ran"),)


def test_pickled_weights_are_read_as_tensors_or_not_at_all(source, folder, view, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    same = answers(opened(source, folder, view, tmp_path / "safe"), view)[1]
    state = transformers.BertModel.from_pretrained(folder).state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    torch.testing.assert_close(answers(opened(source, folder, view, tmp_path / "bin"), view)[1], same)
    torch.save({"x": Payload()}, folder / "pytorch_model.bin")
    with pytest.raises(UnsafeFile, match=r"could run code.*save_pretrained\(FOLDER\) writes safetensors"):
        opened(source, folder, view, tmp_path / "payload")
    assert not Path("ran").exists()
    (folder / "pytorch_model.bin").write_bytes(b"torn")
    with pytest.raises(CorruptFile, match="is no whole file of tensors"):
        opened(source, folder, view, tmp_path / "torn")


def test_shards_are_read_and_a_missing_one_is_named(source, folder, view, tmp_path):
    same = answers(opened(source, folder, view, tmp_path / "whole"), view)[1]
    whole = transformers.BertModel.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    whole.save_pretrained(folder, max_shard_size="6KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 1
    torch.testing.assert_close(answers(opened(source, folder, view, tmp_path / "shards"), view)[1], same)
    shards[0].unlink()
    with pytest.raises(CorruptFile, match=f"lacks {shards[0].name}"):
        opened(source, folder, view, tmp_path / "torn")


def test_torn_or_partial_weights_are_corrupt(source, folder, view, tmp_path):
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    tensors = load_file(file)
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(CorruptFile, match=r"lacks weights .*encoder.layer.1.output.dense.weight"):
        opened(source, folder, view, tmp_path / "partial")
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CorruptFile, match="the weights cannot be read"):
        opened(source, folder, view, tmp_path / "torn")
    file.unlink()
    with pytest.raises(DataError, match=r"has no weights; it takes one of model.safetensors"):
        opened(source, folder, view, tmp_path / "none")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "nonesuch"}, "has no model of the model_type 'nonesuch'"),
        ({"model_type": None}, "has no model of the model_type None"),
        ({"quantization_config": {"bits": 4}}, "is quantized already"),
        ({"is_encoder_decoder": True}, "takes encoders alone"),
    ],
)
def test_what_it_cannot_take_is_said(source, folder, view, tmp_path, changes, message):
    edit_config(folder, **changes)
    with pytest.raises(DataError, match=message):
        opened(source, folder, view, tmp_path / "model")


def test_references_that_mean_nothing(source, folder, view, tmp_path, monkeypatch):
    for ref in ("", "(seed=1)"):
        with pytest.raises(DataError, match="needs a folder or an id"):
            source.fingerprint(ref)
    with pytest.raises(RecipeError, match="pooling takes 'mean' or 'first'"):
        source.fingerprint(f"{folder}(pooling='max')")
    (folder / "config.json").write_text("{")
    with pytest.raises(DataError, match="is no transformers folder"):
        opened(source, folder, view, tmp_path / "model")

    def absent(*args, **settings):
        raise OSError("no route to host")

    monkeypatch.setattr("huggingface_hub.snapshot_download", absent)
    with pytest.raises(DataError, match=r"no route to host.*hf download some/model --local-dir FOLDER"):
        source.fingerprint("some/model")


def test_images_are_classified_too_and_their_head_is_fresh_or_kept(source, tmp_path):
    view = TaskView(registry("tasks").take("digits")())
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.ViTConfig(image_size=8, patch_size=4, num_channels=1, **sizes)
    transformers.ViTModel(config).save_pretrained(tmp_path / "bare")
    bare = opened(source, tmp_path / "bare", view, tmp_path / "model")
    assert bare.notes["hf"]["fresh"] == ["model.classifier.weight", "model.classifier.bias"]
    assert bare.main.signature.outputs[0].shape == ("batch", 10)
    config.id2label = {number: str(9 - number) for number in range(10)}
    own = transformers.ViTForImageClassification(config).eval()
    own.save_pretrained(tmp_path / "own")
    edit_config(tmp_path / "own", id2label={str(number): f"{9 - number}" for number in range(10)})
    kept = opened(source, f"{tmp_path / 'own'}(head='keep')", view, tmp_path / "kept")
    batch, logits = answers(kept, view)
    with torch.no_grad():
        torch.testing.assert_close(logits, own(torch.from_numpy(batch.inputs["image"])).logits)


def test_a_task_of_neither_is_refused(source, folder, tmp_path):
    with pytest.raises(DataError, match=r"takes input_ids and attention_mask, or an image; toy gives features"):
        opened(source, folder, TaskView(registry("tasks").take("toy")(examples=90)), tmp_path / "model")
