"""Trains the models of test_sklearn.py into a folder, from data that scikit-learn brings; run by a Python that has it.

Beside each model lies `<name>.npz`: what it is fed, by input name, in one batch, and the right classes as `labels`.
"""

import sys
from pathlib import Path

import joblib
import lightgbm
import numpy as np
import pandas
import sklearn.datasets
import xgboost
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestClassifier, VotingClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC

FOLDER = Path(sys.argv[1])
RANDOM = np.random.default_rng(0)


def with_holes(values):
    values = values.copy()
    values[RANDOM.random(values.shape) < 0.15] = np.nan
    return values


def save(name, model, labels=None, **feeds):
    joblib.dump(model, FOLDER / f"{name}.joblib", compress=3 if name == "digits" else 0)
    save_feeds(name, labels, **feeds)


def save_feeds(name, labels=None, **feeds):
    np.savez(FOLDER / f"{name}.npz", **feeds, **({} if labels is None else {"labels": labels}))


def data(name):
    values, labels = getattr(sklearn.datasets, f"load_{name}")(return_X_y=True)
    return values.astype(np.float32), labels


def thresholds(booster):
    """Return the numbers that a LightGBM model compares with."""
    lines = [line for line in booster.model_to_string().splitlines() if line.startswith("threshold=")]
    return np.array([float(word) for line in lines for word in line.removeprefix("threshold=").split()])


def rows_of(cuts):
    """Return rows whose values are `cuts` as float32: those rounded up lie above, and must stay so in the graph."""
    return np.repeat(cuts[:200].astype(np.float32)[:, None], diabetes.shape[1], axis=1)


digits, digit_of = data("digits")
train, test = slice(0, 1200), slice(1200, None)
wine, wine_of = data("wine")
cancer, cancer_of = data("breast_cancer")
diabetes, progress = data("diabetes")

save(
    "digits",
    make_pipeline(StandardScaler(), PCA(30), LogisticRegression()).fit(digits[train], digit_of[train]),
    labels=digit_of[test],
    x=digits[test],
)
named = np.array(["malignant", "benign"])[cancer_of]
save("two-classes", make_pipeline(StandardScaler(), SVC()).fit(cancer, named), x=cancer)
holes = with_holes(wine)
save("forest", RandomForestClassifier(20, random_state=0).fit(holes, wine_of), x=with_holes(wine))
boosted = HistGradientBoostingRegressor(max_iter=20).fit(with_holes(diabetes), progress)
cuts = np.concatenate([tree.nodes["num_threshold"] for trees in boosted._predictors for tree in trees])
save("boosted", boosted, x=np.concatenate([with_holes(diabetes), rows_of(cuts)]))
vote = [("linear", LogisticRegression()), ("trees", xgboost.XGBClassifier(n_estimators=5))]
save(
    "vote",
    Pipeline([("scale", StandardScaler()), ("vote", VotingClassifier(vote, voting="soft"))]).fit(wine, wine_of),
    x=wine,
)
step = lightgbm.LGBMRegressor(n_estimators=20, verbose=-1)
scaled = make_pipeline(StandardScaler(), step).fit(diabetes, progress)
near = rows_of(thresholds(step.booster_)) * scaled[0].scale_.astype(np.float32) + scaled[0].mean_.astype(np.float32)
ulps = np.arange(-12, 13, dtype=np.float32)[:, None, None] * np.spacing(near)
save("scaled-lightgbm", scaled, x=np.concatenate([with_holes(diabetes), *(near + ulps)]))

holes = with_holes(cancer)
matrix = xgboost.DMatrix(holes, cancer_of, feature_names=[f"feature {index}" for index in range(holes.shape[1])])
xgboost.train({"objective": "binary:logistic"}, matrix, 10).save_model(FOLDER / "xgboost-two.json")
save_feeds("xgboost-two", x=with_holes(cancer))
matrix = xgboost.DMatrix(with_holes(wine), wine_of)
softmax = xgboost.train({"objective": "multi:softmax", "num_class": 3}, matrix, 10)
softmax.save_model(FOLDER / "xgboost-three.ubj")
save_feeds("xgboost-three", x=with_holes(wine))
estimator = xgboost.XGBRegressor(n_estimators=40, early_stopping_rounds=2)
estimator.fit(diabetes[::2], progress[::2], eval_set=[(diabetes[1::2], progress[1::2])], verbose=False)
estimator.save_model(FOLDER / "xgboost-early.json")
save_feeds("xgboost-early", labels=estimator.predict(diabetes), x=diabetes)
parameters = {"objective": "multiclass", "num_class": 3, "verbose": -1, "min_data_in_leaf": 5}
classes = lightgbm.train(parameters, lightgbm.Dataset(with_holes(wine), wine_of), 10)
classes.save_model(FOLDER / "lightgbm-three.txt")
save_feeds("lightgbm-three", x=with_holes(wine))
values = lightgbm.train({"objective": "mape", "verbose": -1}, lightgbm.Dataset(diabetes, progress), 10)
values.save_model(FOLDER / "lightgbm-values.txt")
save_feeds("lightgbm-values", x=np.concatenate([diabetes, rows_of(thresholds(values))]))

rows = 400
table = pandas.DataFrame(
    {
        "age": RANDOM.normal(40, 10, rows).astype(np.float32),
        "city": RANDOM.choice(["Rome", "Paris", "Oslo", "São Paulo"], rows),
        "job of today": RANDOM.choice(["cook", "smith", "clerk"], rows),
        "children": RANDOM.integers(0, 4, rows),
        "unused": RANDOM.choice(["a", "b"], rows),
    }
)
table.loc[::7, "age"] = np.nan
answer = np.where((table["age"] > 40) ^ (table["city"] == "Rome"), "yes", "no")
prepare = ColumnTransformer(
    [
        ("numbers", Pipeline([("fill", SimpleImputer()), ("scale", StandardScaler())]), ["age"]),
        ("words", OneHotEncoder(handle_unknown="ignore"), ["city", "job of today", "children"]),
    ]
)
cities = np.array(table[["city"]], np.str_)
cities[:10] = "Atlantis"
save(
    "table",
    Pipeline([("prepare", prepare), ("forest", RandomForestClassifier(20, random_state=0))]).fit(table, answer),
    **{
        "age": table[["age"]].to_numpy(),
        "city": cities,
        "job of today": np.array(table[["job of today"]], np.str_),
        "children": table[["children"]].to_numpy(),
    },
)

texts, topics = [], []
for topic in ("iris", "wine_data", "breast_cancer", "diabetes", "digits"):
    for line in (Path(sklearn.datasets.__file__).parent / "descr" / f"{topic}.rst").read_text("utf-8").splitlines():
        if len(line.split()) > 3:
            texts.append(line.strip())
            topics.append(topic)
texts += ["Le café d'ÉTÉ est naïf", "a b c", "?!", "١٢ ٣٤"] * 4
topics += ["wine_data", "iris", "iris", "digits"] * 4
for name, vectorizer in {
    "text": TfidfVectorizer(ngram_range=(1, 2)),
    "text-refused": TfidfVectorizer(analyzer="char_wb"),
    "text-other": TfidfVectorizer(token_pattern=r"\d+"),
}.items():
    save(name, make_pipeline(vectorizer, LogisticRegression(C=10)).fit(texts, topics), text=np.array(texts)[:, None])
(FOLDER / "texts.txt").write_text("\n".join(texts), "utf-8")
(FOLDER / "digits.txt").write_text("\n".join(["١٢ ٣٤", "12 34", "1996 569"] * 3), "utf-8")  # \d of Python takes all

save("density", Pipeline([("scale", StandardScaler()), ("density", KernelDensity())]).fit(wine))
save("two-targets", RandomForestClassifier(3).fit(wine, np.stack([wine_of, wine_of % 2], axis=1)))
save("unfitted", StandardScaler())
joblib.dump({"weights": wine}, FOLDER / "dictionary.joblib")
hinge = xgboost.train({"objective": "binary:hinge"}, xgboost.DMatrix(cancer, cancer_of), 3)
hinge.save_model(FOLDER / "hinge.json")
entropy = lightgbm.train(
    {"objective": "binary", "boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.5, "verbose": -1},
    lightgbm.Dataset(cancer, cancer_of),
    3,
)
entropy.save_model(FOLDER / "forest.txt")
