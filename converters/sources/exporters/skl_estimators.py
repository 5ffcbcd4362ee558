"""scikit-learn estimators and pipelines, with XGBoost and LightGBM estimators among their steps."""

import re
import sys
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import numpy as np
import onnx
import skl2onnx
import sklearn
from onnx import helper, numpy_helper
from protocol import Failed
from skl2onnx.common import _container, tree_ensemble
from skl2onnx.common.data_types import FloatTensorType, Int64TensorType, StringTensorType
from skl2onnx.common.exceptions import MissingConverter, MissingShapeCalculator
from skl_columns import Column, columns_of, table
from skl_source import Arrays, Source
from sklearn.base import is_classifier, is_clusterer, is_outlier_detector, is_regressor
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.utils.validation import check_is_fitted

OPSETS = {"": 21, "ai.onnx.ml": 3}
TYPES = {"float": FloatTensorType, "int": Int64TensorType, "str": StringTensorType}
REMEDY = "replace that step before the model is trained, or give the model as ONNX"


def source(model: Any, path: str) -> Source:
    """Return how to convert and run a fitted scikit-learn estimator; `path` is what errors call it."""
    _check(model, path)
    model = getattr(model, "best_estimator_", model)
    columns = columns_of(model)
    outputs = _outputs(model)
    _check_names(columns, outputs)
    _check_convertible(model)
    classes = getattr(model, "classes_", None)
    one = is_classifier(model) and isinstance(classes, np.ndarray) and classes.ndim == 1
    return Source(
        name=type(model).__name__,
        framework=f"scikit-learn {sklearn.__version__}",
        columns=columns,
        outputs=outputs,
        convert=lambda: _convert(model, columns, outputs),
        predict=lambda feeds: _predict(model, columns, outputs, feeds),
        labels=tuple(str(name) for name in classes) if one else None,
    )


def _check(model: Any, path: str) -> None:
    if not (hasattr(model, "get_params") and hasattr(model, "fit")):
        raise Failed(
            f"'{path}' holds a {type(model).__name__}, which is no estimator of scikit-learn",
            "save a fitted estimator or pipeline with joblib.dump",
        )
    try:
        check_is_fitted(model)
    except NotFittedError as exc:
        raise Failed(f"the {type(model).__name__} in '{path}' is not fitted", "train it before it is saved") from exc


def _check_names(columns: tuple[Column, ...], outputs: tuple[str, ...]) -> None:
    clash = next((column.name for column in columns if column.name in outputs), None)
    if clash:
        raise Failed(f"the column '{clash}' is called like an output", "rename the column and train the model again")


def _check_convertible(model: Any) -> None:
    """Refuse what skl2onnx 1.20 converts without a word and wrongly; mend what is only in its way."""
    if is_classifier(model) and isinstance(getattr(model, "classes_", None), list):
        targets = len(model.classes_)
        raise Failed(
            f"the {type(model).__name__} predicts {targets} targets, and only one can be converted",
            "train one classifier for each target",
            "GateFailed",
        )
    for step, one in steps_of(model):
        name = type(one).__name__
        if name.startswith("HistGradientBoosting") and getattr(one, "is_categorical_", None) is not None:
            raise Failed(
                f"step '{step}' ({name}) splits on categories, which skl2onnx cannot convert",
                "train it with categorical_features=None on encoded columns",
                "GateFailed",
            )
        if name == "VotingClassifier":
            one.flatten_transform = False  # it changes `transform` alone, and skl2onnx knows no other


def steps_of(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield the model and everything in it that was fitted, by the name of its step."""
    yield "", model
    seen = {id(model)}
    stack: list[tuple[str, Any]] = [("", model)]
    while stack:
        name, one = stack.pop()
        for inner_name, inner in _inner(one):
            if id(inner) not in seen and hasattr(inner, "get_params"):
                seen.add(id(inner))
                path = f"{name}.{inner_name}" if name else inner_name
                stack.append((path, inner))
                yield path, inner


def _inner(one: Any) -> Iterator[tuple[str, Any]]:
    """Yield the fitted members of a pipeline, union, column transformer or ensemble."""
    yield from getattr(one, "steps", None) or ()
    yield from getattr(one, "transformer_list", None) or ()
    for name, transformer, *_ in getattr(one, "transformers_", None) or ():
        yield name, transformer
    for attribute in ("best_estimator_", "estimator_", "final_estimator_", "calibrated_classifiers_", "estimators_"):
        held = getattr(one, attribute, None)
        for inner in np.ravel(np.asarray(held, object)) if isinstance(held, (list, np.ndarray)) else [held]:
            if inner is not None and not isinstance(inner, str):
                yield attribute.rstrip("_"), inner


def _outputs(model: Any) -> tuple[str, ...]:
    if is_classifier(model):
        return ("label", "probabilities" if hasattr(model, "predict_proba") else "scores")
    if is_outlier_detector(model):
        return ("label", "scores")
    if is_clusterer(model):
        return ("label", "distances")
    if is_regressor(model):
        return ("y",)
    if hasattr(model, "predict_proba") and hasattr(model, "predict"):
        return ("label", "probabilities")
    return ("features",) if hasattr(model, "transform") else ("y",)


# converting


def _convert(model: Any, columns: tuple[Column, ...], outputs: tuple[str, ...]) -> onnx.ModelProto:
    _register_boosters(model)
    _repair_skl2onnx()
    types = [(column.name, TYPES[column.type]([None, column.width])) for column in columns]
    try:
        proto = skl2onnx.convert_sklearn(
            model,
            initial_types=types,
            options=_options(model),
            target_opset=OPSETS,
        )
    except (MissingShapeCalculator, MissingConverter) as exc:
        raise _unknown(model, exc) from exc
    except Exception as exc:  # converters are many small pieces of code, which raise anything
        raise _refused(model, exc) from exc
    if outputs[-1] == "scores" and is_classifier(model) and len(model.classes_) == 2:
        _sign_scores(proto.graph, model.classes_)
        _raise_ml_opset(proto)
    return proto


def _options(model: Any) -> dict[int, dict[str, Any]]:
    """Return what skl2onnx is to do otherwise than by default, by the identity of the estimator."""
    options: dict[int, dict[str, Any]] = {}
    for step, one in steps_of(model):
        if type(one).__name__ in ("StandardScaler", "RobustScaler", "MaxAbsScaler"):
            # The default multiplies by the inverse: the last bit differs, and a tree splits at the very values it saw.
            options[id(one)] = {"div": "div"}
        elif isinstance(one, CountVectorizer):
            options[id(one)] = text_options(step, one)
    if is_classifier(model):
        last = model.steps[-1][1] if hasattr(model, "steps") else model
        # LinearSVC gives tensors by itself, and takes no such option.
        options[id(last)] = {"nocl": False} if type(last).__name__ == "LinearSVC" else {"zipmap": False}
    return options


def text_options(step: str, vectorizer: Any) -> dict[str, Any]:
    """Return the options that make onnxruntime cut text as this CountVectorizer or TfidfVectorizer does.

    Its regular expressions are RE2, where \\w is ASCII; its locale has to be installed where it runs, and only "C" is
    everywhere: it changes no other letters than ASCII, which is enough for an ASCII vocabulary.
    """
    if vectorizer.stop_words is not None and vectorizer.ngram_range[1] > 1:
        raise Failed(
            f"step '{step}' ({type(vectorizer).__name__}) has stop words and n-grams, which skl2onnx cannot convert",
            "use one of them",
            "GateFailed",
        )
    options: dict[str, Any] = {}
    if vectorizer.lowercase:
        options["locale"] = "C" if all(term.isascii() for term in vectorizer.vocabulary_) else "C.UTF-8"
    if vectorizer.analyzer == "word":
        pattern = vectorizer.token_pattern.removeprefix("(?u)")
        if re.search(r"\(\?[=!<]|\\[1-9]", pattern):
            raise Failed(
                f"step '{step}' ({type(vectorizer).__name__}) has a token_pattern that looks around: {pattern}",
                "train it with a pattern that RE2 knows: no lookahead, no lookbehind, no backreference",
                "GateFailed",
            )
        plain = pattern.removeprefix(r"\b").removesuffix(r"\b")
        words = re.fullmatch(r"(\\w[+*]?(\{\d+,\d*\})?)+", plain) is not None
        options["tokenexp"] = (plain if words else pattern).replace(r"\w", r"[\pL\pN_]")
    return options


def _unknown(model: Any, exc: Exception) -> Failed:
    found = re.search(r"'<class '([\w.]+)'>'", str(exc))
    missing = found.group(1).rpartition(".")[2] if found else "?"
    return Failed(f"{_place(model, missing)} has no converter in skl2onnx {skl2onnx.__version__}", REMEDY, "GateFailed")


def _refused(model: Any, exc: Exception) -> Failed:
    """Return the error of a converter, with the step that it was working on."""
    operator = _operator(exc.__traceback__)
    place = _place(model, type(operator).__name__) if operator is not None else type(model).__name__
    reason = " ".join(str(exc).split())[:300] or type(exc).__name__
    return Failed(f"{place} cannot be converted: {reason}", REMEDY, "GateFailed")


def _operator(trace: TracebackType | None) -> Any:
    """Return the estimator of the innermost converter that was running."""
    found = None
    while trace is not None:
        local = trace.tb_frame.f_locals.get("operator")
        found = getattr(local, "raw_operator", None) or found
        trace = trace.tb_next
    return found


def _place(model: Any, class_name: str) -> str:
    step = next((name for name, one in steps_of(model) if type(one).__name__ == class_name), "")
    return f"step '{step}' ({class_name})" if step else class_name


def _register_boosters(model: Any) -> None:
    """Teach skl2onnx the XGBoost and LightGBM estimators that are steps of the model, by onnxmltools."""
    steps = [one for _, one in steps_of(model)]
    xgboost = [one for one in steps if type(one).__name__.startswith("XGB")]
    lightgbm = [one for one in steps if type(one).__name__.startswith("LGBM")]
    if xgboost:
        from skl_boosters import register_xgboost

        register_xgboost(xgboost)
    if lightgbm:
        from skl_boosters import register_lightgbm

        register_lightgbm(lightgbm)


def _repair_skl2onnx() -> None:
    """Mend three things of skl2onnx 1.20 that make trees wrong or impossible; to be dropped as they are fixed there.

    protobuf 7 takes no bool for an int, which HistGradientBoosting has in its nodes; its thresholds are rounded to
    float32 in either direction, where only down keeps `x <= threshold`; and no other tree of scikit-learn says where
    missing values go.
    """
    if getattr(tree_ensemble.add_node, "is_repaired", False):
        return
    add_node, make_node = tree_ensemble.add_node, _container.make_node

    def rounded_down(*args: Any, **kwargs: Any) -> None:
        kwargs["adjust_threshold_for_sklearn"] = True
        add_node(*args, **kwargs)

    def with_ints(*args: Any, **kwargs: Any) -> Any:
        return make_node(*args, **{name: _ints(value) for name, value in kwargs.items()})

    rounded_down.is_repaired = True  # type: ignore[attr-defined]
    tree_ensemble.add_node = rounded_down
    _container.make_node = with_ints
    _replace_everywhere("add_tree_to_attribute_pairs", _with_missing(tree_ensemble.add_tree_to_attribute_pairs))


def _ints(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    return [int(one) if isinstance(one, (bool, np.bool_)) else one for one in value]


def _with_missing(add_tree: Callable[..., None]) -> Callable[..., None]:
    def add(attributes: dict[str, list[Any]], is_classifier: bool, tree: Any, *args: Any, **kwargs: Any) -> None:
        start = len(attributes["nodes_nodeids"])
        add_tree(attributes, is_classifier, tree, *args, **kwargs)
        flags = getattr(tree, "missing_go_to_left", None)
        if flags is not None:
            attributes["nodes_missing_value_tracks_true"][start:] = [int(flag) for flag in flags[: tree.node_count]]

    return add


def _replace_everywhere(name: str, function: Callable[..., None]) -> None:
    for module_name, module in list(sys.modules.items()):
        if module_name.startswith("skl2onnx.") and hasattr(module, name):
            setattr(module, name, function)


def _sign_scores(graph: onnx.GraphProto, classes: Any) -> None:
    """Make the scores of two classes [-d, d], d being the decision function.

    The converters give one column or two, and onnxruntime 1.31 gives SVC's with a sign that differs from row to row;
    only the size is right. The sign is that of the label, by definition.
    """
    label, scores = (value.name for value in graph.output)
    kind, type_of = ("keys_strings", str) if classes.dtype.kind in "OUT" else ("keys_int64s", int)
    keys: dict[str, list[Any]] = {kind: [type_of(name) for name in classes]}
    for name, values in (("last_column", [-1]), ("one_column", [-1, 1])):
        graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
    for node in graph.node:
        node.output[:] = [f"{scores}_any" if name == scores else name for name in node.output]
    graph.node.extend(
        [
            helper.make_node("Gather", [f"{scores}_any", "last_column"], ["last_score"], axis=1),
            helper.make_node("Abs", ["last_score"], ["score_size"]),
            helper.make_node(
                "LabelEncoder", [label], ["signs"], domain="ai.onnx.ml", values_floats=[-1.0, 1.0], **keys
            ),
            helper.make_node("Reshape", ["signs", "one_column"], ["sign"]),
            helper.make_node("Mul", ["score_size", "sign"], ["decision"]),
            helper.make_node("Neg", ["decision"], ["other_decision"]),
            helper.make_node("Concat", ["other_decision", "decision"], [scores], axis=1),
        ]
    )
    dims = graph.output[1].type.tensor_type.shape.dim
    del dims[1:]
    dims.add(dim_value=2)


def _raise_ml_opset(proto: onnx.ModelProto) -> None:
    """Set the opset of ai.onnx.ml that was asked for: skl2onnx writes the oldest that its own nodes need."""
    for entry in list(proto.opset_import):
        if entry.domain == "ai.onnx.ml":
            proto.opset_import.remove(entry)
    proto.opset_import.append(helper.make_opsetid("ai.onnx.ml", OPSETS["ai.onnx.ml"]))


# running


def _predict(model: Any, columns: tuple[Column, ...], outputs: tuple[str, ...], feeds: Arrays) -> dict[str, Any]:
    first = columns[0]
    named = not (len(columns) == 1 and (first.name in ("x", "text") or first.width > 1))
    inputs = table(columns, feeds, named and hasattr(model, "feature_names_in_"))
    results = [_label(model.predict(inputs))] if outputs[0] == "label" else []
    if outputs[-1] != "label":
        results.append(_values(model, outputs[-1], inputs))
    return dict(zip(outputs, results, strict=True))


def _label(values: Any) -> Any:
    values = np.asarray(values)
    return values.astype(np.str_) if values.dtype.kind in "OUT" else values.astype(np.int64)


def _values(model: Any, output: str, inputs: Any) -> Any:
    if output == "probabilities":
        values = np.asarray(model.predict_proba(inputs))
    elif output == "scores":
        values = np.asarray(model.decision_function(inputs))
        if is_classifier(model) and values.ndim == 1:
            values = np.stack([-values, values], axis=1)
    else:
        values = model.predict(inputs) if output == "y" else model.transform(inputs)
        values = np.asarray(values.todense()) if hasattr(values, "todense") else np.asarray(values)
    values = values.astype(np.float32)
    return values.reshape(-1, 1) if values.ndim == 1 else values
