"""Measuring artifacts: latency stage by stage, and the suite behind the figures that the project publishes."""
