"""One file per quantizer: float ONNX and calibration images in, Q/DQ ONNX out."""
