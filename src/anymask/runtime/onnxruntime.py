"""Graphs in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

from anymask.core.errors import ExportError, MissingExtraError
from anymask.runtime.segmenter import Arrays


class OnnxBackend:
    """One session a graph, opened when it is first needed. paths: graph → .onnx file."""

    def __init__(self, paths: dict[str, Path], num_threads: int | None = None) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingExtraError("ONNX Runtime comes with: pip install 'anymask[onnx]'") from error
        self._module = onnxruntime
        self._paths = paths
        self._options = onnxruntime.SessionOptions()
        self._options.log_severity_level = 3
        if num_threads:
            self._options.intra_op_num_threads = num_threads
        self._sessions: dict[str, onnxruntime.InferenceSession] = {}

    def run(self, graph: str, inputs: Arrays) -> Arrays:
        """Outputs by name."""
        session = self._session(graph)
        names = {i.name for i in session.get_inputs()}
        outputs = session.run(None, {name: value for name, value in inputs.items() if name in names})
        return dict(zip((o.name for o in session.get_outputs()), outputs))

    def _session(self, graph: str):  # type: ignore[no-untyped-def]
        if graph not in self._sessions:
            path = self._paths[graph]
            try:
                session = self._module.InferenceSession(path, self._options, providers=["CPUExecutionProvider"])
            except Exception as error:  # the runtime's own classes have no common root but this
                raise ExportError(f"ONNX Runtime cannot open {path}: {error}") from error
            self._sessions[graph] = session
        return self._sessions[graph]
