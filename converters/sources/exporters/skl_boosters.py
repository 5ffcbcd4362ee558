"""XGBoost and LightGBM models, alone or as a step of a pipeline, by onnxmltools.

onnxmltools 1.16 converts more than it converts rightly: only the objectives that were compared with their framework are
let through, everything else is refused by name.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from protocol import Failed
from skl_columns import Column
from skl_source import Arrays, Source

OPSET = 15
"""The newest that onnxmltools 1.16 writes."""

XGBOOST_VALUES = (
    "reg:squarederror",
    "reg:absoluteerror",
    "reg:pseudohubererror",
    "reg:squaredlogerror",
    "reg:gamma",
    "reg:tweedie",
    "count:poisson",
)
XGBOOST_RANKS = ("rank:pairwise", "rank:ndcg", "rank:map")
XGBOOST_CLASSES = ("binary:logistic", "multi:softprob", "multi:softmax")
LIGHTGBM_VALUES = (
    "regression",
    "regression_l1",
    "huber",
    "fair",
    "mape",
    "quantile",
    "poisson",
    "gamma",
    "tweedie",
    "lambdarank",
    "rank_xendcg",
)
LIGHTGBM_CLASSES = ("binary", "multiclass")
REMEDY = "train it with another one, or give the model as ONNX"


# XGBoost


def xgboost(model: Any) -> Source:
    """Return how to convert and run an XGBoost Booster or estimator."""
    import xgboost as library

    booster = _booster_of(model)
    objective = _xgboost_objective(booster)
    booster.feature_names = booster.feature_types = None
    width = booster.num_features()
    classes = objective in XGBOOST_CLASSES
    if objective == "multi:softmax":
        booster.set_param({"objective": "multi:softprob"})
    labels = _class_names(model, booster) if classes else None

    def predict(feeds: Arrays) -> dict[str, Any]:
        values = booster.predict(library.DMatrix(feeds["x"], missing=np.nan))
        return _classified(values) if classes else {"y": values.astype(np.float32).reshape(len(values), -1)}

    return Source(
        name=f"XGBoost {objective}",
        framework=f"xgboost {library.__version__}",
        columns=(Column("x", "float", width),),
        outputs=("label", "probabilities") if classes else ("y",),
        convert=lambda: _convert_xgboost(booster, objective, width),
        predict=predict,
        labels=labels,
    )


def _booster_of(model: Any) -> Any:
    """Return the Booster, cut to the best iteration where an estimator stopped early."""
    booster = model.get_booster() if hasattr(model, "get_booster") else model
    attributes = booster.attributes()
    is_estimator = booster is not model or "scikit_learn" in attributes
    if is_estimator and "best_iteration" in attributes:
        return booster[: int(attributes["best_iteration"]) + 1]
    return booster


def _xgboost_objective(booster: Any) -> str:
    learner = json.loads(booster.save_config())["learner"]
    kind = learner["gradient_booster"]["name"]
    if kind != "gbtree":
        raise Failed(f"the XGBoost model is a '{kind}', and only gbtree can be converted", REMEDY, "GateFailed")
    objective = str(learner["objective"]["name"])
    if objective not in (*XGBOOST_VALUES, *XGBOOST_RANKS, *XGBOOST_CLASSES):
        raise Failed(f"the XGBoost objective '{objective}' cannot be converted", REMEDY, "GateFailed")
    targets = int(learner["learner_model_param"].get("num_target", 1))
    if targets > 1:
        raise Failed(f"the XGBoost model has {targets} targets, and only one can be converted", REMEDY, "GateFailed")
    return objective


def _class_names(model: Any, booster: Any) -> tuple[str, ...]:
    classes = getattr(model, "classes_", None)
    if classes is not None:
        return tuple(str(name) for name in classes)
    learner = json.loads(booster.save_config())["learner"]
    return tuple(str(index) for index in range(max(int(learner["learner_model_param"]["num_class"]), 2)))


def _convert_xgboost(booster: Any, objective: str, width: int) -> Any:
    from onnxmltools import convert_xgboost
    from onnxmltools.convert.common.data_types import FloatTensorType

    if objective in XGBOOST_RANKS:
        booster = booster.copy()
        booster.set_param({"objective": "reg:squarederror"})  # a rank is the bare sum of the leaves, as this one is
    return convert_xgboost(booster, initial_types=[("x", FloatTensorType([None, width]))], target_opset=OPSET)


def register_xgboost(estimators: Sequence[Any]) -> None:
    """Let skl2onnx convert these estimators as steps; their feature names would confuse onnxmltools."""
    from onnxmltools.convert.xgboost.operator_converters.XGBoost import convert_xgboost
    from skl2onnx import update_registered_converter
    from skl2onnx.common.shape_calculator import (
        calculate_linear_classifier_output_shapes,
        calculate_linear_regressor_output_shapes,
    )

    for estimator in estimators:
        booster = estimator.get_booster()
        _xgboost_objective(booster)
        booster.feature_names = booster.feature_types = None
        classes = hasattr(estimator, "classes_")
        update_registered_converter(
            type(estimator),
            type(estimator).__name__,
            calculate_linear_classifier_output_shapes if classes else calculate_linear_regressor_output_shapes,
            convert_xgboost,
            options={"nocl": [True, False], "zipmap": [True, False, "columns"]} if classes else None,
        )


# LightGBM


def lightgbm(model: Any) -> Source:
    """Return how to convert and run a LightGBM Booster or estimator."""
    import lightgbm as library

    booster = getattr(model, "booster_", model)
    text = booster.model_to_string()
    objective = _lightgbm_objective(text)
    width = booster.num_feature()
    classes = objective in LIGHTGBM_CLASSES
    names = getattr(model, "classes_", range(max(booster.num_model_per_iteration(), 2))) if classes else None

    def predict(feeds: Arrays) -> dict[str, Any]:
        values = np.asarray(booster.predict(feeds["x"]), np.float32)
        return _classified(values) if classes else {"y": values.reshape(len(values), -1)}

    return Source(
        name=f"LightGBM {objective}",
        framework=f"lightgbm {library.__version__}",
        columns=(Column("x", "float", width),),
        outputs=("label", "probabilities") if classes else ("y",),
        convert=lambda: _convert_lightgbm(library.Booster(model_str=plain_text(text)), width),
        predict=predict,
        labels=None if names is None else tuple(str(name) for name in names),
    )


def _lightgbm_objective(text: str) -> str:
    """Return the objective of a model's text; Failed for what onnxmltools would convert wrongly."""
    found = re.search(r"^objective=(.*)$", text, re.MULTILINE)
    words = found.group(1).split() if found else ["none"]
    wrong = ""
    if words[0] not in (*LIGHTGBM_VALUES, *LIGHTGBM_CLASSES) or "sqrt" in words:
        wrong = f"the objective '{' '.join(words)}'"
    elif words[0] == "binary" and "sigmoid:1" not in words:
        wrong = f"a sigmoid other than 1 ('{' '.join(words)}')"
    elif re.search(r"^average_output$", text, re.MULTILINE):
        wrong = "random forests (boosting=rf)"
    elif re.search(r"^is_linear=1$", text, re.MULTILINE):
        wrong = "linear trees (linear_tree=true)"
    elif _zero_is_missing(text):
        wrong = "zero as a missing value (zero_as_missing=true)"
    if wrong:
        raise Failed(f"the LightGBM model uses {wrong}, which cannot be converted", REMEDY, "GateFailed")
    return words[0]


def _zero_is_missing(text: str) -> bool:
    """Return whether a split treats zero as missing: bits 2 and 3 of its decision type are 1."""
    for line in re.findall(r"^decision_type=(.*)$", text, re.MULTILINE):
        if any((int(word) >> 2) & 3 == 1 for word in line.split()):
            return True
    return False


def plain_text(text: str) -> str:
    """Return the model's text with thresholds that are float32, rounded down: `x <= t` stays what it is for float32 x.

    Objectives whose output is the bare sum, and that onnxmltools does not know, are called regression.
    """
    text = re.sub(r"^tree_sizes=.*\n", "", text, flags=re.MULTILINE)  # in bytes, which change with the thresholds
    text = re.sub(r"^objective=(?:mape|fair)\b.*$", "objective=regression", text, flags=re.MULTILINE)
    text = re.sub(r"^\[objective: (?:mape|fair)\]$", "[objective: regression]", text, flags=re.MULTILINE)
    return re.sub(r"^threshold=(.*)$", _rounded_down, text, flags=re.MULTILINE)


def _rounded_down(line: re.Match[str]) -> str:
    exact = np.array([float(word) for word in line.group(1).split()], np.float64)
    with np.errstate(over="ignore"):
        near = exact.astype(np.float32)
    down = np.where(near > exact, np.nextafter(near, np.float32(-np.inf)), near)
    return "threshold=" + " ".join(repr(float(value)) for value in down)


def _convert_lightgbm(booster: Any, width: int) -> Any:
    from onnxmltools import convert_lightgbm
    from onnxmltools.convert.common.data_types import FloatTensorType

    types = [("x", FloatTensorType([None, width]))]
    return convert_lightgbm(booster, initial_types=types, target_opset=OPSET, zipmap=False)


def register_lightgbm(estimators: Sequence[Any]) -> None:
    """Let skl2onnx convert these estimators as steps, with thresholds that are float32."""
    import lightgbm as library
    from onnxmltools.convert.lightgbm.operator_converters.LightGbm import convert_lightgbm
    from skl2onnx import update_registered_converter
    from skl2onnx.common.shape_calculator import (
        calculate_linear_classifier_output_shapes,
        calculate_linear_regressor_output_shapes,
    )

    for estimator in estimators:
        text = estimator.booster_.model_to_string()
        _lightgbm_objective(text)
        estimator._Booster = library.Booster(model_str=plain_text(text))
    update_registered_converter(
        library.LGBMClassifier,
        "LightGbmLGBMClassifier",
        calculate_linear_classifier_output_shapes,
        convert_lightgbm,
        options={"nocl": [True, False], "zipmap": [True, False, "columns"]},
    )
    for kind in (library.LGBMRegressor, library.LGBMRanker):
        update_registered_converter(
            kind, f"LightGbm{kind.__name__}", calculate_linear_regressor_output_shapes, convert_lightgbm
        )


def _classified(values: Any) -> dict[str, Any]:
    """Return label and probabilities from those of all classes, or from that of the second of two."""
    values = np.asarray(values, np.float32)
    if values.ndim == 1:
        values = np.stack([1 - values, values], axis=1)
    return {"label": values.argmax(axis=1).astype(np.int64), "probabilities": values}
