"""Configured loading: quantization, attention, devices and adapters of one model, refused before weights are read."""
