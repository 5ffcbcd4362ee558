"""scikit-learn estimators and pipelines, XGBoost and LightGBM models.

A pickle runs code when it is read: it is refused unless the user trusts it. What a compressed one unpacks to is
measured before the exporter reads it.
"""

from pathlib import Path

from converters.sources import child
from converters.sources.archives import check_archive
from converters.sources.imported import Imported, Options
from edgert.errors import BadInput, UsageError

KIND = "sklearn"
SCRIPT = "export_sklearn.py"
ENVIRONMENTS = ("sklearn",)
PICKLES = (".joblib", ".pkl", ".pickle")
ZIP = b"PK\x03\x04"
HEAD_BYTES = 4096
LIGHTGBM_END = b"end of parameters"
TAIL_BYTES = 1 << 20
"""What follows the end: the values of pandas categories, in one line."""

NO_MODEL = "give a .joblib or .pkl of a fitted estimator, an XGBoost .json or .ubj, or a LightGBM .txt"


def matches(path: Path) -> bool:
    """Return whether the file's content is that of an XGBoost or LightGBM model, or its name that of a pickle."""
    if not path.is_file():
        return False
    head = _head(path)
    if path.suffix.lower() in PICKLES:
        return not head.startswith(ZIP)  # PyTorch's pickles are zip archives
    return is_xgboost(head) or is_lightgbm(head)


def is_xgboost(head: bytes) -> bool:
    """Return whether a file that starts like this is an XGBoost model, as JSON or as UBJSON."""
    return head.lstrip()[:1] == b"{" and b"learner" in head


def is_lightgbm(head: bytes) -> bool:
    """Return whether a file that starts like this is the text of a LightGBM model."""
    return head.startswith((b"tree\n", b"tree\r\n"))


def load(path: Path, options: Options) -> Imported:
    """Convert the model at `path`, or what `module:function` returns.

    Raises UsageError for a pickle that is not trusted, BadInput for a file that is damaged, unpacks to too much or is
    no such model, GateFailed for an estimator without a converter, MissingExtra.
    """
    if path.exists():
        _check(path, options.trust_pickle)
    elif ":" not in str(path):
        raise BadInput(f"there is no file '{path}'", NO_MODEL)
    return child.export(KIND, SCRIPT, ENVIRONMENTS, path, options)


def _check(path: Path, trusted: bool) -> None:
    if not path.is_file():
        raise BadInput(f"'{path}' is a folder, and a scikit-learn model is a file", NO_MODEL)
    head = _head(path)
    if not head:
        raise BadInput(f"'{path}' is empty", NO_MODEL)
    if is_xgboost(head):
        return
    if is_lightgbm(head):
        _check_whole(path)
        return
    if path.suffix.lower() not in PICKLES:
        raise BadInput(f"'{path}' is no XGBoost or LightGBM model, and no pickle by its name", NO_MODEL)
    if not trusted:
        raise UsageError(
            f"'{path}' is a pickle: reading it runs whatever code its author put into it",
            "give --trust-pickle if you know where it comes from; XGBoost .json and LightGBM .txt need no trust",
        )
    check_archive(path)


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(HEAD_BYTES)
    except OSError as exc:
        raise BadInput(f"'{path}' cannot be read: {exc.strerror}", "check the file's permissions") from exc


def _check_whole(path: Path) -> None:
    """Raise BadInput for the text of a LightGBM model without its end, which LightGBM itself would not miss."""
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - TAIL_BYTES, 0))
        if LIGHTGBM_END not in file.read():
            raise BadInput(f"'{path}' is cut off: it does not end as LightGBM models do", "copy the file again")
