"""The model as ONNX and OpenVINO files, checked against torch before they are written."""
