"""Graphs in OpenVINO."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from anymask.core.errors import ExportError, MissingExtraError
from anymask.model.precision import has_native_bf16, pick_device
from anymask.runtime.segmenter import Arrays


class OpenVinoBackend:
    """One compiled model a graph, compiled when it is first needed. paths: graph → .xml file.

    The decoder is two graphs, with and without a mask prompt: `decode_masked` lies beside `decode`.
    """

    def __init__(self, paths: dict[str, Path], num_threads: int | None = None, precision: str | None = None) -> None:
        """precision: "f32" or "bf16" inside the encoder; None: bf16 where the processor has it. The rest is float32."""
        try:
            import openvino
        except ImportError as error:
            raise MissingExtraError("OpenVINO comes with: pip install 'anymask[openvino]'") from error
        self._core = openvino.Core()
        self._paths = dict(paths)
        self._threads = num_threads
        self._precision = precision or ("bf16" if has_native_bf16(pick_device("cpu")) else "f32")
        self._compiled: dict[str, Any] = {}

    def run(self, graph: str, inputs: Arrays) -> Arrays:
        """Outputs by name."""
        if graph == "decode" and inputs["has_mask_input"][0] > 0:
            graph = "decode_masked"
        model = self._model(graph)
        names = {name for port in model.inputs for name in port.get_names()}
        results = model({name: value for name, value in inputs.items() if name in names}, share_outputs=False)
        return {port.get_any_name(): results[port] for port in model.outputs}

    def _model(self, graph: str) -> Any:
        if graph not in self._compiled:
            path = self._paths.get(graph) or self._paths["decode"].with_stem(graph)
            options = {"INFERENCE_PRECISION_HINT": self._precision if graph == "encoder" else "f32"}
            options["PERFORMANCE_HINT"] = "LATENCY"
            if self._threads:
                options["INFERENCE_NUM_THREADS"] = str(self._threads)
            try:
                self._compiled[graph] = self._core.compile_model(path, "CPU", options)
            except RuntimeError as error:
                raise ExportError(f"OpenVINO cannot open {path}: {error}") from error
        return self._compiled[graph]
