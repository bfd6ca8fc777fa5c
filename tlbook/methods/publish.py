"""Sharing a fine-tuned model: a folder as the Hugging Face Hub has it, with a filled model card.

Nothing is uploaded here. ``huggingface_hub.upload_folder(folder_path=..., repo_id=...)`` does that,
and asks for the user's own token. The TensorFlow side is :func:`tlbook.keras.export`.
"""

import html
import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tlbook.data import Dataset
from tlbook.evidence.effects import Effect

TEMPLATE = """\
---
{{ card_data }}
---

# {{ name }}

{{ summary }}

## Training

- **Starting point:** {{ base }}
- **Data:** {{ data_name }}, {{ n_train }} labeled examples, classes {{ classes | join(", ") }}
- **License of the data:** {{ data_license or "not stated" }}
{%- if citation %}
- **Source of the data:** {{ citation }}
{%- endif %}
- **Settings:** {{ settings }}

## Evaluation

Balanced accuracy on {{ n_test }} examples that took no part in training or selection, in points.
The interval counts both what varies: the seed, and the finite test set.

| tested on | balanced accuracy | {{ level }} interval | seeds |
|---|---|---|---|
{%- for name, score in scores.items() %}
| {{ name }} | {{ "%.1f" | format(100 * score.value) }} | \
{{ "%.1f" | format(100 * score.low) }} to {{ "%.1f" | format(100 * score.high) }} | \
{{ score.seeds }} |
{%- endfor %}

The weights in this folder are those of one seed{{ ", " + seed | string if seed is not none }}.

## Limits

{{ limits }}

## How to use it

```python
from transformers import pipeline

classify = pipeline("text-classification", {{ handle }})
classify({{ example }})
```
"""


def model_card(
    name: str,
    *,
    base: str,
    data: Dataset,
    train: Sequence[int],
    test: Sequence[int],
    scores: Mapping[str, Effect],
    settings: str,
    limits: str,
    license: str,
    language: str | list[str],
    seed: int | None = None,
    summary: str = "",
    example: str = "A text like yours.",
) -> ModelCard:
    """The model card (Mitchell et al. 2019, arXiv 1810.03993) of a fine-tuned text classifier.

    Parameters
    ----------
    name : of the model, as it will be on the Hub: "owner/name"
    base : handle of the model that was fine-tuned, with its revision if it has one
    data : what it was trained on; license and citation are taken from there
    train, test : positions of the rows it was trained on and tested on
    scores : what it was tested on -> balanced accuracy with its interval, as
        :meth:`tlbook.evidence.comparison.Comparison.score` gives it and the ledger records it
    settings, limits : in words. A card without limits is refused
    license : SPDX id of the model's license
    seed : of the weights that are shared
    example : a text that shows how the model is called. None is taken from the data: they may be
        private

    All that is given is text: what Markdown or HTML would make of it is escaped.

    Raises
    ------
    ValueError : something that every card must say is missing, or train and test share rows
    """
    told = {"name": name, "base": base, "scores": scores, "settings": settings, "limits": limits}
    told |= {"license": license, "train": len(train), "test": len(test)}
    if missing := [key for key, value in told.items() if not value]:
        raise ValueError(f"a model card must say: {', '.join(missing)}")
    if shared := set(map(int, train)) & set(map(int, test)):
        raise ValueError(f"{len(shared)} rows stand in both train and test: the scores are not its")
    level = next(iter(scores.values())).level
    metadata = ModelCardData(
        model_name=name,
        base_model=base,
        license=license.lower(),
        language=language,
        library_name="transformers",
        pipeline_tag="text-classification",
        eval_results=[
            EvalResult(
                task_type="text-classification",
                dataset_type=data.name,
                dataset_name=where,
                metric_type="balanced_accuracy",
                metric_value=round(score.value, 4),
                metric_name=f"balanced accuracy, {level:.0%} interval "
                f"{score.low:.3f} to {score.high:.3f}, {score.seeds} seeds",
            )
            for where, score in scores.items()
        ],
    )
    return ModelCard.from_template(
        metadata,
        template_str=TEMPLATE,
        name=plain(name),
        handle=json.dumps(" ".join(name.split())),
        summary=plain(summary or f"A text classifier: {' or '.join(data.classes)}."),
        base=plain(base),
        data_name=plain(data.name),
        data_license=plain(data.license),
        classes=[plain(label) for label in data.classes],
        citation=plain(data.citation),
        n_train=len(train),
        n_test=len(test),
        settings=plain(settings),
        level=f"{level:.0%}",
        scores={plain(where): score for where, score in scores.items()},
        seed=seed,
        limits=plain(limits),
        example=json.dumps(" ".join(example.split())).replace("`", "\\u0060"),
    )


def plain(text: str) -> str:
    """Return a text on one line that Markdown and HTML show as it is.

    ``<``, ``>`` and ``&`` become entities; signs that Markdown gives a meaning to, anywhere or at
    the start of a block, get a backslash.
    """
    text = html.escape(" ".join(text.split()), quote=False)
    text = re.sub(r"([\\`*_{}\[\]|~$])", r"\\\1", text)
    return re.sub(r"^(\d*)([#+.)-])", r"\1\\\2", text)


def save(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    card: ModelCard,
    folder: Path | str,
) -> Path:
    """Save a classifier as the Hugging Face Hub has it, whole or not at all.

    The folder holds weights (safetensors), configuration, tokenizer and ``README.md``, the card.
    ``AutoModelForSequenceClassification.from_pretrained(folder)`` and
    ``pipeline("text-classification", folder)`` read it. It must not exist.

    Raises
    ------
    FileExistsError
    ValueError : the classes have no names, so whoever uses the model would see LABEL_0
    """
    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(f"{folder} exists; save into a new folder")
    if any(str(label).startswith("LABEL_") for label in model.config.id2label.values()):
        raise ValueError(
            f"the classes have no names ({', '.join(model.config.id2label.values())}): set "
            "model.config.id2label and label2id, or make the model by pretrained.classifier"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".part-") as part:
        whole = Path(part, "whole")
        model.save_pretrained(whole)
        tokenizer.save_pretrained(whole)
        card.save(whole / "README.md")
        whole.rename(folder)
    return folder
