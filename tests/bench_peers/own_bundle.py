"""The engine "edgert": a bundle that the converter wrote, run as a device runs it."""

import numpy as np

import edgert
from tests.bench_peers.protocol import Arrays, Prepared, Task, serve


def prepare(task: Task) -> Prepared:
    """Open the bundle that `options` name."""
    model = edgert.load(task.options["bundle"], threads=task.threads)

    def run(feeds: Arrays) -> dict[str, np.ndarray]:
        return model.run(feeds)

    return Prepared(run, f"edgert {edgert.__version__}; {task.options['told']}", task.options["bytes"])


if __name__ == "__main__":
    serve(prepare)
