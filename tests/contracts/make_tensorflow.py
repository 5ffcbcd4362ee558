"""Write TensorFlow and TFLite models into the folder that is named: `python make_tensorflow.py FOLDER`."""

import sys
from pathlib import Path

import tensorflow as tf


class Unknown(tf.Module):
    """A regularised incomplete beta integral, which ONNX has no operator for, in the scope `head`."""

    @tf.function(input_signature=[tf.TensorSpec([1, 8], tf.float32, name="x")])
    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """Return [1, 8]."""
        with tf.name_scope("head"):
            return tf.math.betainc(x, x + 1.0, tf.sigmoid(x))


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    module = Unknown()
    tf.saved_model.save(module, str(folder / "unknown_saved_model"), signatures=module.__call__)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / "unknown_saved_model"))
    converter.allow_custom_ops = True
    (folder / "unknown.tflite").write_bytes(converter.convert())
