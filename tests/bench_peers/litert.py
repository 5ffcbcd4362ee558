"""The engine "LiteRT": the TFLite file itself, with XNNPACK, which is what LiteRT does by default on a CPU."""

from importlib.metadata import version
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from tests.bench_peers.protocol import Arrays, Prepared, Task, serve


def prepare(task: Task) -> Prepared:
    """Open the file that `options` name; the samples' only input is the model's only input."""
    path = Path(task.options["tflite"])
    interpreter = Interpreter(model_path=str(path), num_threads=task.threads)
    interpreter.allocate_tensors()
    (given,) = interpreter.get_input_details()
    places = {detail["name"]: detail["index"] for detail in interpreter.get_output_details()}
    in_order = list(places.values())
    made = {name: places.get(name, in_order[number]) for number, name in enumerate(task.outputs)}

    def run(feeds: Arrays) -> dict[str, np.ndarray]:
        interpreter.set_tensor(given["index"], next(iter(feeds.values())))
        interpreter.invoke()
        return {name: interpreter.get_tensor(index) for name, index in made.items()}

    told = f"ai-edge-litert {version('ai-edge-litert')}; the original file, XNNPACK, {task.threads} threads"
    return Prepared(run, told, path.stat().st_size)


if __name__ == "__main__":
    serve(prepare)
