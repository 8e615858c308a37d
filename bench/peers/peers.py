"""The servers that Fugato is compared with, each started and stopped by its process id.

`Triton`, `PyTriton` and `Tonic` are used as `with Triton(repository, setting, scratch) as
server:`; `server.url` then answers inference requests, with Triton's system shared memory.
All listen on loopback only. `python peers.py` prints what each answers with, as a check
that they start here. Python 3.11 or 3.12, and the packages of requirements.txt.
"""

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SCRATCH = ROOT / ".fugato" / "peers"
START_S = 120
# Of Linux's sys/prctl.h.
PR_SET_CHILD_SUBREAPER = 36
# Below the load generator, which shares the cores and must send on time.
NICE = ["nice", "-n", "5"]


class Setting(NamedTuple):
    """How a server runs every model. What a server has no word for, it is not asked."""

    batch: int = 8
    threads: int = 1
    instances: int = 1
    delay_ms: int = 0
    refuse: bool = False
    point: str = "efficacy"

    def __str__(self):
        words = f"batch {self.batch}, threads {self.threads}, instances {self.instances}, delay {self.delay_ms} ms"
        words += ", refuses" if self.refuse else ""
        return words + (f", {self.point}" if self.point != "efficacy" else "")


class Failed(Exception):
    """A server did not start."""


def packages():
    """The folder of the peers' packages."""
    if sys.version_info[:2] not in ((3, 11), (3, 12)):
        raise Failed("bench/peers/requirements.txt has the packages of Python 3.11 and 3.12 only")
    sys.path.insert(0, str(ROOT / "scripts"))
    from install_packages import install

    return install("peers", HERE / "requirements.txt", ["--require-hashes"])


def environment():
    """A virtual environment over the packages, and the variables for it.

    Triton's Python backend embeds a Python that ignores PYTHONPATH and finds its packages
    only through the `python3` on its PATH. It is linked to libpython and to libraries that
    are in the wheel.
    """
    folder = packages()
    if not sysconfig.get_config_var("Py_ENABLE_SHARED"):
        raise Failed("this Python has no libpython.so, which Triton's Python backend is linked to")
    venv = SCRATCH / ("venv-" + folder.name)
    if not (venv / "ready").exists():
        shutil.rmtree(venv, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
        (site,) = venv.glob("lib/python3.*/site-packages")
        (site / "peers.pth").write_text(f"{folder}\n")
        (venv / "ready").touch()
    libraries = [folder / "nvidia_pytriton.libs", sysconfig.get_config_var("LIBDIR")]
    variables = dict(os.environ, PYTHONNOUSERSITE="1")
    variables["PATH"] = f"{venv / 'bin'}{os.pathsep}{variables['PATH']}"
    variables["LD_LIBRARY_PATH"] = os.pathsep.join(map(str, libraries))
    return folder, venv / "bin" / "python3", variables


def free_ports(count):
    """Ports that were free a moment ago; Triton cannot choose its own."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Server:
    """A process that serves `repository` while the `with` block runs."""

    name = ""

    def __init__(self, repository, setting, scratch):
        self.repository, self.setting, self.scratch = Path(repository), setting, Path(scratch)
        self.scratch.mkdir(parents=True, exist_ok=True)
        self.log = self.scratch / "log"

    def spawn(self, command, variables=None, **others):
        # What a server leaves behind becomes a child of this process, which can then end it.
        if ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
            raise Failed("the system cannot hand orphaned processes to this one")
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [*NICE, *map(str, command)], env=variables, stderr=log,
                stdout=others.get("stdout", log),
            )  # fmt: skip

    def wait_until(self, ready):
        until = time.monotonic() + START_S
        while not ready():
            if self.process.poll() is not None or time.monotonic() > until:
                self.__exit__()
                raise Failed(f"{self.name} did not start with {self.setting}:\n{self.log.read_text()[-4000:]}")
            time.sleep(0.05)
        return self

    def __exit__(self, *_):
        """Stops the process and what it started, and removes the shared memory they leave
        behind where they have to be killed."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        # Nothing else runs below this process by now; a dying server may still start some.
        while any([kill(pid) for pid in descendants(os.getpid())]):
            time.sleep(0.02)
        for region in Path("/dev/shm").glob(self.regions() + "*"):
            region.unlink(missing_ok=True)

    def regions(self):
        """How the names of the shared memory within the server begin."""
        return f"fugato-peer-{os.getpid()}-"

    def healthy(self):
        """Whether Triton's HTTP port says that each model is loaded."""
        names = (folder.name for folder in self.repository.iterdir())
        return all(answers(f"http://127.0.0.1:{self.http}/v2/models/{name}/ready") for name in names)


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=1) as reply:
            return reply.status == 200
    except (urllib.error.URLError, OSError):
        return False


def kill(pid):
    """Ends a process; gives whether it was still there."""
    try:
        os.kill(pid, signal.SIGKILL)
        if os.waitpid(pid, os.WNOHANG)[0] == pid:
            return True
    except ChildProcessError:
        # Its own parent has to wait for it, or this process once that one is gone.
        return True
    except ProcessLookupError:
        return False
    return True


def descendants(pid):
    """The processes below `pid`, its children's children included."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
    found, below = [], {pid}
    while below:
        below = {child for child, parent in parents.items() if parent in below}
        found += below
    return found


def described(repository):
    """The tensors of each model of a repository (see tensors.py), looked at once."""
    _, python, variables = environment()
    key = "-".join(sorted(folder.name for folder in Path(repository).iterdir() if folder.is_dir()))
    kept = SCRATCH / f"tensors-{key}.json"
    if not kept.exists():
        command = [python, HERE / "tensors.py", repository]
        done = subprocess.run(command, env=variables, capture_output=True, text=True)
        if done.returncode != 0:
            raise Failed(f"the models cannot be read:\n{done.stderr[-4000:]}")
        kept.write_text(done.stdout)
    return json.loads(kept.read_text())


class Triton(Server):
    """`tritonserver` with its Python backend around ONNX Runtime (triton_model.py)."""

    name = "triton"

    def __enter__(self):
        folder, _, variables = environment()
        triton = folder / "pytriton" / "tritonserver"
        models, backends = self.scratch / "models", self.scratch / "backends"
        shutil.rmtree(models, ignore_errors=True)
        for name, tensors in described(self.repository).items():
            (models / name / "1").mkdir(parents=True)
            (models / name / "config.pbtxt").write_text(self.config(name, tensors))
            shutil.copy(HERE / "triton_model.py", models / name / "1" / "model.py")
        if not backends.exists():
            # The backend looks for the stub of its Python in its own folder.
            shutil.copytree(triton / "backends" / "python", backends / "python")
            version = "{}.{}".format(*sys.version_info[:2])
            stub = triton / "python_backend_stubs" / version / "triton_python_backend_stub"
            shutil.copy(stub, backends / "python")
        self.http, grpc = free_ports(2)
        self.spawn([
            triton / "bin" / "tritonserver", f"--model-repository={models}",
            f"--backend-directory={backends}", "--allow-metrics=false", "--exit-timeout-secs=2",
            "--disable-auto-complete-config", "--http-address=127.0.0.1", "--grpc-address=127.0.0.1",
            f"--http-port={self.http}", f"--grpc-port={grpc}",
            f"--backend-config=python,shm-region-prefix-name={self.regions()}",
        ], variables)  # fmt: skip
        self.url = f"grpc://127.0.0.1:{grpc}"
        return self.wait_until(self.healthy)

    def config(self, name, tensors):
        def listed(kind):
            rows = (
                f'{kind} [{{ name: "{t["name"]}" data_type: TYPE_{t["type"]} dims: {t["dims"]} }}]\n'
                for t in tensors[f"{kind}s"]
            )
            return "".join(rows)

        batch, threads, instances, delay_ms = self.setting[:4]
        onnx = self.repository / name / "1" / "model.onnx"
        return (
            f'backend: "python"\nmax_batch_size: {batch}\n'
            + listed("input")
            + listed("output")
            + f"instance_group [{{ kind: KIND_CPU count: {instances} }}]\n"
            + f"dynamic_batching {{ max_queue_delay_microseconds: {delay_ms * 1000} }}\n"
            + f'parameters {{ key: "onnx" value {{ string_value: "{onnx}" }} }}\n'
            + f'parameters {{ key: "threads" value {{ string_value: "{threads}" }} }}\n'
        )


class PyTriton(Server):
    """pytriton: `tritonserver` whose models are callables of a Python process."""

    name = "pytriton"

    def __enter__(self):
        _, python, variables = environment()
        self.http, grpc = free_ports(2)
        batch, threads, instances, delay_ms = self.setting[:4]
        models = described(self.repository)
        for name, model in models.items():
            model["onnx"] = str(self.repository / name / "1" / "model.onnx")
        settings = {
            "models": models, "batch": batch, "threads": threads, "instances": instances,
            "delay_us": delay_ms * 1000, "http_port": self.http, "grpc_port": grpc,
        }  # fmt: skip
        file = self.scratch / "settings.json"
        file.write_text(json.dumps(settings))
        # Its workspace lies in the home folder otherwise.
        variables["PYTRITON_HOME"] = str(self.scratch / "home")
        self.spawn([python, HERE / "pytriton_server.py", file], variables)
        self.url = f"grpc://127.0.0.1:{grpc}"
        return self.wait_until(self.healthy)

    def regions(self):
        return f"pytrtion{self.process.pid}-"


class Tonic(Server):
    """The example `tonic_peer` of the crate fugato: a session per core, no batches."""

    name = "tonic"
    binary = ROOT / "target" / "release" / "examples" / "tonic_peer"

    def __enter__(self):
        cores = len(os.sched_getaffinity(0))
        command = [self.binary, "127.0.0.1:0", cores, self.repository]
        self.spawn(command, stdout=subprocess.PIPE)
        # It prints its address once every session is loaded.
        address = self.process.stdout.readline().decode().strip()
        self.url = f"grpc://{address}"
        return self.wait_until(lambda: address != "")
