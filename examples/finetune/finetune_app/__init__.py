"""A Flower app: federated fine-tuning of a sentence transformer with fedmrn."""
