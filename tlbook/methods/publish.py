"""Save a fine-tuned model as a Hugging Face Hub folder, with a filled model card.

Nothing is uploaded here. ``huggingface_hub.upload_folder(folder_path=..., repo_id=...)`` uploads
the folder, and asks for your own token. :func:`tlbook.keras.export` does the same for TensorFlow.
"""

import html
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tlbook.data import Dataset
from tlbook.evidence.effects import Effect
from tlbook.sources.cache import whole

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
    """Return the model card of a fine-tuned text classifier.

    Model cards are those of Mitchell et al. 2019 (arXiv 1810.03993). What you give is text: what
    Markdown or HTML would make of it is escaped.

    Parameters
    ----------
    name : str
        Name of the model as it will be on the Hub: "owner/name".
    base : str
        Handle of the model that was fine-tuned, with its revision if it has one.
    data : tlbook.data.Dataset
        Data that the model was trained on. The card takes its license and citation from there.
    train : sequence of int
        Positions of the rows that the model was trained on.
    test : sequence of int
        Positions of the rows that it was tested on.
    scores : mapping of str to tlbook.evidence.effects.Effect
        For each set that the model was tested on, balanced accuracy with its interval, as
        :meth:`tlbook.evidence.comparison.Comparison.score` gives it and the ledger records it.
    settings : str
        Settings of training, in words.
    limits : str
        Limits of the model, in words. A card without limits is refused.
    license : str
        SPDX id of the model's license.
    language : str or list of str
        Language of the texts.
    seed : int, optional
        Seed of the weights that are shared.
    summary : str, default ""
        One or two sentences on the model. By default they name its classes.
    example : str
        A text that shows how the model is called. None is taken from the data: they may be private.

    Returns
    -------
    huggingface_hub.ModelCard
        The card.

    Raises
    ------
    ValueError
        If something is missing that every card must say, or train and test share rows.
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
    """Save a classifier in the form of the Hugging Face Hub, whole or not at all.

    The folder holds the weights (safetensors), the configuration, the tokenizer and the card as
    ``README.md``. ``AutoModelForSequenceClassification.from_pretrained(folder)`` and
    ``pipeline("text-classification", folder)`` read it.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Classifier whose configuration names its classes.
    tokenizer : transformers.PreTrainedTokenizerBase
        Tokenizer of the model.
    card : huggingface_hub.ModelCard
        Model card, as :func:`model_card` returns it.
    folder : pathlib.Path or str
        Folder to write, which must not exist yet.

    Returns
    -------
    pathlib.Path
        The folder.

    Raises
    ------
    FileExistsError
        If the folder exists.
    ValueError
        If the classes have no names, so that users of the model would see LABEL_0.
    """
    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(f"{folder} exists; save into a new folder")
    if any(str(label).startswith("LABEL_") for label in model.config.id2label.values()):
        raise ValueError(
            f"the classes have no names ({', '.join(model.config.id2label.values())}): set "
            "model.config.id2label and label2id, or make the model by pretrained.classifier"
        )
    with whole(folder) as part:
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
        card.save(part / "README.md")
    return folder
