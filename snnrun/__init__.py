"""Config-driven experiments with directly trained spiking neural networks."""

__version__ = "0.1.0"
