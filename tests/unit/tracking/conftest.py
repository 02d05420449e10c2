"""A store of MLflow of each test's own."""

from trackers import empty_store, mlflow_store

__all__ = ["empty_store", "mlflow_store"]
