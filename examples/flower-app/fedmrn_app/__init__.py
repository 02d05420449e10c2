"""A Flower app: image classification with fedmrn, or with stock FedAvg to compare."""
