"""LoRA by peft under the loop and the freezing table of the book."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.optim import AdamW

from tests.helpers import sentences, tiny_bert
from tlbook.learning.batches import Batches
from tlbook.learning.freezing import audit_frozen, freeze, train_mode
from tlbook.learning.loop import predict, steps
from tlbook.learning.losses import classification

TABLE = [("lora_|modules_to_save", 1.0), (".*", None)]

# peft asks transformers for an attribute by its old name
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


def with_lora(dropout: float = 0.0):
    torch.manual_seed(1)
    config = LoraConfig(
        task_type="SEQ_CLS",
        r=4,
        target_modules=["query", "value"],
        modules_to_save=["classifier", "pooler"],
    )
    return get_peft_model(tiny_bert(dropout), config)


def test_at_the_start_it_is_the_model_it_corrects():
    batches = Batches(sentences(20), 8, seed=None)
    assert (predict(with_lora(), batches) == predict(tiny_bert(), batches)).all()


def test_it_learns_and_what_it_corrects_stays_as_it_is():
    model = with_lora(dropout=0.1)
    optimizer = AdamW(freeze(model, TABLE, lr=5e-2), fused=True)
    with audit_frozen(model):
        done = list(steps(model, classification(), Batches(sentences(60), 8, epochs=5), optimizer))
    assert done[-1].loss < 0.7 * done[0].loss
    original = dict(tiny_bert().named_parameters())
    corrected = {
        name.replace("base_layer.", "").replace("original_module.", ""): parameter
        for name, parameter in model.get_base_model().named_parameters()
    }
    for name, parameter in original.items():
        assert torch.equal(parameter, corrected[name]), name
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert all("lora_" in name or "modules_to_save" in name for name in trained)


def test_merged_into_the_weights_it_predicts_the_same():
    """W0 + a / r * B A, written into one matrix, is the model that was trained."""
    model = with_lora()
    optimizer = AdamW(freeze(model, TABLE, lr=5e-2))
    list(steps(model, classification(), Batches(sentences(60), 8), optimizer))
    batches = Batches(sentences(20), 8, seed=None)
    before = predict(model, batches)
    assert predict(model.merge_and_unload(), batches) == pytest.approx(before, abs=1e-5)


def test_dropout_is_off_where_nothing_is_trained():
    model = with_lora(dropout=0.5)
    freeze(model, TABLE, lr=1.0)
    train_mode(model)
    bert = model.get_base_model().bert
    assert not bert.embeddings.dropout.training
    assert bert.encoder.layer[0].attention.self.query.lora_A["default"].training
