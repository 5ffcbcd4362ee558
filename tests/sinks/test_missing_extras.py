"""Where the packages of an extra are not installed, a sink says which command installs them."""

import subprocess
import sys

import pytest

CODE = """
import sys
sys.modules[sys.argv[1]] = None
from edgert.errors import MissingExtra
from edgert.sinks.otel import OpenTelemetry
from edgert.sinks.prometheus import Prometheus
try:
    OpenTelemetry("http://127.0.0.1:1/v1/metrics") if sys.argv[1] == "opentelemetry" else Prometheus(None)
except MissingExtra as exc:
    print(exc.remedy)
"""


@pytest.mark.parametrize(("package", "extra"), [("prometheus_client", "prometheus"), ("opentelemetry", "otel")])
def test_sink_without_its_packages_names_the_extra(package, extra):
    """The files themselves can be imported; opening the sink is what fails."""
    done = subprocess.run([sys.executable, "-c", CODE, package], capture_output=True, text=True, check=True)
    assert done.stdout == f"pip install 'edgert[{extra}]'\n", done.stderr
