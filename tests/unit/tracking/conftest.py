"""A store of MLflow of each test's own."""

from trackers import mlflow_store

__all__ = ["mlflow_store"]
