"""Which inputs a model has: one matrix, one text, or a column of its own for each feature of a table."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from protocol import Failed

DTYPES = {"float": np.float32, "int": np.int64, "str": np.str_}


@dataclass(frozen=True)
class Column:
    """One input of the graph: `width` features of one type, "float", "int" or "str"; `text` is one document a row."""

    name: str
    type: str
    width: int = 1
    text: bool = False


def columns_of(estimator: Any) -> tuple[Column, ...]:
    """Return the inputs of a fitted estimator.

    Features of one type are one matrix "x"; so is an estimator that was fitted on an array. Features of several types,
    and those that a ColumnTransformer takes by name, are inputs of their own, called like their columns.
    """
    first = _first(estimator)
    if _is_vectorizer(first):
        return (Column("text", "str", text=True),)
    width = getattr(estimator, "n_features_in_", None)
    if width is None:
        raise Failed(
            f"{type(estimator).__name__} does not tell how many features it takes",
            "give a scikit-learn estimator or pipeline that is fitted",
        )
    types = _types(first, int(width))
    names = getattr(estimator, "feature_names_in_", None)
    by_name = names is not None and type(first).__name__ == "ColumnTransformer"
    if len(set(types)) == 1 and not by_name:
        return (Column("x", types[0] or "float", int(width)),)
    called = [f"x{index}" for index in range(len(types))] if names is None else [str(name) for name in names]
    documents = _documents(first)
    return tuple(
        Column(name, kind, text=index in documents)
        for index, (name, kind) in enumerate(zip(called, types, strict=True))
        if kind
    )


def table(columns: tuple[Column, ...], feeds: Mapping[str, Any], named: bool) -> Any:
    """Return what the estimator takes: a matrix, a list of texts, a DataFrame (`named`), or an array of objects."""
    arrays = [feeds[column.name] for column in columns]
    if len(columns) == 1 and not named:
        if columns[0].text:
            return [str(text) for text in arrays[0].reshape(-1)]
        return arrays[0].astype(object) if columns[0].type == "str" else arrays[0]
    if named:
        import pandas

        return pandas.DataFrame(
            {column.name: _series(array) for column, array in zip(columns, arrays, strict=True)},
        )
    return np.concatenate([array.astype(object) for array in arrays], axis=1)


def examples_of(examples: Any, columns: tuple[Column, ...], limit: int) -> dict[str, Any]:
    """Return example inputs as samples of one row each, by input name; Failed where they do not fit the columns."""
    try:
        arrays = {column.name: _example(examples, column, index) for index, column in enumerate(columns)}
        return {
            column.name: arrays[column.name][:limit].astype(DTYPES[column.type]).reshape(-1, 1, column.width)
            for column in columns
        }
    except (KeyError, IndexError, ValueError, TypeError, AttributeError) as exc:
        wanted = ", ".join(f"'{column.name}' {column.type}" for column in columns)
        raise Failed(f"the example inputs do not fit the inputs {wanted}: {exc}", "give what predict takes") from exc


def _example(examples: Any, column: Column, index: int) -> Any:
    by_name = isinstance(examples, Mapping) or hasattr(examples, "columns")
    if by_name and column.name in examples:
        return np.asarray(examples[column.name])
    whole = np.asarray(examples)
    return whole if column.width > 1 or column.text or whole.ndim == 1 else whole[:, index]


def _series(array: Any) -> Any:
    flat = array.reshape(-1)
    return flat.astype(object) if flat.dtype.kind in "UO" else flat


def _first(estimator: Any) -> Any:
    """Return the step that the input reaches first: pipelines and searches hand it on."""
    while True:
        steps = getattr(estimator, "steps", None)
        inner = getattr(estimator, "best_estimator_", None)
        if steps:
            real = [step for _, step in steps if step is not None and not isinstance(step, str)]
            if not real:
                return estimator
            estimator = real[0]
        elif inner is not None:
            estimator = inner
        else:
            return estimator


def _is_vectorizer(estimator: Any) -> bool:
    return any(kind.__name__ in ("CountVectorizer", "HashingVectorizer") for kind in type(estimator).__mro__)


def _types(estimator: Any, width: int) -> list[str]:
    """Return the type of each feature; "" for one that a ColumnTransformer drops."""
    if type(estimator).__name__ == "ColumnTransformer":
        types = [""] * width
        for transformer, places in _members(estimator):
            for place, kind in zip(places, _types(_first(transformer), len(places)), strict=True):
                types[place] = _both(types[place], kind)
        return types
    if type(estimator).__name__ == "FeatureUnion":
        types = [""] * width
        for _, transformer in estimator.transformer_list:
            types = [_both(one, kind) for one, kind in zip(types, _types(_first(transformer), width), strict=True)]
        return types
    if _is_vectorizer(estimator):
        return ["str"] * width
    categories = getattr(estimator, "categories_", None)
    if isinstance(categories, list) and len(categories) == width:
        return [_type_of(np.asarray(values)) for values in categories]
    statistics = getattr(estimator, "statistics_", None)
    if statistics is not None and len(statistics) == width:
        return [_type_of(np.asarray([value])) if isinstance(value, str) else "float" for value in statistics]
    return ["float"] * width


def _members(estimator: Any) -> Iterator[tuple[Any, list[int]]]:
    """Yield each transformer of a ColumnTransformer that is not dropped, with the places of its columns."""
    places = estimator._transformer_to_input_indices
    for name, transformer, _ in estimator.transformers_:
        if not (isinstance(transformer, str) and transformer == "drop"):
            yield transformer, [int(place) for place in places[name]]


def _documents(estimator: Any) -> set[int]:
    """Return the places of the columns that a ColumnTransformer hands to a vectorizer."""
    if type(estimator).__name__ != "ColumnTransformer":
        return set()
    return {place for member, places in _members(estimator) if _is_vectorizer(_first(member)) for place in places}


def _both(one: str, other: str) -> str:
    """Return the type of a feature that two transformers take: the one that is not just any number."""
    return other if one in ("", "float") else one


def _type_of(values: Any) -> str:
    if values.dtype.kind in "iub":
        return "int"
    if values.dtype.kind == "f":
        return "float"
    if values.dtype.kind == "O" and not any(isinstance(value, str) for value in values):
        return "float"
    return "str"
