"""Predictors: prepared images and covariates to the outputs of a bundle's graph, on the engine of the site.

Every predictor runs one instance at a time through a compiled graph, several in flight; on a GPU batches of
one size. A result then never depends on its neighbours: bulk scoring and HTTP give the same bits.

Legend: B instances, V views, Q covariate columns, H, W network view, h, w attention grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.deploy.bundle import ATTENTION, ONNX_NAME, WEIGHTS_NAME, read_facts
from engine.errors import BundleError, MissingDependencyError, UnknownNameError
from engine.evaluation.answer import Raw

_GPU_BATCH = 64

Images = NDArray[np.uint8]
Columns = NDArray[np.float32]
Shapes = Mapping[str, Sequence[int]]
"""Outputs of a graph by name, in their order: the shape of each for one instance."""


class Predictor(Protocol):
    """Images uint8 [B, V, H, W] and covariates float32 [B, Q] to the outputs that bundle.json names.

    An attention map comes as uint8 [B, h, w] of 0..255, all else as the graph gives it.
    """

    def predict(self, images_BVHW: Images, covariates_BQ: Columns) -> Raw:
        """Score B prepared instances; B may be 0."""
        ...


class OnnxRuntimePredictor:
    """ONNX Runtime on the CPU: the floor that runs everywhere."""

    def __init__(self, bundle: Path, *, threads: int) -> None:
        """Load the graph in ``bundle`` with ``threads`` intra-op threads."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._shapes: Shapes = read_facts(bundle)["outputs"]
        self._session = onnxruntime.InferenceSession(
            str(bundle / ONNX_NAME), options, providers=["CPUExecutionProvider"]
        )

    def predict(self, images_BVHW: Images, covariates_BQ: Columns) -> Raw:
        """See ``Predictor``."""
        feeds = (
            {"image": _network_input(image_VHW), "covariates": covariates_Q[None]}
            for image_VHW, covariates_Q in zip(images_BVHW, covariates_BQ, strict=True)
        )
        return _raw(self._shapes, [self._session.run(list(self._shapes), feed) for feed in feeds])


class OpenVinoPredictor:
    """OpenVINO on the CPU: the compiled engine of sites without a GPU. Computes in f32."""

    def __init__(self, bundle: Path, *, threads: int) -> None:
        """Compile the graph in ``bundle`` for this CPU with ``threads`` threads, one stream a thread.

        A single one is not pinned: each process would choose the same core, and leave the others idle.
        """
        import openvino

        core = openvino.Core()
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": str(threads),
            "NUM_STREAMS": str(threads),
            "ENABLE_CPU_PINNING": threads > 1,
        }
        model = core.read_model(bundle / ONNX_NAME)
        model.reshape({port: [1, *list(port.partial_shape)[1:]] for port in model.inputs})
        compiled = core.compile_model(model, "CPU", settings)
        self._shapes: Shapes = read_facts(bundle)["outputs"]
        self._requests = [compiled.create_infer_request() for _ in range(threads)]
        # OpenVINO makes its table of types at first use: two threads that do so at once wait for each other.
        self._requests[0].get_input_tensor(0).get_element_type().to_dtype()
        self._pool = ThreadPoolExecutor(threads)

    def predict(self, images_BVHW: Images, covariates_BQ: Columns) -> Raw:
        """See ``Predictor``."""
        outputs: list[Any] = [None] * len(images_BVHW)

        def answer(request: Any, share: NDArray[np.int64]) -> None:
            # Not through OpenVINO's queue: handing over each instance costs a third more of a core's time.
            for index in share:
                feed = {
                    "image": _network_input(images_BVHW[index]),
                    "covariates": covariates_BQ[index : index + 1],
                }
                request.infer(feed, share_inputs=True)
                outputs[index] = [request.get_tensor(name).data.copy() for name in self._shapes]

        shares = np.array_split(np.arange(len(images_BVHW)), len(self._requests))
        list(self._pool.map(answer, self._requests, shares))
        return _raw(self._shapes, outputs)


class TorchPredictor:
    """Plain torch on the CPU: the reference that compiled engines are held against."""

    def __init__(self, bundle: Path, *, threads: int) -> None:
        """Load the weights in ``bundle``; ``threads`` applies to the whole process."""
        import torch

        torch.set_num_threads(threads)
        self._graph, self._shapes = _torch_graph(bundle)

    def predict(self, images_BVHW: Images, covariates_BQ: Columns) -> Raw:
        """See ``Predictor``."""
        import torch

        outputs = []
        with torch.inference_mode():
            for image_VHW, covariates_Q in zip(images_BVHW, covariates_BQ, strict=True):
                image = torch.from_numpy(_network_input(image_VHW))
                parts = self._graph(image, torch.from_numpy(covariates_Q[None]))
                outputs.append([part.numpy() for part in parts])
        return _raw(self._shapes, outputs)


class CudaPredictor:
    """Torch on an NVIDIA GPU: one CUDA graph over a batch of fixed size, in f32 as on the CPU.

    Fewer instances are filled up with black ones: the graph's shape, and so each answer, stays the same.
    """

    def __init__(self, bundle: Path, *, threads: int) -> None:
        """Load the weights in ``bundle`` onto the current GPU; ``threads`` are those of torch on the CPU."""
        import torch

        from engine.models.network import channels_last

        torch.set_num_threads(threads)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # the parity gate
        torch.backends.cudnn.benchmark = False  # the same kernels in every process, so the same bits
        graph, self._shapes = _torch_graph(bundle)
        self._graph = channels_last(graph).cuda()
        self._replay: Callable[[Any, Any], list[Any]] | None = None

    def predict(self, images_BVHW: Images, covariates_BQ: Columns) -> Raw:
        """See ``Predictor``."""
        import torch

        if not len(images_BVHW):
            return _raw(self._shapes, [])
        if self._replay is None:
            self._replay = _recorded_on_gpu(self._graph, images_BVHW.shape[1:], covariates_BQ.shape[1])
        outputs = []
        for start in range(0, len(images_BVHW), _GPU_BATCH):
            part = slice(start, start + _GPU_BATCH)
            image, covariates = torch.from_numpy(images_BVHW[part]), torch.from_numpy(covariates_BQ[part])
            outputs.append(self._replay(image, covariates))
        return _raw(self._shapes, outputs)


def _torch_graph(bundle: Path) -> tuple[Any, Shapes]:
    """The graph that was exported, in torch, and its outputs."""
    from engine.models.network import load_model
    from engine.tasks import task_named

    facts = read_facts(bundle)
    learning = task_named(facts["task"]["name"]).learning()
    net = load_model(learning.network, facts["model"], bundle / WEIGHTS_NAME)
    return learning.deployed(net, facts["calibration"]).eval(), facts["outputs"]


def _recorded_on_gpu(graph: Any, size_VHW: tuple[int, ...], columns: int) -> Callable[[Any, Any], list[Any]]:
    """Record ``graph`` for batches of _GPU_BATCH; what comes back runs up to so many instances."""
    import torch

    pixels = torch.zeros(_GPU_BATCH, *size_VHW, dtype=torch.uint8, device="cuda")
    covariates = torch.zeros(_GPU_BATCH, columns, device="cuda")

    def run() -> Any:
        image = pixels.float().contiguous(memory_format=torch.channels_last) / 255
        return graph(image, covariates)

    recorded = torch.cuda.CUDAGraph()
    beside: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    beside.wait_stream(torch.cuda.current_stream())
    with torch.inference_mode():
        with torch.cuda.stream(beside):  # libraries choose their kernels before anything is recorded
            run()
        torch.cuda.current_stream().wait_stream(beside)
        with torch.cuda.graph(recorded):
            outputs = run()

    def replay(image_BVHW: Any, covariates_BQ: Any) -> list[Any]:
        count = len(image_BVHW)
        pixels[:count].copy_(image_BVHW)
        covariates[:count].copy_(covariates_BQ)
        pixels[count:].zero_()
        covariates[count:].zero_()
        recorded.replay()
        return [part[:count].cpu().numpy() for part in outputs]

    return replay


@dataclass(frozen=True, slots=True)
class Backend:
    """One serving engine: the package it needs, how to open a bundle with it, whether it needs a GPU."""

    package: str
    install: str
    open: Callable[..., Predictor]
    on_gpu: bool = False

    def installed(self) -> bool:
        """Whether its package is installed on this machine."""
        return find_spec(self.package) is not None

    def available(self) -> bool:
        """Whether it can run on this machine: a GPU is there where it needs one."""
        return self.installed() and (not self.on_gpu or _has_gpu())


def _has_gpu() -> bool:
    import torch

    return bool(torch.cuda.is_available())


PREDICTORS: dict[str, Backend] = {
    "openvino": Backend("openvino", "pip install 'osteoray[openvino]'", OpenVinoPredictor),
    "onnxruntime": Backend("onnxruntime", "pip install onnxruntime", OnnxRuntimePredictor),
    "torch": Backend("torch", "pip install torch", TorchPredictor),
    "cuda": Backend("torch", "pip install torch; it needs an NVIDIA GPU", CudaPredictor, on_gpu=True),
}
"""In order of preference: ``auto`` takes the first that is available."""


def gpus_of(engines: Iterable[str]) -> int:
    """GPUs of a process that opens these engines: 1 where one of them runs on a GPU, else 0."""
    return int(any(PREDICTORS[engine].on_gpu for engine in engines))


def choose_engine(name: str, *, here: bool = True) -> str:
    """``auto`` to the first available engine; a name to itself.

    A named engine that is to run elsewhere (not ``here``) needs no GPU on this machine.

    Raises:
        UnknownNameError: no such engine.
        MissingDependencyError: its package is not installed, or it would run here and there is no GPU.
    """
    if name == "auto":
        return next(key for key, backend in PREDICTORS.items() if backend.available())
    if name not in PREDICTORS:
        raise UnknownNameError("engine", name, [*PREDICTORS, "auto"])
    backend = PREDICTORS[name]
    if not (backend.available() if here else backend.installed()):
        raise MissingDependencyError(f"engine {name} cannot run on this machine: {backend.install}")
    return name


def open_predictor(bundle: Path, engine: str, *, threads: int) -> Predictor:
    """Open the student in the folder ``bundle`` on ``engine`` (a name in PREDICTORS, or ``auto``).

    Raises:
        UnknownNameError, MissingDependencyError: see ``choose_engine``.
        BundleError: the file is absent or the engine refuses it.
    """
    backend = PREDICTORS[choose_engine(engine)]
    try:
        return backend.open(bundle, threads=threads)
    except RuntimeError as error:
        raise BundleError(f"{bundle} cannot be opened by {engine}: {error}") from error


def _network_input(image_VHW: Images) -> Columns:
    return image_VHW[None].astype(np.float32) / np.float32(255)


def _raw(shapes: Shapes, outputs: Sequence[Sequence[Any]]) -> Raw:
    """The outputs of several passes as one; the attention map, in [0, 1], becomes uint8."""
    none = [[np.zeros((0, *shape), np.float32) for shape in shapes.values()]]
    parts = zip(*(outputs or none), strict=True)
    raw: dict[str, NDArray[Any]] = dict(zip(shapes, map(np.concatenate, parts), strict=True))
    if ATTENTION in raw:
        raw[ATTENTION] = np.rint(np.clip(raw[ATTENTION], 0, 1) * 255).astype(np.uint8)
    return raw
