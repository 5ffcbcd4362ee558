"""Make and run TensorFlow models for the tests, by the Python of the source environment "tensorflow".

`python tensorflow_models.py tflite FOLDER` trains a small convolutional net and writes it as TFLite in several number
formats; `keras FOLDER` writes Keras files, SavedModels and a frozen graph; `stream MODEL IN.npz OUT.npz` runs a
streaming TFLite model on one frame after the other, its state inside.
"""

import json
import os
import shutil
import sys
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["KERAS_BACKEND"] = "tensorflow"

import h5py
import keras
import numpy as np
import tensorflow as tf
import tf_keras
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

FORMATS = ("float", "fp16", "dynamic", "int8", "uint8", "int16")


def pictures(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return noisy [count,16,16,1] pictures of a square in one of four corners, and the corners."""
    random = np.random.default_rng(0)
    corner = random.integers(0, 4, count)
    picture = random.normal(0, 0.3, (count, 16, 16, 1)).astype(np.float32)
    for one, place in zip(picture, corner, strict=True):
        one[2 + 8 * (place // 2) :][:4, 2 + 8 * (place % 2) :][:, :4] += 1
    return picture, corner


def trained() -> keras.Model:
    """Return a net with each of: Conv, depthwise Conv, Relu6, Add, pooling, sigmoid, Dense, softmax."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    image = keras.Input((16, 16, 1), name="image")
    x = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu6")(image)
    x = layers.ReLU()(layers.BatchNormalization()(layers.DepthwiseConv2D(3, padding="same")(x)))
    x = layers.Add()([layers.Conv2D(8, 1)(x), x])
    x = layers.Conv2D(16, 3, activation="sigmoid")(layers.MaxPooling2D(2)(x))
    x = layers.Dense(96, activation="relu")(layers.Flatten()(x))
    model = keras.Model(image, layers.Dense(4, activation="softmax", name="corner")(x))
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(*pictures(400), epochs=4, verbose=0)
    return model


def as_tflite(model: keras.Model, number_format: str) -> bytes:
    """Return the model as TFLite, calibrated on the pictures where the format needs it."""
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if number_format != "float":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if number_format == "fp16":
        converter.target_spec.supported_types = [tf.float16]
    if number_format in ("int8", "uint8", "int16"):
        converter.representative_dataset = lambda: ([one[None]] for one in pictures(60)[0])
        wide = tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        converter.target_spec.supported_ops = [
            wide if number_format == "int16" else tf.lite.OpsSet.TFLITE_BUILTINS_INT8
        ]
        converter.inference_input_type = converter.inference_output_type = getattr(tf, number_format)
    return bytes(converter.convert())


def make_tflite(folder: Path) -> None:
    """Write `<format>.tflite` of each format, what the int8 file says of its tensors, and a model with odd state."""
    model = trained()
    for number_format in FORMATS:
        (folder / f"{number_format}.tflite").write_bytes(as_tflite(model, number_format))
    interpreter = tf.lite.Interpreter(str(folder / "int8.tflite"))
    encodings = [detail["quantization_parameters"] for detail in interpreter.get_tensor_details()]
    said = [[one["scales"].tolist(), one["zero_points"].tolist()] for one in encodings if len(one["scales"])]
    (folder / "int8.json").write_text(json.dumps(said))
    counter = Counter()
    tf.saved_model.save(counter, str(folder / "counter"), signatures=counter.__call__)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / "counter"))
    converter.experimental_enable_resource_variables = True
    (folder / "counter.tflite").write_bytes(converter.convert())


class Counter(tf.Module):
    """A model that assigns its state twice in one run, so that it has no one next value."""

    def __init__(self) -> None:
        super().__init__()
        self.state = tf.Variable(tf.zeros([1, 2]), name="state")

    @tf.function(input_signature=[tf.TensorSpec([1, 2], tf.float32, name="x")])
    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """Return [1, 2]."""
        self.state.assign_add(x)
        self.state.assign(self.state * 0.5)
        return self.state + x


class Acts(tf.Module):
    """A model that writes a file when it runs."""

    @tf.function(input_signature=[tf.TensorSpec([1], tf.float32, name="x")])
    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """Return [1]."""
        tf.io.write_file("written-by-the-model", "x")
        return x + 1.0


class Calls(tf.Module):
    """A model that calls Python when it runs."""

    @tf.function(input_signature=[tf.TensorSpec([1], tf.float32, name="x")])
    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """Return [1]."""
        return tf.ensure_shape(tf.numpy_function(np.negative, [x], tf.float32), [1])


def make_keras(folder: Path) -> None:
    """Write the net in every form that Keras and TensorFlow have, recurrent nets, and models that hold code."""
    model = trained()
    model.save(folder / "net.keras")
    model.save(folder / "net.h5")
    shutil.copy(folder / "net.h5", folder / "linked.h5")
    with h5py.File(folder / "linked.h5", "a") as file:
        file["model_weights/outside"] = h5py.ExternalLink("/etc/passwd", "/")
    model.save_weights(folder / "only.weights.h5")
    model.export(str(folder / "net"), verbose=False)
    function = tf.function(lambda image: model(image, training=False))
    frozen = convert_variables_to_constants_v2(
        function.get_concrete_function(tf.TensorSpec([None, 16, 16, 1], tf.float32, name="image"))
    )
    (folder / "net.pb").write_bytes(frozen.graph.as_graph_def().SerializeToString())
    old = tf_keras.Sequential(
        [tf_keras.layers.Dense(3, "swish", input_shape=(5,)), tf_keras.layers.LayerNormalization()]
    )
    old.save(folder / "keras2.h5")
    sequence, extra = keras.Input((7, 5), name="sequence"), keras.Input((3,), name="extra")
    hidden = keras.layers.Bidirectional(keras.layers.GRU(4))(keras.layers.LSTM(6, return_sequences=True)(sequence))
    score = keras.layers.Dense(2)(keras.layers.Concatenate()([hidden, extra]))
    keras.Model({"sequence": sequence, "extra": extra}, {"score": score, "hidden": hidden}).save(folder / "rnn.keras")
    for suffix, lib in (("keras", keras), ("h5", keras), ("2.keras", tf_keras), ("2.h5", tf_keras)):
        x = lib.Input((4,))
        # Only built-in names are there when a file's code is loaded.
        layer = lib.layers.Lambda(lambda t: (open("written-by-the-model", "w").close(), t * 2)[1], name="double")  # noqa: PTH123
        lib.Model(x, layer(x)).save(folder / f"lambda.{suffix}")
    for name, module in (("acts", Acts()), ("calls", Calls())):
        tf.saved_model.save(module, str(folder / name), signatures=module.__call__)


def stream(model: Path, frames: Path, out: Path) -> None:
    """Feed the frames, [n, ...], one by one; write for each the output and, in the order of their bytes, the states."""
    interpreter = tf.lite.Interpreter(str(model), experimental_preserve_all_tensors=True)
    interpreter.allocate_tensors()
    (entry,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
    states = [op["inputs"][1] for op in interpreter._get_ops_details() if op["op_name"] == "ASSIGN_VARIABLE"]
    found = {}
    for number, frame in enumerate(np.load(frames)["frames"]):
        interpreter.set_tensor(entry["index"], frame)
        interpreter.invoke()
        arrays = sorted(interpreter.get_tensor(place).tobytes() for place in states)
        found[f"{number}"] = np.frombuffer(
            interpreter.get_tensor(result["index"]).tobytes() + b"".join(arrays), np.uint8
        )
    np.savez(out, **found)


if __name__ == "__main__":
    verb, *paths = sys.argv[1:]
    {"tflite": make_tflite, "keras": make_keras, "stream": stream}[verb](*map(Path, paths))
