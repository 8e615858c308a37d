"""Starts and stops the server under test, as a script of a user would."""

import contextlib
import json
import os
import signal
import subprocess
import time
import urllib.request
from pathlib import Path

import tritonclient.grpc as grpc
import tritonclient.http as http

ROOT = Path(__file__).resolve().parent.parent.parent
BINARY = Path(os.environ.get("FUGATO_BINARY", str(ROOT / "target" / "release" / "fugato")))
# What is made once and kept between runs: models and the model store.
KEPT = ROOT / ".fugato" / "acceptance"

# The zoo's models that are served. Those left out are larger or slower and add no sort of
# operator; the tests of the device run them, and test_zoo checks them.
ZOO = [
    "squeezenet1_1", "mobilenet_v2", "shufflenet_v2_x1_0", "densenet121", "resnet18", "resnet50",
    "googlenet", "vgg19", "bert-base", "bert-tiny", "identity",
]  # fmt: skip

# Loading the largest models for the first time optimises and writes 1 GB.
START_SECONDS = 300
STOP_SECONDS = 60
IDLE_SECONDS = 60


def run(*args):
    """Runs a command of the binary to its end; fails with what it said."""
    command = [str(BINARY)] + [str(arg) for arg in args]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=str(ROOT)
    )
    assert done.returncode == 0, "{} said:\n{}".format(" ".join(command), done.stdout)
    return done.stdout


class Server:
    """A running server. `grpc()` and `http()` make clients of it."""

    def __init__(self, repository, folder, config="", store=None, flags=()):
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "server.log"
        ready = folder / "ready.json"
        settings = folder / "fugato.toml"
        settings.write_text(config)
        command = [
            str(BINARY), "serve",
            "--model-repository", str(repository),
            "--model-store", str(store or KEPT / "store"),
            "--config", str(settings),
            "--http-port", "0", "--grpc-port", "0", "--metrics-port", "0",
            "--ready-file", str(ready),
        ]  # fmt: skip
        command.extend(flags)
        # What is measured in idle gaps is counted by the device, too.
        environment = dict(os.environ, FUGATO_PROFILE_ONLINE_SHARE="0")
        with open(str(self.log), "wb") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, cwd=str(ROOT), env=environment
            )
        self.addresses = self._wait_for(ready)

    def _wait_for(self, ready):
        limit = time.monotonic() + START_SECONDS
        while time.monotonic() < limit:
            if self.process.poll() is not None:
                raise AssertionError("the server ended:\n" + self.log.read_text())
            with contextlib.suppress(FileNotFoundError, ValueError):
                return json.loads(ready.read_text())
            time.sleep(0.02)
        self.process.kill()
        raise AssertionError("the server was not ready:\n" + self.log.read_text())

    def grpc(self):
        return grpc.InferenceServerClient(self.addresses["grpc"])

    def http(self, concurrency=1):
        return http.InferenceServerClient(
            self.addresses["http"], concurrency=concurrency, network_timeout=300.0
        )

    def wait_idle(self):
        """Waits until no task is on the device: what a client gave up may still run there."""
        limit = time.monotonic() + IDLE_SECONDS
        while self._tasks_in_flight():
            assert time.monotonic() < limit, "the server is still at work"
            time.sleep(0.02)

    def _tasks_in_flight(self):
        with urllib.request.urlopen(f"http://{self.addresses['metrics']}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("fugato_tasks_in_flight{"))

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    def wait(self):
        """Waits for the end and gives the exit code."""
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError("the server did not stop:\n" + self.log.read_text())

    def stop(self):
        self.terminate()
        code = self.wait()
        assert code == 0, "exit code {}:\n{}".format(code, self.log.read_text())
