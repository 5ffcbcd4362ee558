"""Train models on data that comes with scikit-learn: `python make_sklearn.py FOLDER` writes them there."""

import sys
from pathlib import Path

import joblib
import xgboost
from sklearn.datasets import load_digits
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    data, labels = load_digits(return_X_y=True)
    joblib.dump(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=200)).fit(data, labels), folder / "digits.joblib"
    )
    xgboost.XGBClassifier(n_estimators=10, max_depth=3).fit(data, labels).save_model(folder / "digits.json")
    joblib.dump(make_pipeline(StandardScaler(), KernelRidge()).fit(data[:100], labels[:100]), folder / "unknown.joblib")
